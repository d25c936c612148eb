"""Runs and checkpoints on disk: whole or not at all, safetensors and JSON, never a pickle.

A folder is written under a temporary name beside its own, flushed to the disk, and renamed.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import gptscratch
from gptscratch import paths
from gptscratch.config import FORMAT, RunConfig, read_json
from gptscratch.device import pick_device, pick_dtype
from gptscratch.errors import CheckpointError, ConfigError, disk_errors
from gptscratch.generation import TrainedGPT
from gptscratch.model.gpt import GPT
from gptscratch.storage import load_tensors, read_versioned, save_tensors, sync, write_json
from gptscratch.tokenizer import Tokenizer
from gptscratch.training.state import TrainState

_OWN = ("corpus_hash", "tokens", "end_of_text", "parameters")


@dataclass(frozen=True)
class RunRecord:
    """What a run's config.json holds."""

    config: RunConfig
    corpus_hash: str
    tokens: str  # the folder of its token files
    end_of_text: int | None  # the id between documents
    parameters: int

    def to_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in _OWN}
        return {"format": FORMAT, "version": gptscratch.__version__, **self.config.to_dict(), **own}


def require_free(run: Path, *, replace: bool = False) -> None:
    """See that a run may be made in this folder.

    Raises:
        ConfigError: a run is there already and ``replace`` is false, or the folder holds something else.
    """
    if _is_run(run):
        if not replace:
            raise ConfigError(
                f"The run {run.name} exists already, in {run}.",
                "Take another --name, go on with --resume, or replace it with --force.",
            )
    elif run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise ConfigError(f"{run} exists and is not a run.", "Name an empty or a new folder.")


def create_run(run: Path, record: RunRecord, tokenizer: Tokenizer, *, replace: bool = False) -> None:
    """Make the run's folder with its config.json and tokenizer.json; errors as ``require_free``."""
    require_free(run, replace=replace)
    with disk_errors(f"making the run's folder {run}"):
        if run.exists():
            shutil.rmtree(run)
        run.mkdir(parents=True)
        tokenizer.save(run / "tokenizer.json")
        write_json(run / "config.json", record.to_dict())


def read_run(run: Path) -> RunRecord:
    """Raises CheckpointError where config.json is damaged or of a newer format."""
    file = run / "config.json"
    values = read_versioned(file)
    values.pop("version", None)
    try:
        own = {name: values.pop(name) for name in _OWN}
        return RunRecord(config=RunConfig.from_dict(values), **own)
    except KeyError as error:
        raise CheckpointError(f"{file} is damaged, or not a run's: it lacks {error}.") from None
    except ConfigError as error:
        raise CheckpointError(f"{file} is damaged: {error.message}") from None


def save_checkpoint(run: Path, state: TrainState, model: GPT, optimizer_state: Mapping[str, Tensor]) -> Path:
    """Write the checkpoint of ``state.step`` and point last.json to it.

    Raises:
        RunError: the disk is full or refuses; what was saved before is untouched.
    """
    folder = paths.checkpoint_dir(run, state.step)
    if folder.exists():
        return folder  # of this very moment: a resumed run forgets what was saved after it
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with disk_errors(f"saving step {state.step}"):
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            save_tensors(temporary / "model.safetensors", dict(model.named_parameters()))
            save_tensors(temporary / "optimizer.safetensors", optimizer_state)
            write_json(temporary / "state.json", {"format": FORMAT, **state.to_dict()})
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync(folder.parent)
        point(run, "last", state.step)
    return folder


def point(run: Path, which: str, step: int, **facts: Any) -> None:
    """Write best.json or last.json."""
    write_json(run / f"{which}.json", {"checkpoint": f"step-{step:08d}", "step": step, **facts})


