"""LoRA: low-rank adapters for a finished model, applied from outside.

Hu et al. 2021 (arXiv:2106.09685): y = W x + alpha / R · B A x, where A and B are trained and W is fixed.
B starts at 0, so that the model computes at first what it did without adapters.

Shapes: ... any leading dimensions, K inputs, N outputs, R rank.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from gptscratch.config import TrainConfig
from gptscratch.errors import require
from gptscratch.model.gpt import GPT


class LoraLinear(nn.Linear):
    """A linear layer with an adapter; ``add_adapters`` makes it from a layer without one."""

    lora_dropout: nn.Dropout
    lora_a: nn.Linear
    lora_b: nn.Linear
    rank: int
    scale: float

    def forward(self, x: Tensor) -> Tensor:
        low: Tensor = self.lora_a(self.lora_dropout(x))  # (..., R)
        change: Tensor = self.lora_b(low)  # (..., N)
        return torch.add(super().forward(x), change, alpha=self.scale)


def add_adapters(
    model: GPT, *, rank: int, alpha: float, targets: Collection[str], dropout: float = 0.0
) -> None:
    """In place: adapters for the blocks' linear layers of these names; everything else is not trained.

    A and B are initialized as in PEFT: A uniform between -1/sqrt(K) and 1/sqrt(K), B with zeros.

    Raises:
        ConfigError: the model has no layer of a name, or the rank is not below its width.
    """
    width = model.config.d_model
    require(rank < width, f"--lora-rank is {rank}: it must be below the model's d_model, {width}.")
    layers = dict(_target_layers(model, targets))
    names = {name.rpartition(".")[2] for name in layers}
    missing = ", ".join(target for target in targets if target not in names)
    require(not missing, f"--lora-targets: this model has no layer {missing}.", f"Leave {missing} out.")
    model.requires_grad_(False)
    for layer in layers.values():
        place = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        layer.lora_dropout = nn.Dropout(dropout)
        layer.lora_a = nn.Linear(layer.in_features, rank, bias=False, **place)
        layer.lora_b = nn.Linear(rank, layer.out_features, bias=False, **place)
        nn.init.zeros_(layer.lora_b.weight)
        layer.__class__ = LoraLinear
        layer.rank, layer.scale = rank, alpha / rank  # type: ignore[assignment]


def add_adapters_of(model: GPT, config: TrainConfig) -> GPT:
    """``add_adapters`` by the settings of a run; without a rank the model stays as it is."""
    if config.lora_rank is not None:
        add_adapters(
            model,
            rank=config.lora_rank,
            alpha=config.lora_alpha or 2.0 * config.lora_rank,
            targets=config.lora_targets or all_targets(model),
            dropout=config.lora_dropout,
        )
    return model


def all_targets(model: GPT) -> list[str]:
    """The names of the linear layers in a block."""
    block = model.blocks[0].named_modules()
    return [name.rpartition(".")[2] for name, layer in block if isinstance(layer, nn.Linear)]


def has_adapters(model: nn.Module) -> bool:
    return any(isinstance(module, LoraLinear) for module in model.modules())


@torch.no_grad()
def merge(model: GPT) -> GPT:
    """In place: W + alpha / R · B A becomes the weight of each layer, and the adapters are gone."""
    for layer in [module for module in model.modules() if isinstance(module, LoraLinear)]:
        change = layer.scale * (layer.lora_b.weight.float() @ layer.lora_a.weight.float())  # (N, K)
        layer.weight = nn.Parameter((layer.weight.float() + change).to(layer.weight.dtype))
        del layer.lora_dropout, layer.lora_a, layer.lora_b, layer.rank, layer.scale
        layer.__class__ = nn.Linear  # type: ignore[assignment]
    return model


def merged(model: GPT) -> GPT:
    """A copy without adapters that computes the same; it shares all other parameters with the model."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return merge(copy.deepcopy(model, shared))


def _target_layers(model: GPT, targets: Collection[str]) -> Iterator[tuple[str, nn.Linear]]:
    for name, layer in model.blocks.named_modules():
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in targets:
            yield name, layer
