"""Exported adapters without PEFT: the base and the product of their matrices give the merged export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from gptscratch.errors import ConfigError
from gptscratch.interop.export import export
from gptscratch.training.trainer import TrainResult

Fit = Callable[..., TrainResult]
GPT2: dict[str, Any] = {
    "position": "learned", "norm": "layernorm", "activation": "gelu-tanh", "qk_norm": False, "bias": True,
}  # fmt: skip


@pytest.fixture
def tune(fit: Fit) -> Callable[..., None]:
    """A run ``tuned`` with adapters that change its base."""

    def run(family: dict[str, Any], targets: tuple[str, ...]) -> None:
        fit(name="base", steps=2, **family)
        options = {"lora_rank": 3, "lora_targets": targets, "learning_rate": 0.05}
        fit(name="tuned", init_from="base", tokenizer=None, steps=4, **options)

    return run


@pytest.mark.parametrize("family", [{}, {"n_kv_head": 1, "tie_embeddings": True}, GPT2])
@pytest.mark.parametrize("targets", [(), ("q", "v"), ("k", "out", "down")])
def test_base_and_adapters_are_the_merged_export(
    tune: Callable[..., None], tmp_path: Path, family: dict[str, Any], targets: tuple[str, ...]
) -> None:
    tune(family, targets)
    folder = Path(export("tuned", tmp_path / "peft", format="peft").folder)
    merged = load_file(Path(export("tuned", tmp_path / "merged", merge=True).folder) / "model.safetensors")
    weights = load_file(folder / "base" / "model.safetensors")
    adapters = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    for name in [name for name in adapters if "lora_A" in name]:
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        key = next(target for target in config["target_modules"] if module.endswith(f".{target}"))
        rank = config["rank_pattern"].get(key, config["r"])
        alpha = config["alpha_pattern"].get(key, config["lora_alpha"])
        a, b = adapters[name], adapters[name.replace("lora_A", "lora_B")]
        assert len(a) == rank
        change = alpha / rank * (b @ a)
        assert change.abs().max() > 1e-4
        weights[f"{module}.weight"] += change.T if config["fan_in_fan_out"] else change
    assert weights.keys() == merged.keys()
    for name, weight in weights.items():
        assert_close(weight, merged[name], atol=1e-6, rtol=0)


def test_adapters_are_merged_or_stored_alone(tune: Callable[..., None], tmp_path: Path) -> None:
    tune({}, ("q",))
    for options, words in (
        ({"run": "tuned"}, "has LoRA adapters"),
        ({"run": "tuned", "format": "gguf"}, "has LoRA adapters"),
        ({"run": "tuned", "format": "peft", "merge": True}, "has LoRA adapters"),
        ({"run": "base", "merge": True}, "--merge has no effect"),
        ({"run": "base", "format": "peft"}, "has no adapters"),
    ):
        with pytest.raises(ConfigError, match=words):
            export(folder=tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
