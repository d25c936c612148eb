"""The decode step computes what the plain model computes, for every family, position and batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from gptscratch.accelerate.decode_step import DecodeStep, accelerate_decoding, decoding_step
from gptscratch.accelerate.quantization import QUANTIZERS, quantize
from gptscratch.accelerate.training import accelerate_training
from gptscratch.accelerate.weight_packing import LARGE, join, pack, shared_copy
from gptscratch.config import ACTIVATIONS, POSITIONS, ModelConfig, SampleConfig
from gptscratch.generation.generate import generate_batch
from gptscratch.model.cache import KVCache
from gptscratch.model.gpt import GPT

GPT2 = {"norm": "layernorm", "activation": "gelu-tanh", "qk_norm": False, "bias": True, "n_kv_head": 4,
        "tie_embeddings": True}  # fmt: skip
GREEDY = SampleConfig(max_tokens=15, temperature=0)


def lively(**changes: object) -> GPT:
    torch.manual_seed(0)
    shape = {"vocab_size": 31, "context_length": 16, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32}
    model = GPT(ModelConfig(**shape | changes))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def step_of(model: GPT, *, large: int = LARGE) -> DecodeStep:
    """As ``decoding_step``, with matrices packed from another size on."""
    copied = shared_copy(model)
    join(copied)
    pack(copied, large=large)
    return DecodeStep(copied)


@torch.inference_mode()
def plain_and_fast(model: GPT, decoder: DecodeStep, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, T, V) of a whole context, the prompt's three tokens read by the model itself."""
    token_ids = torch.randint(31, (rows, 16), generator=torch.Generator().manual_seed(1))
    cache = KVCache(model.config, rows, dtype=model.token_embedding.weight.dtype)
    logits = [model(token_ids[:, :3], cache=cache)]
    logits += [decoder.step(token_ids[:, t], cache)[:, None] for t in range(3, 16)]
    return model(token_ids), torch.cat(logits, dim=1)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(
    "family",
    [{}, GPT2, {"n_kv_head": 1, "head_dim": 6}, {"rope_scaling": (8, 1, 4, 12)}],
    ids=["modern", "gpt2", "mqa", "llama3"],
)
def test_the_fast_path_equals_the_model(family: dict[str, object], position: str, rows: int) -> None:
    model = lively(position=position, **family)
    plain, fast = plain_and_fast(model, step_of(model), rows)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [{}, GPT2], ids=["modern", "gpt2"])
