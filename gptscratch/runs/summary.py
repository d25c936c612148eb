"""The data behind ``gptscratch info``: plain frozen dataclasses, JSON by ``dataclasses.asdict``."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptscratch import paths, sizing
from gptscratch.config import FORMAT, ModelConfig, RunConfig, read_versioned
from gptscratch.data.token_files import Manifest, read_manifest
from gptscratch.errors import CheckpointError, UserError, did_you_mean
from gptscratch.presets import PRESETS, preset_settings
from gptscratch.runs.run import read_facts

PLANNED = ("steps", "tokens", "epochs", "seconds", "memory_bytes")  # what info shows of a plan
_LARGEST = 10**18  # of any number that a run reports


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
    training_memory: sizing.TrainingMemory  # Muon, float32, micro_batch_size sequences at once
    training_memory_bytes: int
    sampling_memory: sizing.SamplingMemory  # float32, one text
    sampling_memory_bytes: int
    micro_batch_size: int


def describe_model(config: ModelConfig, *, micro_batch_size: int = 1) -> ModelDescription:
    """Describe a model from its config alone; ``micro_batch_size`` sequences train at once."""
    config = config.resolved()
    counts = sizing.count_parameters(config)
    training = sizing.memory_to_train(config, micro_batch_size=micro_batch_size)
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
        micro_batch_size=micro_batch_size,
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
    problem: str | None = None  # why the run cannot be used, in one line


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
    if paths.is_file(Path(what) / "manifest.json"):
        return read_manifest(Path(what))
    if paths.is_file(paths.tokens_dir() / what / "manifest.json"):
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
    values = read_versioned(run / "config.json")
    best = read_facts(run / "best.json")
    config = RunConfig.from_dict({name: values.get(name, {}) for name in ("model", "data", "train")})
    return RunDescription(
        summary=summarise(run),
        val_accuracy=_number(best, "val_accuracy"),
        val_bits_per_byte=_number(best, "val_bits_per_byte"),
        checkpoints=tuple(step for step, _ in paths.checkpoints(run)),
        plan=_plan(run),
        config={"format": FORMAT, **values},
        model=describe_model(config.model, micro_batch_size=config.train.micro_batch_size or 1),
    )


def list_runs() -> list[RunSummary]:
    """Every run in the cache directory, newest first; of one that is damaged, what is wrong with it."""
    folders = [
        folder for folder in paths.runs_dir().glob("*") if folder.is_dir() and any(folder.glob("[!.]*"))
    ]
    return sorted(map(summarise, folders), key=lambda run: run.changed, reverse=True)


def summarise(run: Path) -> RunSummary:
    """What can be read of a run; its ``problem`` says what cannot."""
    config: dict[str, Any] = {}
    problem = None
    try:
        config = read_versioned(run / "config.json")
    except UserError as error:
        problem = error.message
    best = read_facts(run / "best.json")
    saved = paths.checkpoints(run)
    state = read_facts(saved[-1][1] / "state.json") if saved else {}
    files = []
    for file in run.rglob("*"):
        with contextlib.suppress(OSError):  # a run that is being trained deletes files
            if file.is_file():
                files.append(file.stat())
    return RunSummary(
        name=run.resolve().name,
        folder=str(run),
        parameters=int(_number(config, "parameters") or 0),
        step=saved[-1][0] if saved else 0,
        tokens=int(_number(state, "tokens") or 0),
        seconds=_number(state, "seconds") or 0.0,
        best_val_loss=_number(best, "val_loss"),
        best_step=None if (step := _number(best, "step")) is None else int(step),
        size_bytes=sum(file.st_size for file in files),
        changed=max((file.st_mtime for file in files), default=0.0),
        problem=problem,
    )


def _number(values: Mapping[str, Any], name: str) -> float | None:
    """A finite number of a file that anybody may have written; None where it is something else."""
    value = values.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST:
        return value
    return None


def _plan(run: Path) -> dict[str, Any]:
    plan = read_facts(run / "plan.json")
    return plan if all(_number(plan, name) is not None for name in PLANNED) else {}
