"""The data behind ``gptscratch info``: plain frozen dataclasses, JSON by ``dataclasses.asdict``."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptscratch import paths, sizing
from gptscratch.config import ModelConfig, RunConfig, read_json
from gptscratch.data.shards import Manifest, read_manifest
from gptscratch.errors import CheckpointError, ConfigError, did_you_mean
from gptscratch.presets import PRESETS, preset_settings


@dataclass(frozen=True, kw_only=True)
class Part:
    """A module with its parts, or (with a shape) one parameter."""

    name: str  # the last part of the dotted name; empty for the whole model
    shape: tuple[int, ...] | None
    parameters: int  # of it and all below
    children: tuple[Part, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What a model is and costs. Bytes and FLOPs; the costs are at full context length."""

    config: ModelConfig
    parameters: int
    non_embedding_parameters: int  # blocks and final norm
    counts: sizing.ParameterCounts
    architecture: Part
    forward_flops_per_token: int
    training_flops_per_token: int
    training_memory: sizing.TrainingMemory  # Muon, float32, micro_batch sequences at once
    training_memory_bytes: int
    sampling_memory: sizing.SamplingMemory  # float32, one text
    sampling_memory_bytes: int
    micro_batch: int


def describe_model(config: ModelConfig, *, micro_batch: int = 1) -> ModelDescription:
    """Describe a model from its config alone; ``micro_batch`` sequences train at once."""
    config = config.resolved()
    counts = sizing.count_parameters(config)
    training = sizing.memory_to_train(config, micro_batch=micro_batch)
    sampling = sizing.memory_to_sample(config)
    return ModelDescription(
        config=config,
        parameters=counts.total,
        non_embedding_parameters=counts.non_embedding,
        counts=counts,
        architecture=architecture(config),
        forward_flops_per_token=sizing.forward_flops_per_token(config),
        training_flops_per_token=sizing.training_flops_per_token(config),
        training_memory=training,
        training_memory_bytes=training.total,
        sampling_memory=sampling,
        sampling_memory_bytes=sampling.total,
        micro_batch=micro_batch,
    )


def architecture(config: ModelConfig) -> Part:
    """The model's parameters as a tree, in the order of the torch model's ``named_parameters``."""
    return _part("", sizing.parameter_shapes(config))


def _part(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Part:
    """``shapes`` by dotted name below this part; the empty name is the part itself."""
    if "" in shapes:
        return Part(name=name, shape=shapes[""], parameters=math.prod(shapes[""]))
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, shape in shapes.items():
        head, _, rest = path.partition(".")
        groups.setdefault(head, {})[rest] = shape
    children = tuple(_part(head, group) for head, group in groups.items())
    return Part(
        name=name, shape=None, parameters=sum(child.parameters for child in children), children=children
    )


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A line of the list of runs."""

    name: str
    folder: str
    parameters: int
    step: int  # of the last checkpoint; 0: none yet
    tokens: int  # seen in training
    seconds: float  # of training
    best_val_loss: float | None  # nats per token
    best_step: int | None
    size_bytes: int  # on disk
    changed: float  # seconds since 1970


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """A run: its results, its configuration, its model."""

    summary: RunSummary
    val_accuracy: float | None
    val_bits_per_byte: float | None
    checkpoints: tuple[int, ...]  # steps
    plan: dict[str, Any]  # what was expected, as plan.json tells; empty where the run has none
    config: dict[str, Any]
    model: ModelDescription


def describe_preset(name: str) -> ModelDescription:
    """Raises ConfigError where there is no preset of this name."""
    preset_settings(name)
    return describe_model(PRESETS[name])


def describe(what: str) -> RunDescription | ModelDescription | Manifest:
    """All about a run by name, folder or checkpoint folder, a preset, or a folder of token files.

    A run comes before a preset of the same name, which ``describe_preset`` describes.

    Raises:
        UserError: there is no such thing, or it is damaged.
    """
    if what in PRESETS and not (paths.runs_dir() / what / "config.json").is_file():
        return describe_model(PRESETS[what])
    if (Path(what) / "manifest.json").is_file():
        return read_manifest(Path(what))
    if (paths.tokens_dir() / what / "manifest.json").is_file():
        return read_manifest(paths.tokens_dir() / what)
    try:
        run, _ = paths.find_checkpoint(what)
    except CheckpointError:
        run = _run_or_preset(what)  # one without a checkpoint yet is still a run
    return describe_run(run)


def _run_or_preset(what: str) -> Path:
    """The run's folder, or an error that names presets, too."""
    try:
        return paths.find_run(what)
    except CheckpointError as error:
        near = did_you_mean(what, PRESETS)
        presets = f"{near} Presets: {', '.join(PRESETS)}."
        raise CheckpointError(error.message, f"{error.hint} {presets.lstrip()}") from None


def describe_run(run: Path) -> RunDescription:
    """Raises CheckpointError or ConfigError where its files are damaged."""
    values = read_json(run / "config.json")
    best = _read(run / "best.json")
    config = RunConfig.from_dict({name: values.get(name, {}) for name in ("model", "data", "train")})
    return RunDescription(
        summary=summarise(run),
        val_accuracy=best.get("val_accuracy"),
        val_bits_per_byte=best.get("val_bits_per_byte"),
        checkpoints=tuple(step for step, _ in paths.checkpoints(run)),
        plan=_read(run / "plan.json"),
        config=values,
        model=describe_model(config.model, micro_batch=config.train.micro_batch or 1),
    )


def list_runs() -> list[RunSummary]:
    """Every run in the cache directory that can be read, newest first."""
    found = []
    for run in paths.list_runs():
        with contextlib.suppress(ConfigError):
            found.append(summarise(run))
    return found


def summarise(run: Path) -> RunSummary:
    config, best = read_json(run / "config.json"), _read(run / "best.json")
    saved = paths.checkpoints(run)
    state = _read(saved[-1][1] / "state.json") if saved else {}
    files = [file.stat() for file in run.rglob("*") if file.is_file()]
    return RunSummary(
        name=run.resolve().name,
        folder=str(run),
        parameters=config.get("parameters", 0),
        step=state.get("step", 0),
        tokens=state.get("tokens", 0),
        seconds=state.get("seconds", 0.0),
        best_val_loss=best.get("val_loss"),
        best_step=best.get("step"),
        size_bytes=sum(file.st_size for file in files),
        changed=max((file.st_mtime for file in files), default=0.0),
    )


def _read(path: Path) -> dict[str, Any]:
    """A small JSON file that may not be there yet."""
    return read_json(path) if path.is_file() else {}
