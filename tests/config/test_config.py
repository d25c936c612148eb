"""Every setting: its check, its message, and JSON both ways."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from gptscratch.config import (
    POSITIONS,
    SECTIONS,
    DataConfig,
    ModelConfig,
    RunConfig,
    SampleConfig,
    TrainConfig,
    flattened,
    qualified,
    read_json,
)
from gptscratch.config.presets import PRESETS
from gptscratch.errors import ConfigError

REFUSED: list[tuple[type, dict[str, Any], str]] = [
    *[(ModelConfig, {n: 0}, f"{n} is 0: it must be at least 1")
      for n in ("vocab_size", "context_length", "n_layer", "n_head", "d_model")],
    *[(ModelConfig, {n: -1}, f"{n} is -1: it must be at least 1")
      for n in ("n_kv_head", "d_ff", "head_dim")],
    (ModelConfig, {"position": "rotary"}, "position is 'rotary': it must be one of rope, learned"),
    (ModelConfig, {"norm": "batchnorm"}, "norm is 'batchnorm'"),
    (ModelConfig, {"activation": "tanh"}, "activation is 'tanh'"),
    (ModelConfig, {"dropout": 1.0}, "dropout is 1: it must be below 1"),
    (ModelConfig, {"dropout": math.nan}, "dropout is nan"),
    (ModelConfig, {"norm_eps": -1.0}, "norm_eps is -1: it must be above 0"),
    (ModelConfig, {"rope_theta": 0.0}, "rope_theta is 0"),
    (ModelConfig, {"d_model": 100, "n_head": 3}, "n_head = 3.* does not divide d_model = 100.*--d-model 102"),
    (ModelConfig, {"n_kv_head": 3}, "n_kv_head = 3 .* does not divide n_head = 4"),
    (ModelConfig, {"d_model": 12}, "head_dim = 3 must be even"),
    (ModelConfig, {"d_model": 15, "n_head": 1, "position": "sinusoidal"}, r"even d_model .* not 15"),
    (DataConfig, {"vocab_size": -1}, "vocab_size is -1"),
    (DataConfig, {"min_frequency": -1}, "min_frequency is -1"),
    (DataConfig, {"encoding_errors": "ignore"}, "encoding_errors is 'ignore'"),
    (DataConfig, {"val_fraction": 0.0}, "val_fraction is 0: it must be above 0"),
    (DataConfig, {"val_fraction": 1.0}, "val_fraction"),
    (TrainConfig, {"steps": 1, "minutes": 2.0}, "More than one training length is given: steps, minutes"),
    *[(TrainConfig, {n: -1}, f"{n} is -1: it must be at least 0")
      for n in ("learning_rate", "adamw_learning_rate", "grad_clip", "weight_decay", "warmup_steps")],
    *[(TrainConfig, {n: 0}, f"{n} is 0: it must be (at least 1|above 0)")
      for n in ("steps", "epochs", "tokens", "minutes", "batch_size", "micro_batch_size", "log_interval",
                "eval_interval", "save_interval", "eval_tokens", "patience")],
    *[(TrainConfig, {n: math.inf}, f"{n} is inf") for n in ("epochs", "minutes", "learning_rate")],
    *[(TrainConfig, {n: math.nan}, f"{n} is nan") for n in ("minutes", "learning_rate", "weight_decay")],
    *[(TrainConfig, {n: -2}, f"{n} is -2: it must be at least 0")
      for n in ("weight_decay", "warmup_steps", "sample_interval")],
    *[(TrainConfig, {n: 1.0}, f"{n} is 1: it must be below 1")
      for n in ("beta1", "beta2", "momentum")],
    *[(TrainConfig, {n: 1.1}, f"{n} is 1.1: it must be at most 1")
      for n in ("decay_fraction", "final_fraction")],
    (TrainConfig, {"keep_checkpoints": 0}, "keep_checkpoints is 0: it must be at least 1"),
    (TrainConfig, {"optimizer": "sgd"}, "optimizer is 'sgd': it must be one of muon, adamw"),
    (TrainConfig, {"lr_schedule": "step"}, "lr_schedule is 'step'"),
    (TrainConfig, {"device": "tpu"}, "device is 'tpu'"),
    (TrainConfig, {"dtype": "int8"}, "dtype is 'int8'"),
    (TrainConfig, {"seed": -1}, "seed is -1"),
    (TrainConfig, {"seed": 2**63}, "seed is"),
    (SampleConfig, {"max_tokens": 0}, "max_tokens is 0"),
    (SampleConfig, {"temperature": -0.1}, "temperature is -0.1: it must be at least 0"),
    (SampleConfig, {"temperature": math.nan}, "temperature is nan"),
    (SampleConfig, {"repetition_penalty": math.inf}, "repetition_penalty is inf"),
    (SampleConfig, {"top_k": 0}, "top_k is 0.*Leave it out"),
    (SampleConfig, {"top_p": 0.0}, "top_p is 0: it must be above 0"),
    (SampleConfig, {"min_p": 1.1}, "min_p is 1.1"),
    (SampleConfig, {"repetition_penalty": 0.0}, "repetition_penalty is 0"),
    (SampleConfig, {"temperature": 1e40}, "temperature is 1e\\+40: it must be at most 1,000,000"),
    (SampleConfig, {"repetition_penalty": 1e-39}, "it must be at least 0.001"),
    (SampleConfig, {"repetition_penalty": 1e39}, "it must be at most 1,000"),
    *[(SampleConfig, {f"{name}_penalty": sign * 1e39}, f"{name}_penalty is .*: it must be at")
      for name in ("frequency", "presence") for sign in (1, -1)],
    (SampleConfig, {"num_samples": 0}, "num_samples is 0"),
    (SampleConfig, {"stop": ("a", "")}, "stop string is empty"),
    (SampleConfig, {"seed": -1}, "seed is -1"),
]  # fmt: skip

CHANGED = RunConfig(
    model=ModelConfig(n_layer=2, dropout=0.25, qk_norm=False, position="alibi"),
    data=DataConfig(corpus=("a.txt", "b"), lowercase=True, vocab_size=300),
    train=TrainConfig(epochs=1.5, compile=True, seed=1, learning_rate=1e-3),
    name="tale",
)


@pytest.mark.parametrize(
    ("cls", "values", "message"), REFUSED, ids=lambda v: str(v) if isinstance(v, dict) else ""
)
def test_a_value_out_of_range_is_refused_by_name(cls: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        cls(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("d_model", "n_head"), [(100, 3), (64, 5), (16, 9)])
def test_the_width_that_an_error_proposes_is_valid(d_model: int, n_head: int, position: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig(d_model=d_model, n_head=n_head, position=position)
    proposed = re.search(r"--d-model (\d+)", caught.value.hint)
    assert proposed is not None
    assert ModelConfig(d_model=int(proposed[1]), n_head=n_head, position=position).head_dim > 0


@pytest.mark.parametrize("cls", [*SECTIONS.values(), SampleConfig, RunConfig])
def test_the_defaults_are_valid_and_cannot_be_changed(cls: type) -> None:
    config = cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(cls)[0].name, 1)


@pytest.mark.parametrize("config", [RunConfig(), CHANGED, *[RunConfig(model=p) for p in PRESETS.values()]])
def test_a_config_comes_back_from_json_as_it_was(config: RunConfig) -> None:
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert RunConfig().with_settings(flattened(config.to_dict())) == config


def test_a_part_of_a_config_leaves_the_rest_at_its_defaults() -> None:
    found = RunConfig.from_dict({"model": {"n_layer": 7}, "name": "x"})
    assert found == dataclasses.replace(RunConfig(model=ModelConfig(n_layer=7)), name="x")


def test_the_width_of_the_mlp_follows_from_the_activation_function() -> None:
    assert ModelConfig(d_model=96, n_head=3).d_ff == 256
    assert ModelConfig(d_model=96, n_head=3, activation="relu").d_ff == 384


def test_names_are_found_in_their_section() -> None:
    given = {"n_layer": 3, "train.seed": 5, "data.vocab_size": 9, "name": "x", "corpus": "a.txt"}
    assert qualified(given) == {
        "model.n_layer": 3, "train.seed": 5, "data.vocab_size": 9, "name": "x", "data.corpus": ("a.txt",),
    }  # fmt: skip
    assert qualified(qualified(given)) == qualified(given)


def test_texts_from_a_flag_become_what_the_field_is() -> None:
    given = {
        "n_layer": "3",
        "dropout": "0",
        "qk_norm": "false",
        "compile": "null",
        "minutes": "2",
        "name": "7",
    }
    assert list(qualified(given).values()) == [3, 0.0, False, None, 2.0, "7"]
    assert qualified({"corpus": '["a", "b"]'}) == {"data.corpus": ("a", "b")}
    assert qualified({"compile": "true", "encoding": "utf-16"}) == {
        "train.compile": True,
        "data.encoding": "utf-16",
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_layers": 3}, "There is no setting 'n_layers'. Did you mean n_layer?"),
        ({"layers": 3}, "Did you mean n_layer?"),
        ({"model.steps": 3}, "no setting 'model.steps'"),
        ({"place.n_layer": 3}, "no setting 'place.n_layer'"),
        ({"vocab_size": 3}, "vocab_size is ambiguous.*model.vocab_size or data.vocab_size"),
        ({"n_layer": "many"}, "n_layer is 'many': it must be a whole number"),
        ({"n_layer": 2.0}, "a whole number"),
        ({"n_layer": True}, "a whole number"),
        ({"n_layer": None}, "a whole number"),
        ({"dropout": "low"}, "it must be a number"),
        ({"dropout": True}, "it must be a number"),
        ({"qk_norm": 1}, "true or false"),
        ({"compile": "maybe"}, "true or false"),
        ({"name": 3}, "it must be a text"),
        ({"corpus": [1]}, "it must be a text"),
        ({"model": 3}, "no setting 'model'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        qualified(settings)


def test_a_section_must_be_an_object() -> None:
    with pytest.raises(ConfigError, match='"model" of a config must be an object'):
        RunConfig.from_dict({"model": 3})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"{", "cannot be read as JSON"),
        (b"[]", "a JSON object"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_config_file_that_cannot_be_read_says_why(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "c.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_json(file)
