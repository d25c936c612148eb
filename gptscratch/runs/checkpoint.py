"""Runs and checkpoints on disk: whole or not at all, safetensors and JSON, never a pickle.

A checkpoint is written under a temporary name next to its own, flushed to the disk, and renamed; before
it is deleted it is renamed, too. So a folder with a state.json is complete.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import gptscratch
from gptscratch import paths, sizing
from gptscratch.config import FORMAT, ModelConfig, RunConfig, read_json, read_versioned
from gptscratch.config.checks import require
from gptscratch.device import pick_device, pick_dtype
from gptscratch.errors import CheckpointError, ConfigError
from gptscratch.files import new_folder, remove_folder, remove_leftovers, write_json
from gptscratch.model.gpt import GPT
from gptscratch.runs.run_folder import LOCK, disk_errors_in, disk_errors_making, is_unused
from gptscratch.runs.tensors import load_tensors, save_tensors
from gptscratch.tokenizer import Tokenizer
from gptscratch.training.state import TrainState

_OWN = ("corpus_hash", "tokens", "end_of_text", "parameters")
_DIVISORS = ("batch_size", "micro_batch_size", "log_interval", "eval_interval", "save_interval")
_HORIZONS = ("steps", "epochs", "tokens", "minutes")


@dataclass(frozen=True)
class RunRecord:
    """What a run's config.json holds."""

    config: RunConfig
    corpus_hash: str
    tokens: str  # the folder of its token files
    end_of_text: int | None  # the id between documents
    parameters: int
    split: dict[str, Any] | None = None  # how the corpus was split; runs of older versions lack it

    def to_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in (*_OWN, "split")}
        return {"format": FORMAT, "version": gptscratch.__version__, **self.config.to_dict(), **own}


def require_free(run: Path, *, replace: bool = False) -> None:
    """Check that a run may be made in this folder. A run without a checkpoint may always be replaced.

    Raises:
        ConfigError: a run is there already and ``replace`` is false, or the folder holds something else.
    """
    if is_run(run):
        if not replace and paths.checkpoints(run):
            raise ConfigError(
                f"The run {run.name} exists already, in {run}.",
                "Take another --name, continue it with --resume, or replace it with --force.",
            )
    elif not is_unused(run):
        raise ConfigError(f"{run} exists and is not a run.", "Name an empty or a new folder.")


def create_run(run: Path, record: RunRecord, tokenizer: Tokenizer, *, replace: bool = False) -> None:
    """Make the run's folder with its config.json and tokenizer.json; errors as ``require_free``.

    A run that is replaced loses config.json last, so that the folder is a run at every moment.
    """
    require_free(run, replace=replace)
    with disk_errors_making(run):
        run.mkdir(parents=True, exist_ok=True)
        for _, folder in paths.checkpoints(run):
            remove_folder(folder)
        for file in run.iterdir():
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            elif file.name not in ("config.json", LOCK):
                file.unlink()
        write_json(run / "config.json", record.to_dict())
        tokenizer.save(run / "tokenizer.json")


def read_run(run: Path) -> RunRecord:
    """Raises CheckpointError where config.json is damaged or of a newer format."""
    file = run / "config.json"
    values = read_versioned(file)
    values.pop("version", None)
    try:
        own = {name: values.pop(name) for name in _OWN} | {"split": values.pop("split", None)}
        record = RunRecord(config=RunConfig.from_dict(values), **own)
        _require_kinds(record)
        require_planned(record.config)
        return record
    except KeyError as error:
        raise CheckpointError(f"{file} is damaged, or not from a run: it lacks {error}.") from None
    except ConfigError as error:
        raise CheckpointError(f"{file} is damaged: {error.message}") from None


def _require_kinds(record: RunRecord) -> None:
    end, vocab_size = record.end_of_text, record.config.model.vocab_size
    checks = {
        "corpus_hash": isinstance(record.corpus_hash, str),
        "tokens": isinstance(record.tokens, str),
        "end_of_text": end is None or (type(end) is int and 0 <= end < vocab_size),
        "parameters": type(record.parameters) is int and record.parameters >= 0,
        "split": record.split is None or isinstance(record.split, dict),
    }
    for name, is_right in checks.items():
        require(is_right, f"{name} is {getattr(record, name)!r}.")


def require_planned(config: RunConfig) -> None:
    """Check that a run's settings leave nothing to be chosen that training needs.

    Raises:
        ConfigError: an interval, a size or the length of the training is 0.
    """
    train = config.train
    for name in _DIVISORS:
        require(getattr(train, name) >= 1, f"{name} is 0: a run that was planned needs at least 1.")
    require(
        any(getattr(train, name) for name in _HORIZONS),
        "the length of the training is missing.",
        "Give one of --steps, --epochs, --tokens, --minutes.",
    )


