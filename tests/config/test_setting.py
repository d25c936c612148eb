"""One setting: its flag, its help, and how text, JSON and Python values become its value."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gptscratch.config import DataConfig, ModelConfig, RunConfig, SampleConfig, TrainConfig, flattened
from gptscratch.config.presets import PRESETS, preset_settings
from gptscratch.config.setting import settings_of
from gptscratch.errors import ConfigError

TRAIN, MODEL, DATA = settings_of(TrainConfig), settings_of(ModelConfig), settings_of(DataConfig)


@pytest.mark.parametrize(
    ("setting", "given", "value"),
    [
        (TRAIN["steps"], "12", 12),
        (TRAIN["epochs"], "2", 2.0),
        (TRAIN["epochs"], 2, 2.0),
        (TRAIN["patience"], "null", None),
        (TRAIN["compile"], "true", True),
        (MODEL["adaptive_cutoffs"], ["3", "7"], (3, 7)),
        (MODEL["adaptive_cutoffs"], "[3, 7]", (3, 7)),
        (MODEL["adaptive_cutoffs"], 5, (5,)),
        (MODEL["adaptive_cutoffs"], "20,40", (20, 40)),
        (MODEL["adaptive_cutoffs"], ["20,40", "60"], (20, 40, 60)),
        (settings_of(SampleConfig)["stop"], ["a,b"], ("a,b",)),
        (DATA["separator"], "12", "12"),
        (settings_of(SampleConfig)["stop"], ["[INST]"], ("[INST]",)),
    ],
)
def test_text_json_and_python_values_become_the_same_value(setting: Any, given: Any, value: Any) -> None:
    parsed = setting.parse(given)
    assert parsed == value
    assert type(parsed) is type(value)


def test_an_error_names_what_the_user_typed() -> None:
    with pytest.raises(ConfigError, match=r"^--layers is 'many': it must be a whole number\.$"):
        MODEL["n_layer"].parse("many", "--layers")
    with pytest.raises(ConfigError, match=r"^n_layer is 0: it must be at least 1\.$"):
        MODEL["n_layer"].parse(0)


def test_flags_come_from_the_name_unless_they_are_given() -> None:
    assert TRAIN["batch_size"].flags == ["--batch-size"]
    assert MODEL["qk_norm"].flags == ["--qk-norm/--no-qk-norm"]
    assert settings_of(SampleConfig)["top_k"].flags == ["-k", "--top-k"]
    assert TRAIN["beta1"].flags == []


def test_the_help_ends_with_the_default_in_words() -> None:
    assert TRAIN["seed"].description == "Random seed (default: 1337)."
    assert TRAIN["optimizer"].description == "Optimizer: muon or adamw (default: muon)."
    assert MODEL["qk_norm"].description.endswith("(default: on).")
    assert TRAIN["batch_size"].description.endswith("(default: chosen).")
    assert TRAIN["steps"].description == "Train for N optimizer steps."


def test_sizes_that_follow_from_others_follow_again_when_those_change() -> None:
    config = ModelConfig(d_model=64, n_head=2)
    assert (config.n_kv_head, config.head_dim, config.d_ff) == (2, 32, 192)
    changed = config.changed(d_model=96, n_head=3)
    assert (changed.n_kv_head, changed.head_dim, changed.d_ff) == (3, 32, 256)
    assert ModelConfig(d_model=64, n_head=2, d_ff=100).changed(d_model=96).d_ff == 100
    assert PRESETS["gpt2-xl"].d_ff == 4 * 1600


def test_a_preset_gives_its_shape_and_what_differs_from_the_defaults() -> None:
    given = preset_settings("gpt2")
    assert given["model.position"] == "learned"
    assert given["model.d_model"] == 768
    assert not {"model.rope_theta", "model.d_ff", "model.head_dim", "model.vocab_size"} & given.keys()
    assert RunConfig().with_settings(given).model.changed(vocab_size=50257) == PRESETS["gpt2"]


def test_files_of_earlier_versions_are_read_with_their_names_and_their_zeros() -> None:
    old = {
        "model": {"n_layer": 2, "n_kv_head": 0, "d_ff": 0},
        "data": {"column": "", "errors": "replace", "val_fraction": -1.0, "vocab_size": 0},
        "train": {"steps": 5, "epochs": 0.0, "minutes": 0.0, "patience": 0, "sample_interval": -1,
                  "micro_batch": 4, "schedule": "cosine", "warmup": 0, "keep": 3},
        "name": "",
    }  # fmt: skip
    config = RunConfig.from_dict(json.loads(json.dumps(old)))
    assert config.train == TrainConfig(
        steps=5, micro_batch_size=4, lr_schedule="cosine", warmup_steps=0, keep_checkpoints=3
    )
    assert config.data == DataConfig(encoding_errors="replace")
    assert (config.model, config.name) == (ModelConfig(n_layer=2), None)
    with pytest.raises(ConfigError, match="steps is 0"):  # a file of the user's own
        RunConfig().with_settings(flattened({"train": {"steps": 0}}))


@pytest.mark.parametrize("step", ["nope", "min-length", "min-length:x", "min-length:N", "nfc:3"])
def test_a_step_of_cleaning_is_checked_under_the_name_that_was_typed(step: str) -> None:
    with pytest.raises(ConfigError, match=f"^--clean is '{step}': it must be one of html, "):
        DATA["clean"].parse([step], "--clean")
    assert DATA["clean"].parse(["nfc", "min-length:12"]) == ("nfc", "min-length:12")


def test_a_device_may_have_a_number() -> None:
    assert TRAIN["device"].parse("cuda:1") == "cuda:1"
    for device in ("cuda:", "cuda:x", "cpu:1", "cuda:N"):
        with pytest.raises(ConfigError, match=f"^--device is '{device}': it must be one of auto, cpu, "):
            TRAIN["device"].parse(device, "--device")
