"""Each written-out equation against an independent NumPy version and against torch's fused kernel."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptscratch.model import equations
from gptscratch.model.equations import attention, layer_norm, rms_norm, rotary
from gptscratch.model.layout import Layout
from gptscratch.model.mlp import ACTIVATIONS
from gptscratch.model.position import Rotary, alibi_slopes, rotary_angles, sinusoidal

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_layer_norm_is_its_equation():
    x, weight, bias = noise(3, 5), noise(5, seed=1), noise(5, seed=2)
    a = x.numpy()
    wanted = (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-3) * weight.numpy()
    for given, shifted in ((bias, wanted + bias.numpy()), (None, wanted)):
        np.testing.assert_allclose(layer_norm(x, weight, given, 1e-3).numpy(), shifted, **EXACT)
        np.testing.assert_allclose(F.layer_norm(x, (5,), weight, given, 1e-3).numpy(), shifted, **EXACT)


def test_rms_norm_is_its_equation():
    x, weight = noise(3, 5), noise(5, seed=1)
    a = x.numpy()
    wanted = a / np.sqrt((a**2).sum(-1, keepdims=True) / 5 + 1e-3) * weight.numpy()
    np.testing.assert_allclose(rms_norm(x, weight, 1e-3).numpy(), wanted, **EXACT)
    np.testing.assert_allclose(F.rms_norm(x, (5,), weight, 1e-3).numpy(), wanted, **EXACT)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("gelu", lambda v: v * 0.5 * math.erfc(-v / math.sqrt(2))),
        ("gelu-tanh", lambda v: v / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (v + 0.044715 * v * v * v)))),
        ("relu", lambda v: max(v, 0.0)),
        ("relu2", lambda v: max(v, 0.0) ** 2),
    ],
)
def test_activation_is_its_equation(name, formula):
    x = 3 * noise(50)
    wanted = [formula(v) for v in x.tolist()]
    np.testing.assert_allclose(equations.ACTIVATIONS[name](x).numpy(), wanted, **EXACT)
    np.testing.assert_allclose(ACTIVATIONS[name](x).numpy(), wanted, **EXACT)


def test_attention_is_its_equation_token_by_token():
    q, k, v = noise(2, 4, 5, 6), noise(2, 2, 5, 6, seed=1), noise(2, 2, 5, 6, seed=2)
    out, weights = attention(q, k, v)
    for b, h, t in np.ndindex(2, 4, 5):
        group = h // 2  # four query heads share two key-value heads, adjacent ones
        scores = [q[b, h, t].numpy() @ k[b, group, s].numpy() / math.sqrt(6) for s in range(t + 1)]
        share = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(weights[b, h, t], np.append(share, [0.0] * (4 - t)), **EXACT)
        np.testing.assert_allclose(out[b, h, t], share @ v[b, group, : t + 1].numpy(), **EXACT)


def test_attention_of_the_last_queries_is_the_end_of_the_whole():
    q, k, v = (noise(1, 2, 7, 4, seed=seed) for seed in range(3))
    torch.testing.assert_close(attention(q[:, :, 4:], k, v)[0], attention(q, k, v)[0][:, :, 4:], **EXACT)


def test_attention_takes_a_mask_or_numbers_as_bias():
    q, k, v = (noise(1, 2, 4, 6, seed=seed) for seed in range(3))
    visible = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1]], dtype=torch.bool)
    numbers = torch.zeros(4, 4, dtype=torch.float64).masked_fill(~visible, -math.inf)
    for bias in (visible, numbers, numbers + noise(2, 4, 4, seed=3)):
        wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        torch.testing.assert_close(attention(q, k, v, bias)[0], wanted, **EXACT)


def test_sinusoidal_is_the_formula_of_the_paper():
    table = sinusoidal(torch.arange(50, dtype=torch.float64)[None], 8)[0]
    for position, i in np.ndindex(50, 4):
        angle = position / 10_000 ** (2 * i / 8)
        wanted = [math.sin(angle), math.cos(angle)]
        np.testing.assert_allclose(table[position, 2 * i : 2 * i + 2], wanted, **EXACT)


def test_rotary_is_a_product_of_complex_numbers():
    x, positions = noise(2, 9, 3, 8), torch.arange(9, dtype=torch.float64)[None]
    a = x.numpy()
    waves = 500.0 ** (-np.arange(4) / 4)
    turned = (a[..., :4] + 1j * a[..., 4:]) * np.exp(1j * np.arange(9)[:, None, None] * waves)
    wanted = np.concatenate((turned.real, turned.imag), axis=-1)
    np.testing.assert_allclose(rotary(x, rotary_angles(positions, 8, 500.0)).numpy(), wanted, **EXACT)
    rotate = rotation(8, 500.0, positions, torch.float64)
    np.testing.assert_allclose(rotate(x).numpy(), wanted, **EXACT)


def rotation(head_dim, theta, positions, dtype):
    return Rotary(head_dim, theta).rotation(Layout(positions, positions, None), dtype)


def test_rotary_scores_depend_on_the_distance_alone():
    q, k = noise(1, 1, 1, 16), noise(1, 1, 1, 16, seed=1)

    def score(at_q, at_k):
        ends = [torch.full((1, 1), float(at), dtype=torch.float64) for at in (at_q, at_k)]
        turned = [rotary(x, rotary_angles(at, 16, 1e4)) for x, at in zip((q, k), ends, strict=True)]
        return (turned[0] * turned[1]).sum().item()

    assert score(7, 3) == pytest.approx(score(1007, 1003), abs=1e-9)
    assert score(7, 3) != pytest.approx(score(8, 3), abs=1e-3)
    assert score(7, 3) != pytest.approx(score(3, 7), abs=1e-3)


def test_scaled_frequencies_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = transformers.LlamaConfig(
        hidden_size=64, num_attention_heads=1, max_position_embeddings=1024,
        rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, "original_max_position_embeddings": 128}
        | scaling,
    )  # fmt: skip
    wanted, _ = rope.ROPE_INIT_FUNCTIONS["llama3"](config)
    plain, found = (rotary_angles(torch.ones(1, 1), 64, 5e5, more)[0, 0] for more in ((), (8, 1, 4, 128)))
    torch.testing.assert_close(found, wanted)
    assert 0 < (found == plain).sum() < len(plain)  # high frequencies stay as they are


def test_rotary_angles_stay_exact_in_bfloat16():
    positions = torch.tensor([[1001]])
    x = noise(1, 1, 1, 8)
    exact = rotation(8, 1e4, positions, torch.float64)(x)
    coarse = rotation(8, 1e4, positions, torch.bfloat16)(x.bfloat16())
    assert coarse.dtype == torch.bfloat16
    torch.testing.assert_close(coarse.double(), exact, rtol=0.03, atol=0.03)


@pytest.mark.parametrize(
    ("n_head", "exponents"),
    [
        (1, [8]),
        (2, [4, 8]),
        (3, [4, 8, 2]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
    ],
)
def test_alibi_slopes_are_those_of_the_paper(n_head, exponents):
    torch.testing.assert_close(alibi_slopes(n_head), torch.tensor([2.0**-e for e in exponents]))