def save_checkpoint(run: Path, state: TrainState, model: GPT, optimizer_state: Mapping[str, Tensor]) -> Path:
    """Write the checkpoint of ``state.step`` and point last.json to it.

    Raises:
        RunError: the disk is full or cannot be written to; what was saved before is untouched.
    """
    folder = paths.checkpoint_dir(run, state.step)
    if paths.is_checkpoint(folder):
        return folder  # of this very moment: a resumed run forgets what was saved after it
    with disk_errors_in(run, f"saving step {state.step}"):
        if not run.is_dir():
            raise FileNotFoundError(run)  # rather than make a folder that is half a run
        if folder.exists():
            remove_folder(folder)  # a process was killed while it deleted this one
        with new_folder(folder) as temporary:
            save_tensors(temporary / "model.safetensors", dict(model.named_parameters()))
            save_tensors(temporary / "optimizer.safetensors", optimizer_state)
            write_json(temporary / "state.json", {"format": FORMAT, **state.to_dict()})
        point(run, "last", state.step)
    return folder


def point(run: Path, which: str, step: int, **facts: Any) -> None:
    """Write best.json or last.json."""
    with disk_errors_in(run, f"writing {which}.json"):
        write_json(run / f"{which}.json", {"checkpoint": f"step-{step:08d}", "step": step, **facts})


def is_finished(run: Path, step: int) -> bool:
    """Whether training ended at this step and the best checkpoint had its final evaluation."""
    last = read_facts(run / "last.json")
    return last.get("finished") is True and last.get("step") == step


def rewind(run: Path, state: TrainState, *, keep: int) -> None:
    """Forget what was saved after ``state``, from which the run continues, the best included, and prune.

    last.json comes first: if this is interrupted, the next resume starts from ``state`` too.
    """
    with disk_errors_in(run, f"resuming {run.name}"):
        point(run, "last", state.step)
        for step, folder in paths.checkpoints(run):
            if step > state.step:
                remove_folder(folder)
        best = paths.checkpoint_dir(run, state.best_step)
        if not paths.is_checkpoint(best):  # there was none yet, or a better one later took its place
            state.best_val_loss, state.best_step, state.evaluations_since_best = math.inf, -1, 0
            (run / "best.json").unlink(missing_ok=True)
        elif read_facts(run / "best.json").get("step") != state.best_step:
            point(run, "best", state.best_step, val_loss=state.best_val_loss)
    prune(run, keep=keep, best_step=state.best_step)


def prune(run: Path, *, keep: int, best_step: int) -> None:
    """Delete all but the ``keep`` newest checkpoints and the best one, and what a killed process left."""
    saved = paths.checkpoints(run)
    with disk_errors_in(run, "deleting old checkpoints"):
        for step, folder in saved[: max(0, len(saved) - keep)]:
            if step != best_step:
                remove_folder(folder)
        sweep(run)


def sweep(run: Path) -> None:
    """Delete temporary files, and checkpoints that are not whole: a killed process left them."""
    for folder in (run, run / "checkpoints"):
        remove_leftovers(folder)
    for folder in (run / "checkpoints").glob("step-*"):
        if folder.is_dir() and not paths.is_checkpoint(folder):
            shutil.rmtree(folder, ignore_errors=True)


def load_state(checkpoint: Path) -> TrainState:
    """Raises CheckpointError where state.json is damaged, of another step or of a newer format."""
    state = TrainState.from_dict(read_versioned(checkpoint / "state.json"))
    if paths.checkpoint_dir(Path(), state.step).name != checkpoint.resolve().name:
        raise CheckpointError(f"{checkpoint / 'state.json'} is damaged: it is of step {state.step}.")
    return state


def require_size(config: ModelConfig, checkpoint: Path) -> None:
    """Check that a checkpoint can hold a model of this shape, before memory is taken for it.

    Raises:
        CheckpointError: the file is too small for that many parameters, or missing.
    """
    file = checkpoint / "model.safetensors"
    n_bytes = file.stat().st_size if paths.is_file(file) else 0
    parameters = sizing.count_parameters(config).total
    if parameters > n_bytes > 0:
        raise CheckpointError(
            f"{checkpoint} does not fit its run's config.json: {n_bytes:,} bytes cannot hold "
            f"{parameters:,} parameters."
        )


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


def load_model(run: Path, checkpoint: Path, *, device: str, dtype: str) -> GPT:
    """The model of a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: it is missing, damaged, of a newer format, or holds numbers that are not finite.
    """
    config = read_run(run).config.model
    require_size(config, checkpoint)
    place = pick_device(device)
    with place, _Uninitialised():
        model = GPT(config)
    load_parameters(model, checkpoint)
    model = model.to(dtype=pick_dtype(dtype, place))
    _require_finite(model, checkpoint)
    return model.eval()


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


def is_run(folder: Path) -> bool:
    """Tells a run, also a damaged one, from other folders with a config.json: those are never replaced."""
    if paths.checkpoints(folder):
        return True
    return "corpus_hash" in read_facts(folder / "config.json")


def read_facts(file: Path) -> dict[str, Any]:
    """A small JSON object of a run that may be missing or damaged: empty then."""
    if not paths.is_file(file):
        return {}
    try:
        return read_json(file)
    except ConfigError:
        return {}
