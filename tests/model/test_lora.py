"""LoRA adapters: what they compute, what is trained, and the model after merging."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from gptscratch.accelerate.decode_step import decoding_step
from gptscratch.accelerate.training import accelerate_training
from gptscratch.config import ModelConfig, TrainConfig
from gptscratch.errors import ConfigError
from gptscratch.model.gpt import GPT
from gptscratch.model.lora import add_adapters, all_targets, merge, merged
from gptscratch.training.optimizer import make_optimizer
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.step import take_step

SHAPE: dict[str, Any] = {"vocab_size": 20, "context_length": 8, "n_layer": 2, "n_head": 4, "d_model": 32}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"n_kv_head": 2, "tie_embeddings": True},
    {"norm": "layernorm", "activation": "gelu", "bias": True, "position": "learned", "qk_norm": False},
]
IDS = torch.arange(16).view(2, 8)


def adapted(targets: tuple[str, ...] = (), *, dropout: float = 0.0, **shape: Any) -> GPT:
    """A model whose adapters change what it computes."""
    torch.manual_seed(0)
    model = GPT(ModelConfig(**SHAPE | shape))
    add_adapters(model, rank=3, alpha=6.0, targets=targets or all_targets(model), dropout=dropout)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b.weight"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def parameters_of(model: GPT) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_new_adapters_change_nothing() -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(**SHAPE))
    before = model(IDS)
    add_adapters(model, rank=3, alpha=6.0, targets=all_targets(model))
    assert torch.equal(model(IDS), before)


@pytest.mark.parametrize("shape", VARIANTS)
def test_a_merged_model_computes_the_same_without_adapters(shape: dict[str, Any]) -> None:
    model = adapted(**shape)
    plain = GPT(model.config)
    expected, base = model(IDS), parameters_of(model)
    assert_close(merged(model)(IDS), expected, atol=1e-5, rtol=0)
    assert parameters_of(model).keys() == base.keys()  # the model itself keeps its adapters
    merge(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert_close(model(IDS), expected, atol=1e-5, rtol=0)


def test_the_adapter_is_the_product_of_its_matrices_times_alpha_over_rank() -> None:
    model = adapted(("q",))
    layer = model.blocks[0].attention.q
    base, change = layer.weight, layer.lora_b.weight @ layer.lora_a.weight
    x = torch.randn(5, 32)
    assert_close(layer(x), x @ (base + 2.0 * change).T, atol=1e-5, rtol=0)
    assert not hasattr(model.blocks[0].attention.k, "lora_a")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_only_the_adapters_are_trained(optimizer: str, dtype: torch.dtype) -> None:
    model = adapted(dropout=0.1).train()
    before = parameters_of(model)
    replica = LowPrecisionReplica(accelerate_training(model), dtype)
    updates = make_optimizer(model, TrainConfig(optimizer=optimizer, learning_rate=0.01))
    ids = np.random.default_rng(0).integers(0, 20, (4, 9))
    losses = [
        take_step(
            replica, updates, ids[:, :-1], ids[:, 1:], micro_batch_size=3, grad_clip=1.0, lr_scale=1.0
        ).loss.item()
        for _ in range(12)
    ]  # fmt: skip
    changed = {name for name, p in parameters_of(model).items() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if "lora" in name}
    assert losses[-1] < losses[0]
    assert all("lora" in name for name in updates.state)


def test_the_kernels_for_decoding_leave_a_model_with_adapters_alone() -> None:
    """They read the weights of linear layers, and would lose the adapters without a word."""
    model = adapted()
    assert decoding_step(model) is None
    assert decoding_step(merged(model)) is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [({"targets": ("q", "gate")}, "no layer gate"), ({"targets": ("q",), "rank": 32}, "d_model, 32")],
)
def test_a_layer_that_is_missing_and_a_rank_that_is_too_large_are_refused(
    options: dict[str, Any], words: str
) -> None:
    model = GPT(ModelConfig(**SHAPE, activation="gelu"))
    with pytest.raises(ConfigError, match=words):
        add_adapters(model, **{"rank": 2, "alpha": 4.0} | options)
    assert all(parameter.requires_grad for parameter in model.parameters())