def rewind(run: Path, state: TrainState) -> None:
    """Forget what was saved after ``state``, from which the run goes on, the best among it."""
    for step, folder in paths.checkpoints(run):
        if step > state.step:
            shutil.rmtree(folder)
    point(run, "last", state.step)
    best = paths.checkpoint_dir(run, state.best_step)
    if not best.is_dir():  # there was none yet, or a better one later took its place
        state.best_val_loss, state.best_step, state.evaluations_since_best = math.inf, -1, 0
        (run / "best.json").unlink(missing_ok=True)
    elif paths.find_checkpoint(run)[1] != best:
        point(run, "best", state.best_step, val_loss=state.best_val_loss)


def prune(run: Path, *, keep: int, best_step: int) -> None:
    """Delete all but the ``keep`` newest checkpoints and the best one, and what a crash left half-written."""
    saved = paths.checkpoints(run)
    for step, folder in saved[: max(0, len(saved) - keep)]:
        if step != best_step:
            shutil.rmtree(folder, ignore_errors=True)
    for leftover in (run / "checkpoints").glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in run.glob(".*.json.*.tmp"):
        leftover.unlink(missing_ok=True)


def load_state(checkpoint: Path) -> TrainState:
    """Raises CheckpointError where state.json is damaged or of a newer format."""
    return TrainState.from_dict(read_versioned(checkpoint / "state.json"))


def load_parameters(model: GPT, checkpoint: Path) -> None:
    """Copy a checkpoint's parameters into a model of the same shape.

    Raises:
        CheckpointError: the file is damaged, or a name or shape differs.
    """
    tensors = load_tensors(checkpoint / "model.safetensors")
    wanted = dict(model.named_parameters())
    for name in sorted(wanted.keys() ^ tensors.keys()):
        side = "lacks" if name in wanted else "has an unknown"
        raise CheckpointError(f"{checkpoint} does not fit its run's config.json: it {side} {name}.")
    for name, parameter in wanted.items():
        if parameter.shape != tensors[name].shape:
            found, expected = tuple(tensors[name].shape), tuple(parameter.shape)
            raise CheckpointError(
                f"{checkpoint} does not fit its run's config.json: {name} is {found}, not {expected}."
            )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(tensors[name])


def load(
    name_or_path: str | Path | None = None, *, device: str = "auto", dtype: str = "float32"
) -> TrainedGPT:
    """A trained model with its tokenizer, by run name, run folder or checkpoint folder; None: the newest.

    A run's best checkpoint is taken. ``load("my-run").generate("Once", max_tokens=50)`` gives text.

    Raises:
        CheckpointError: it is missing, damaged, of a newer format, or holds numbers that are not finite.
    """
    run, checkpoint = paths.find_checkpoint(name_or_path)
    record = read_run(run)
    place = pick_device(device)
    with place, _Uninitialised():
        model = GPT(record.config.model)
    load_parameters(model, checkpoint)
    model = model.to(dtype=pick_dtype(dtype, place))
    _require_finite(model, checkpoint)
    tokenizer = Tokenizer.load(run)
    if tokenizer.vocab_size > record.config.model.vocab_size:
        raise CheckpointError(f"{run / 'tokenizer.json'} has more entries than the model's vocabulary.")
    return TrainedGPT(
        model=model.eval(),
        tokenizer=tokenizer,
        end_of_text=record.end_of_text,
        run=run,
        checkpoint=checkpoint,
    )


def _require_finite(model: GPT, checkpoint: Path) -> None:
    for name, parameter in model.named_parameters():
        # The sum is fast; where it overflows, each number is looked at.
        if not parameter.detach().sum().isfinite() and not parameter.isfinite().all():
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{checkpoint} holds numbers that are not finite ({name} in {dtype}).",
                "Take another checkpoint of the run, or train again with a lower learning rate.",
            )


class _Uninitialised(TorchFunctionMode):
    """Parameters are not filled. The other way, by "meta", loads torch's compiler and sympy: a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if getattr(func, "__module__", "") == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


def _is_run(folder: Path) -> bool:
    """Tells a run from other folders with a config.json: those must never be replaced."""
    try:
        return "corpus_hash" in read_json(folder / "config.json")
    except ConfigError:
        return False
