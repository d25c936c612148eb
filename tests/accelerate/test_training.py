"""The CPU's training kernels against their equations, in value and in every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gptscratch.accelerate import kernels, training
from gptscratch.accelerate.linear import has_fast_float32, has_onednn
from gptscratch.accelerate.training import FasterAttention, FasterDropout, accelerate_training
from gptscratch.accelerate.weight_packing import can_pack
from gptscratch.config import ModelConfig
from gptscratch.model.equations import attention, rms_norm
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import document_layout, document_numbers


def _random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def test_rms_norm_kernel_equals_its_equation() -> None:
    torch.manual_seed(0)
    x, weight = _random(3, 5, 16), _random(16)
    torch.testing.assert_close(kernels.rms_norm(x, weight, 1e-6), rms_norm(x, weight, 1e-6))


def test_rms_norm_kernel_has_the_right_gradient() -> None:
    torch.manual_seed(0)
    x, weight = _random(2, 3, 8), _random(8)
    assert torch.autograd.gradcheck(lambda x, w: kernels.rms_norm(x, w, 1e-6), (x, weight))


def test_causal_attention_kernel_equals_its_equation_over_several_blocks() -> None:
    torch.manual_seed(0)
    q, k, v = (_random(2, 3, 2 * kernels._BLOCK + 5, 4) for _ in range(3))
    torch.testing.assert_close(kernels.causal_attention(q, k, v), attention(q, k, v)[0])


def test_causal_attention_kernel_has_the_gradients_of_its_equation() -> None:
    torch.manual_seed(0)
    q, k, v = (_random(1, 2, kernels._BLOCK + 3, 4) for _ in range(3))
    grad = torch.randn_like(q)
    found = torch.autograd.grad(kernels.causal_attention(q, k, v), (q, k, v), grad)
    expected = torch.autograd.grad(attention(q, k, v)[0], (q, k, v), grad)
    torch.testing.assert_close(found, expected)


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, visible: Tensor | None = None) -> Tensor:
    """By an attention layer in training."""
    width = q.size(-1)
    layer = FasterAttention(
        width, 1, n_kv_head=1, head_dim=width, bias=False, dropout=dropout, qk_norm_eps=None
    )
    return layer.attend(q, k, v, visible)


def kernel_of(out: Tensor) -> str:
    return type(out.grad_fn).__name__


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_in_bfloat16_is_torchs_where_such_products_are_slow(
    dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    q = _random(1, 2, 8, 4, dtype=torch.bfloat16)
    for is_fast in (True, False):
        monkeypatch.setattr(training, "has_fast_bfloat16", lambda _, is_fast=is_fast: is_fast)
        found = attend(q, q, q, dropout)
        assert (kernel_of(found) == "_CausalAttentionBackward") == is_fast


def test_attention_in_bfloat16_is_near_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "has_fast_bfloat16", lambda _: True)
    torch.manual_seed(0)
    q, k, v = (_random(2, 2, 40, 16, dtype=torch.float32) for _ in range(3))
    narrow = (x.detach().bfloat16().requires_grad_() for x in (q, k, v))
    found = attend(*narrow)
    assert type(found.grad_fn).__name__ == "_CausalAttentionBackward"
    torch.testing.assert_close(found.float(), attention(q, k, v)[0], atol=0.03, rtol=0.03)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.999999])
def test_dropout_keeps_its_share_and_the_mean(p: float) -> None:
    torch.manual_seed(0)
    keep, scale = kernels.keep_mask(torch.Size((1000, 1001)), p)
    assert keep.double().mean().item() == pytest.approx(1 - p, abs=2e-3)
    assert scale == pytest.approx(1 / (1 - min(p, 1 - 2**-16)), rel=1e-4)


def test_elements_of_one_random_number_are_dropped_independently() -> None:
    torch.manual_seed(0)
    keep = kernels.keep_mask(torch.Size((100_000, 4)), 0.3)[0].double()
    assert (torch.corrcoef(keep.T) - torch.eye(4)).abs().max() < 0.02
    assert not torch.equal(keep, kernels.keep_mask(torch.Size((100_000, 4)), 0.3)[0].double())


def test_dropout_of_one_seed_is_always_the_same_and_its_gradient_goes_the_same_way() -> None:
    x = _random(7, 9)
    torch.manual_seed(3)
    first = kernels.dropout(x, 0.4)
    torch.manual_seed(3)
    keep, scale = kernels.keep_mask(x.shape, 0.4)
    torch.testing.assert_close(first, x * keep * scale)
    torch.testing.assert_close(torch.autograd.grad(first.sum(), x)[0], keep * scale * torch.ones_like(x))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_with_dropout_equals_its_equation_in_value_and_gradients(masked: bool) -> None:
    torch.manual_seed(0)
    length, p, block = kernels._BLOCK + 3, 0.25, kernels._BLOCK
    q, k, v = (_random(2, 2, length, 4) for _ in range(3))
    visible = torch.ones(length, length, dtype=torch.bool).tril()
    if masked:
        documents = (torch.rand(2, length) < 0.05).cumsum(1)[:, None]
        visible = visible & (documents[..., None] == documents[..., None, :])
    torch.manual_seed(1)
    found = kernels.causal_attention(q, k, v, visible if masked else None, p)
    torch.manual_seed(1)
    keep = torch.zeros(2, 2, length, length, dtype=torch.float64)
    for start, end in ((0, block), (block, length)):  # in the order in which the kernel draws
        kept, scale = kernels.keep_mask(torch.Size((4, end - start, end)), p)
        keep[:, :, start:end, :end] = kept.view(2, 2, end - start, end) * scale
    weights = attention(q, k, v, visible)[1]
    wanted = (weights * keep) @ v
    torch.testing.assert_close(found, wanted)
    grad = torch.randn_like(q)
    torch.testing.assert_close(
        torch.autograd.grad(found, (q, k, v), grad), torch.autograd.grad(wanted, (q, k, v), grad)
    )


@pytest.mark.parametrize("masked", [False, True])
def test_fewer_key_value_heads_with_dropout_are_repeated_for_the_kernel(masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = _random(2, 6, 20, 4), _random(2, 2, 20, 4), _random(2, 2, 20, 4)
    visible = torch.ones(2, 1, 20, 20, dtype=torch.bool).tril() if masked else None
    torch.manual_seed(1)
    found = attend(q, k, v, 0.25, visible)
    torch.manual_seed(1)
    wanted = attend(q, *(x[:, [0, 0, 0, 1, 1, 1]] for x in (k, v)), 0.25, visible)
    assert kernel_of(found) == "_CausalAttentionBackward"
    torch.testing.assert_close(found, wanted)
    grad = torch.randn_like(q)
    torch.testing.assert_close(
        torch.autograd.grad(found, (q, k, v), grad), torch.autograd.grad(wanted, (q, k, v), grad)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_with_dropout_is_trained_by_the_kernels(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "has_fast_bfloat16", lambda _: True)
    q, k, v = (_random(1, 2, 8, 4, dtype=dtype) for _ in range(3))
    found = attend(q, k, v, 0.1)
    assert type(found.grad_fn).__name__ == "_CausalAttentionBackward"
    drop = FasterDropout(0.5)
    torch.manual_seed(0)
    found = drop(q)
    torch.manual_seed(0)
    assert torch.equal(found, kernels.dropout(q, 0.5))
    assert torch.equal(drop.eval()(q), q)


def test_the_masked_kernel_equals_its_equation_over_several_blocks_in_value_and_gradients() -> None:
    torch.manual_seed(0)
    q, k, v = (_random(2, 3, 2 * kernels._BLOCK + 5, 4) for _ in range(3))
    visible = document_layout((torch.rand(2, q.size(2)) < 0.02).cumsum(1)).visible
    grad = torch.randn_like(q)
    found, wanted = kernels.causal_attention(q, k, v, visible), attention(q, k, v, visible)[0]
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, (q, k, v), grad), torch.autograd.grad(wanted, (q, k, v), grad)
    )


GPT2 = {
    "norm": "layernorm",
    "activation": "gelu-tanh",
    "qk_norm": False,
    "bias": True,
    "tie_embeddings": True,
}


@pytest.mark.parametrize("family", [{}, {"n_kv_head": 2}, GPT2, {"adaptive_cutoffs": (8, 20)}], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_an_accelerated_model_has_the_logits_and_gradients_of_the_plain_one(
    family: dict[str, object], masked: bool
) -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(vocab_size=31, n_layer=2, d_model=32, context_length=40, **family))  # type: ignore[arg-type]
    token_ids = torch.randint(31, (2, 40))
    layout = document_layout(document_numbers(token_ids, 0)) if masked else None

    def logits_and_gradients() -> tuple[Tensor, list[Tensor]]:
        logits = model(token_ids, layout=layout)
        return logits, list(torch.autograd.grad(logits.square().sum(), list(model.parameters())))

    plain = logits_and_gradients()
    names = list(model.state_dict())
    assert accelerate_training(model) is model
    assert any(isinstance(part, FasterAttention) for part in model.modules())
    assert list(model.state_dict()) == names
    for found, wanted in zip(logits_and_gradients(), plain, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_only_a_model_on_a_cpu_is_changed() -> None:
    with torch.device("meta"):
        model = accelerate_training(GPT(ModelConfig(n_layer=1)))
    assert not any(isinstance(part, FasterAttention) for part in model.modules())


def test_the_gradient_of_softmax_is_the_same_without_torchs_private_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights, grad = torch.randn(2, 3, 5).softmax(-1), torch.randn(2, 3, 5)
    found = kernels._softmax_backward(grad, weights)
    monkeypatch.delattr(torch, "_softmax_backward_data")
    torch.testing.assert_close(kernels._softmax_backward(grad, weights), found)


def test_without_onednn_torchs_own_functions_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_onednn("_no_such_operator")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack(torch.float32)
    assert not has_fast_float32.__wrapped__()
