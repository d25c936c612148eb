"""Quantized weights: near the originals, in every shape, and refused where there is no kernel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gptscratch.accelerate.quantization import QUANTIZERS, quantize, quantized, slower_notice
from gptscratch.config import ModelConfig
from gptscratch.errors import ConfigError
from gptscratch.generation.generator import Generator
from gptscratch.model.gpt import GPT

WORST = {"float16": 1e-3, "int8": 0.02, "int4": 0.12}  # relative error of a product of normal numbers


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("how", QUANTIZERS)
@pytest.mark.parametrize("shape", [(64, 48), (96, 67), (352, 128), (40, 16)])
def test_products_stay_near(how: str, shape: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(*shape, bias=bias)
    x = torch.randn(5, 3, shape[0])
    with torch.inference_mode():
        found, wanted = quantized(linear, how)(x), linear(x)
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    assert ((found - wanted).norm() / wanted.norm()).item() < WORST[how]


@pytest.mark.parametrize("how", QUANTIZERS)
@pytest.mark.parametrize("tie", [True, False])
def test_every_linear_layer_of_a_model_is_replaced_and_logits_stay_near(how: str, tie: bool) -> None:
    torch.manual_seed(0)
    model = GPT(
        ModelConfig(vocab_size=67, d_model=64, tie_embeddings=tie, activation="gelu", bias=True)
    ).eval()
    token_ids = torch.randint(67, (2, 20))
    with torch.inference_mode():
        wanted = model(token_ids)
        quantize(model, how)
        assert not [m for m in model.modules() if isinstance(m, nn.Linear)]
        found = model(token_ids)
    assert ((found - wanted).norm() / wanted.norm()).item() < 2 * WORST[how]


@pytest.mark.parametrize("how", QUANTIZERS)
def test_a_quantized_model_recites_as_before_alone_and_in_a_batch(how: str, reciter: object) -> None:
    gpt: Generator = reciter("abcdefgh")  # type: ignore[operator]
    plain = gpt.generate("a", max_tokens=40, temperature=0)
    assert gpt.accelerated(quantize=how).generate("a", max_tokens=40, temperature=0) == plain


def test_missing_kernels_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "quantize_per_channel")
    with pytest.raises(ConfigError, match="no int8 kernels"):
        quantize(GPT(ModelConfig(n_layer=1)), "int8")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="float16, int8, int4"):
        quantize(nn.Linear(4, 4), "int2")


@pytest.mark.parametrize("how", QUANTIZERS)
def test_a_notice_says_where_smaller_weights_are_slower(how: str) -> None:
    small = GPT(ModelConfig(vocab_size=67, n_layer=2, n_head=2, d_model=64))
    with torch.device("meta"):
        large = GPT(ModelConfig(vocab_size=4096, n_layer=6, n_head=6, d_model=384))
    assert slower_notice(small, how, reads_text=False) is not None
    assert slower_notice(large, how, reads_text=False) is None
    assert (slower_notice(large, how, reads_text=True) is None) == (how != "int4")


@pytest.mark.parametrize("how", QUANTIZERS)
def test_an_adaptive_head_can_be_quantized(how: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=60, d_model=32, n_layer=1, n_head=2, adaptive_cutoffs=(10, 25))
    model, ids = GPT(config).eval(), torch.randint(60, (1, 9))
    for parameter in model.lm_head.parameters():
        nn.init.normal_(parameter)
    with torch.no_grad():
        wanted = model(ids)
        quantize(model, how)
        found = model(ids)
    assert ((found - wanted).norm() / wanted.norm()).item() < 2 * WORST[how]
