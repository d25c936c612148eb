"""LoRA adapters in the format of PEFT, with the model that they belong to in the folder ``base``.

GPT-2 has queries, keys and values as one layer. Their adapters become one of a larger rank, whose B is zero
except for the block of each.

Shapes: K inputs, N outputs, R rank.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gptscratch.errors import require
from gptscratch.files import write_json
from gptscratch.interop import hf_export
from gptscratch.interop.hf_names import parameter_pairs
from gptscratch.interop.source import Source
from gptscratch.model.gpt import GPT
from gptscratch.model.lora import LoraLinear
from gptscratch.runs.checkpoint import load_model
from gptscratch.runs.tensors import save_tensors


def architecture(source: Source) -> str:
    """The name of the class in transformers.

    Raises:
        ConfigError: the run has no adapters, or as ``config_to_hf``.
    """
    require(
        source.record.base is not None,
        f"{source.name} has no adapters: --format peft is for runs that were trained with --lora-rank.",
        "Take --format hf.",
    )
    return hf_export.architecture(source)


def write(source: Source, folder: Path, dtype: str) -> None:
    """adapter_config.json and adapter_model.safetensors, and the folder ``base`` as ``hf_export`` writes it.

    Raises:
        ConfigError, OSError: as ``hf_export.write``.
    """
    adapted = _Adapted(source.tokenizer, source.record, source.run, source.checkpoint)
    (folder / "base").mkdir()
    hf_export.write(adapted, folder / "base", dtype)
    (folder / "base" / "README.md").unlink()  # its figures are those of the adapters
    config, tensors = to_peft(adapted.model, source)
    save_tensors(
        folder / "adapter_model.safetensors",
        {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()},
    )
    write_json(folder / "adapter_config.json", config)


class _Adapted(Source):
    """The same run with its adapters apart from the weights."""

    @cached_property
    def model(self) -> GPT:
        return load_model(self.run, self.checkpoint, device="cpu", dtype="float32", merged=False)


@torch.no_grad()
def to_peft(model: GPT, source: Source) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A model with adapters as (adapter_config.json, tensors by PEFT's names)."""
    train, family = source.record.config.train, hf_export.config_to_hf(model.config)["model_type"]
    assert train.lora_rank is not None
    assert train.lora_alpha is not None
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}  # in multiples of the run's
    for names, hf_name, _ in parameter_pairs(model.config, family):
        layers = [model.get_submodule(name.removesuffix(".weight")) for name in names if "bias" not in name]
        adapted = [layer for layer in layers if isinstance(layer, LoraLinear)]
        if not adapted:
            continue
        name = hf_name.removesuffix(".weight")
        a = torch.cat([layer.lora_a.weight for layer in adapted])  # (R of all, K)
        b = torch.cat([_rows_of_b(layer, adapted) for layer in layers])  # (N of all, R of all)
        tensors |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
        # A GPT-2 has two kinds of c_proj.
        module = ".".join(name.split(".")[-2 if family == "gpt2" else -1 :])
        ranks[module] = len(adapted)
    joined = {module: count for module, count in ranks.items() if count > 1}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": train.lora_rank,
        "lora_alpha": train.lora_alpha,
        "lora_dropout": train.lora_dropout,
        "target_modules": sorted(ranks),
        "rank_pattern": {module: count * train.lora_rank for module, count in joined.items()},
        "alpha_pattern": {module: count * train.lora_alpha for module, count in joined.items()},
        "fan_in_fan_out": family == "gpt2",  # its weights are (K, N)
        "bias": "none",
        "inference_mode": True,
    }, tensors


def _rows_of_b(layer: nn.Module, adapted: list[LoraLinear]) -> Tensor:
    """The rows of the joined B for one layer: zero except for the columns of its own adapter."""
    assert isinstance(layer, nn.Linear)
    parts = [
        each.lora_b.weight if each is layer else each.lora_b.weight.new_zeros(layer.out_features, each.rank)
        for each in adapted
    ]
    return torch.cat(parts, dim=1)  # (N, R of all)