def test_packed_weights_give_the_same(family: dict[str, object]) -> None:
    model = lively(**family)
    for rows in (1, 3):
        plain, fast = plain_and_fast(model, step_of(model, large=0), rows)
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "head", [{"output_bias": True}, {"adaptive_cutoffs": (8, 20)}], ids=["bias", "adaptive"]
)
def test_every_head_is_the_models(head: dict[str, object]) -> None:
    model = lively(**head)
    torch.testing.assert_close(*plain_and_fast(model, step_of(model), 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_the_models(activation: str) -> None:
    model = lively(activation=activation, bias=True)
    torch.testing.assert_close(*plain_and_fast(model, step_of(model), 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [{}, GPT2], ids=["modern", "gpt2"])
@pytest.mark.parametrize("position", POSITIONS)
def test_greedy_text_is_identical_past_the_context_too(family: dict[str, object], position: str) -> None:
    model = lively(position=position, **family)

    def greedy(prompts: Sequence[Sequence[int]], decoder: DecodeStep | None) -> list[list[int | None]]:
        # Below the length from which on a decoder is made by itself, unless one is given.
        return list(generate_batch(model, prompts, GREEDY, decoder=decoder))

    for prompts in ([[1, 2, 3]], [[5] * 14], [[1, 2], [9, 3]], [[1], [4, 4, 8]], [[6, 2]] * 3):
        assert greedy(prompts, step_of(model)) == greedy(prompts, None)


@torch.inference_mode()
def test_bfloat16_is_as_near_to_the_truth_as_the_model_is() -> None:
    model = lively().bfloat16()
    plain, fast = plain_and_fast(model, step_of(model), 2)
    true, _ = plain_and_fast(model.float(), step_of(model), 2)
    assert (fast - true).norm() < 1.2 * (plain - true).norm()


@torch.inference_mode()
@pytest.mark.parametrize("large", [0, 1 << 18])
@pytest.mark.parametrize("family", [{}, GPT2], ids=["modern", "gpt2"])
def test_joined_and_packed_a_model_computes_as_before(family: dict[str, object], large: int) -> None:
    model = lively(**family)
    token_ids = torch.arange(10)[None]
    before = model(token_ids)
    joined = step_of(model, large=large).model
    torch.testing.assert_close(joined(token_ids), before, rtol=1e-5, atol=1e-5)
    assert model(token_ids).equal(before)
    assert joined.token_embedding.weight is model.token_embedding.weight


def test_a_model_in_training_is_left_to_itself() -> None:
    for make in (accelerate_decoding, decoding_step):
        assert make(lively()) is not None
        assert make(lively().train()) is None


@torch.inference_mode()
def test_a_decode_step_of_a_model_in_use_leaves_that_model_as_it_is() -> None:
    model = accelerate_training(lively().train()).eval()
    names = [(name, type(part)) for name, part in model.named_modules()]
    step = decoding_step(model)
    assert step is not None
    assert [(name, type(part)) for name, part in model.named_modules()] == names
    torch.testing.assert_close(*plain_and_fast(model, step, 2), rtol=1e-5, atol=1e-5)


MODES = [
    {},
    {"tie_embeddings": True},
    {"n_kv_head": 4},
    {"n_kv_head": 1},
    {"bias": True, "qk_norm": False},
    {"adaptive_cutoffs": (8, 20)},
    GPT2,
]


def modes(model: torch.nn.Module) -> set[bool]:
    """The modes of all its modules: {False} means that no dropout is active anywhere."""
    return {module.training for module in model.modules()}


@torch.inference_mode()
@pytest.mark.parametrize("family", MODES, ids=str)
def test_a_decode_step_of_a_model_with_dropout_computes_without_it(family: dict[str, object]) -> None:
    model = lively(dropout=0.5, **family)
    token_ids = torch.arange(10)[None]
    plain = model(token_ids)
    for large in (0, LARGE):
        decoder = step_of(model, large=large)
        assert modes(decoder.model) == {False}
        for _ in range(2):
            torch.testing.assert_close(decoder.model(token_ids), plain, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(*reversed(plain_and_fast(model, decoder, 2)), rtol=1e-4, atol=1e-4)


def test_joined_layers_of_a_model_in_training_keep_their_dropout() -> None:
    model = lively(dropout=0.5).train()
    join(model)
    assert modes(model) == {True}


@torch.inference_mode()
@pytest.mark.parametrize("how", [None, *QUANTIZERS])
def test_a_model_with_dropout_made_ready_for_sampling_has_no_dropout(how: str | None) -> None:
    model = lively(dropout=0.5, d_ff=64)
    token_ids = torch.arange(10)[None]
    reference = lively(d_ff=64)
    if how is not None:
        quantize(reference, how)
    assert accelerate_decoding(model, quantize=how) is not None
    assert modes(model) == {False}
    for _ in range(2):
        torch.testing.assert_close(model(token_ids), reference(token_ids), rtol=1e-5, atol=1e-5)


def test_greedy_text_of_a_model_with_dropout_is_that_of_the_plain_model() -> None:
    for tie in (False, True):
        model = lively(dropout=0.5, tie_embeddings=tie)
        plain = lively(dropout=0.0, tie_embeddings=tie)
        prompt = [1, 2, 3, 4, 5, 6]
        wanted = list(generate_batch(plain, [prompt], GREEDY))  # too few for a decoder of its own
        assert list(generate_batch(model, [prompt], GREEDY, decoder=step_of(model))) == wanted
        assert list(generate_batch(model, [prompt], replace(GREEDY, max_tokens=40)))[:15] == wanted
