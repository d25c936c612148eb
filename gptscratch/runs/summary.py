"""The content of ``gptscratch info`` as frozen dataclasses; ``dataclasses.asdict`` makes JSON of them."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptscratch import paths, sizing
from gptscratch.config import ModelConfig, TrainConfig, read_json
from gptscratch.config.presets import PRESETS, preset_settings
from gptscratch.data.token_files import Manifest, read_manifest
from gptscratch.errors import CheckpointError, UserError, did_you_mean
from gptscratch.runs.run import read_facts, read_run, read_versioned

PLANNED = ("steps", "tokens", "epochs", "seconds", "memory_bytes")  # what info shows of a plan
_ORDERS: Mapping[str, Callable[[RunSummary], Any]] = {
    "when": lambda run: -run.changed,
    "name": lambda run: run.name,
    "loss": lambda run: math.inf if run.best_val_loss is None else run.best_val_loss,
    "size": lambda run: -run.size_bytes,
}
FINE_TUNING = "fine_tuning.json"  # in the folder of a run that started from another
_LOSSES = ("val_loss", "val_bits_per_byte")
_LARGEST = 10**18  # of any number that a run reports


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """A model and its cost in bytes and FLOPs, at full context length."""

    config: ModelConfig
    parameters: int
    non_embedding_parameters: int  # blocks and final norm
    shapes: dict[str, tuple[int, ...]]  # of every parameter, by name
    forward_flops_per_token: int
    training_flops_per_token: int
    micro_batch_size: int
    training_memory_bytes: int  # on one device; of a preset with Muon in float32
    sampling_memory_bytes: int  # one text in float32


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A line of the list of runs."""

    name: str
    folder: str
    parameters: int
    step: int  # of the last checkpoint; 0 where there is none yet
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
    fine_tuned: dict[str, dict[str, float]]  # losses before and after, where it started from another run
    plan: dict[str, Any]  # what was expected, from plan.json; empty where that is missing
    config: dict[str, Any]
    tokenizer_hash: str  # of its tokenizer.json; empty where that is missing
    model: ModelDescription


def describe(what: str) -> RunDescription | ModelDescription | Manifest:
    """Describe a run by name, folder or checkpoint folder, a preset, or a folder of token files.

    A run comes before a preset of the same name, which ``describe_preset`` describes.

    Raises:
        UserError: there is no such thing, or it is damaged.
    """
    if what in PRESETS and not paths.is_file(paths.runs_dir() / what / "config.json"):
        return describe_model(PRESETS[what])
    for folder in (Path(what), paths.tokens_dir() / what):
        if paths.is_file(folder / "manifest.json"):
            return read_manifest(folder)
    return describe_run(_find(what))


def _find(what: str) -> Path:
    with contextlib.suppress(CheckpointError):
        return paths.find_checkpoint(what)[0]
    try:
        return paths.find_run(what)  # a run without a checkpoint is still a run
    except CheckpointError as error:
        presets = f"{did_you_mean(what, PRESETS)} Presets: {', '.join(PRESETS)}."
        raise CheckpointError(error.message, f"{error.hint} {presets.lstrip()}") from None


def describe_preset(name: str) -> ModelDescription:
    """Raises ConfigError where there is no preset of this name."""
    preset_settings(name)
    return describe_model(PRESETS[name])


def describe_model(
    config: ModelConfig, train: TrainConfig | None = None, *, device: str = "cpu"
) -> ModelDescription:
    """Describe a model from its config; ``train`` is how it is trained, by default one sequence at once."""
    train = train or TrainConfig(micro_batch_size=1)
    rows, dtype = train.micro_batch_size, "float32" if train.dtype == "auto" else train.dtype
    counts = sizing.count_parameters(config)
    memory = sizing.memory_of_run(config, train, rows=rows, dtype=dtype, device=device)
    return ModelDescription(
        config=config,
        parameters=counts.total,
        non_embedding_parameters=counts.non_embedding,
        shapes=sizing.parameter_shapes(config),
        forward_flops_per_token=sizing.forward_flops_per_token(config),
        training_flops_per_token=sizing.training_flops_per_token(config),
        micro_batch_size=rows,
        training_memory_bytes=memory.total,
        sampling_memory_bytes=4 * counts.total + sizing.kv_cache_bytes(config),
    )


def describe_run(run: Path) -> RunDescription:
    """Raises CheckpointError where its config.json is damaged."""
    record = read_run(run)
    config = record.config
    best, plan = read_facts(run / "best.json"), read_facts(run / "plan.json")
    return RunDescription(
        summary=summarize(run),
        val_accuracy=_number(best, "val_accuracy"),
        val_bits_per_byte=_number(best, "val_bits_per_byte"),
        checkpoints=tuple(step for step, _ in paths.checkpoints(run)),
        fine_tuned=_losses(read_facts(run / FINE_TUNING)),
        plan=plan if all(_number(plan, name) is not None for name in PLANNED) else {},
        config=read_versioned(run / "config.json") | config.to_dict(),
        tokenizer_hash=_hash(run / "tokenizer.json"),
        model=describe_model(config.model, config.train, device=str(plan.get("device"))),
    )


def list_runs(sort: str = "when") -> list[RunSummary]:
    """Every run in the cache directory; for a damaged one, what is wrong with it.

    Args:
        sort: the newest, the largest or the lowest validation loss first, or by name.
    """
    folders = [run for run in paths.runs_dir().glob("[!.]*") if run.is_dir() and any(run.glob("[!.]*"))]
    return sorted(map(summarize, folders), key=_ORDERS[sort])


def summarize(run: Path) -> RunSummary:
    """The readable facts of a run; ``problem`` names what cannot be read."""
    saved = paths.checkpoints(run)
    problems: list[str] = []
    config = _readable(read_versioned, run / "config.json", problems)
    state = _readable(read_versioned, saved[-1][1] / "state.json", problems) if saved else {}
    best, _ = (
        _readable(read_json, run / name, problems) if (run / name).exists() else {}
        for name in ("best.json", "last.json")
    )
    files = []
    for root, _, names in os.walk(run):
        for name in names:
            with contextlib.suppress(OSError):  # a run that is being trained deletes files
                files.append(Path(root, name).stat())
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
        problem=next(iter(problems), None),
    )


def _hash(file: Path) -> str:
    with contextlib.suppress(OSError):
        return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    return ""


def _readable(read: Callable[[Path], dict[str, Any]], file: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return read(file)
    except UserError as error:
        problems.append(error.message)
        return {}


def _losses(facts: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Those of fine_tuning.json that are complete, by their names there."""
    found = {}
    for name in ("before", "after", "keep_before", "keep_after"):
        values = facts.get(name)
        numbers = {key: _number(values, key) for key in _LOSSES} if isinstance(values, dict) else {}
        if known := {key: number for key, number in numbers.items() if number is not None}:
            found[name] = known
    return {name: values for name, values in found.items() if len(values) == len(_LOSSES)}


def _number(values: Mapping[str, Any], name: str) -> float | None:
    """A finite number from a file that anyone may have written; None where it is something else."""
    value = values.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST:
        return value
    return None
