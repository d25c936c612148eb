"""A run's folder: its name, its lock, and config.json, which describes the run.

config.json is the first file of a new run and the last to go when a run is replaced: the folder of a run is
a run at every moment, and a folder with nothing but a lock is free.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import gptscratch
from gptscratch import paths
from gptscratch.config import LENGTHS, RunConfig, all_settings, qualified, read_json
from gptscratch.data.sources import split_weights
from gptscratch.errors import CheckpointError, ConfigError, RunError, disk_errors, require
from gptscratch.files import remove_folder, write_json
from gptscratch.tokenizer import Tokenizer

# The format of config.json and state.json. 1 had other names of settings and order of batches; 2 shuffled
# every corpus in memory, where 3 computes the order of more than four million rows.
FORMAT = 3
LOCK = ".lock"  # in the run's folder; it holds the number of the process that trains the run
_KEPT = (
    "train.optimizer", "train.documents", "train.keep_file",
    "train.lora_rank", "train.lora_alpha", "train.lora_targets", "train.lora_dropout",
)  # fmt: skip  # settings of training that a resume cannot change


@dataclass(frozen=True)
class RunRecord:
    """The content of a run's config.json."""

    config: RunConfig
    corpus_hash: str
    tokens: str  # the folder of its token files
    end_of_text: int | None  # id of the token between documents
    parameters: int
    split: Mapping[str, Any] | None = None  # how the corpus was split; runs of older versions lack it
    imported: Mapping[str, Any] | None = None  # where imported weights are from; such a run has no corpus
    base: str | None = None  # the hash of base.safetensors, in a run that trains adapters
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name != "config"}
        return {**self.config.to_dict(), **own, "version": gptscratch.__version__}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunRecord:
        """Raises ConfigError where a value is missing or wrong."""
        rest = dict(values)
        rest.pop("version", None)
        own = {field.name: rest.pop(field.name, None) for field in fields(cls) if field.name != "config"}
        record = cls(config=RunConfig.from_dict(rest), **own)
        end, train = record.end_of_text, record.config.train
        valid = {
            "corpus_hash": isinstance(record.corpus_hash, str),
            "tokens": isinstance(record.tokens, str),
            "end_of_text": end is None or (type(end) is int and 0 <= end < record.config.model.vocab_size),
            "parameters": type(record.parameters) is int and record.parameters >= 0,
            "base": record.base is None or isinstance(record.base, str),
            "split": record.split is None or _is_split(record.split),
            "imported": record.imported is None
            or _is_import(record.imported, record.config.model.vocab_size),
        }
        for name, is_valid in valid.items():
            require(is_valid, f"{name} is {own[name]!r}.")
        lengths = [getattr(train, name.removeprefix("train.")) for name in LENGTHS]
        require(any(lengths) or record.imported is not None, "the training length is missing.")
        return record


def _is_split(values: Any) -> bool:
    counts = (
        [values.get(f"{side}_tokens") for side in ("train", "val")] if isinstance(values, dict) else [None]
    )
    return all(type(number) is int and number >= 0 for number in counts)


def _is_import(values: Any, vocab_size: int) -> bool:
    if not isinstance(values, dict) or not isinstance(values.get("stop_ids"), list):
        return False
    named = all(isinstance(values.get(name), str) for name in ("source", "model_type"))
    return named and all(type(i) is int and 0 <= i < vocab_size for i in values["stop_ids"])


@contextlib.contextmanager
def new_run(config: RunConfig, out: str | Path | None, *, replace: bool = False) -> Iterator[Path]:
    """The folder of a new run, locked until the end. Without a name it is named after the corpus.

    The folder is made at once, so that no other process takes the name while the corpus is prepared.

    Raises:
        ConfigError: as ``require_free``.
        RunBusyError: another process trains a run in this folder.
    """
    if out is not None or config.name:
        run = Path(out).expanduser() if out is not None else paths.run_dir(config.name or "")
        require_free(run, replace=True)  # before a lock is made in a folder of something else
        with held(run):
            require_free(run, replace=replace)
            yield run
        return
    with contextlib.ExitStack() as stack:
        for run in filter(is_unused, _folders_named_after(config.data.corpus)):
            with contextlib.suppress(RunBusyError):
                stack.enter_context(held(run))
                if is_unused(run):
                    break
                stack.close()  # meanwhile another process finished a run here
        yield run


def _folders_named_after(corpus: tuple[str, ...]) -> Iterator[Path]:
    names, _ = split_weights(corpus)
    first = names[0] if names else "python"
    stem = paths.usable_name("stdin" if first == "-" else Path(first).resolve().name.split(".")[0])
    yield paths.run_dir(stem)
    for number in itertools.count(2):
        yield paths.run_dir(f"{stem}-{number}")


class RunBusyError(CheckpointError):
    """Another process trains this run."""


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Make the folder if needed and hold its lock; a folder that was made and is still unused is removed.

    Raises:
        RunBusyError: another process holds the lock.
        RunError: the folder cannot be made.
    """
    existed = run.is_dir()
    with disk_errors(f"making the run's folder {run}"):
        run.mkdir(parents=True, exist_ok=True)
    file = run / LOCK
    if file.is_symlink():
        file.unlink()  # it could lead out of the folder
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
        file.write_text(str(os.getpid()), encoding="ascii")
    except Timeout:
        raise RunBusyError(
            f"{run.name} is being trained by {_holder(file)}.",
            "Wait until it has ended, or stop it; Ctrl-C saves it first.",
        ) from None
    except OSError:
        pass  # the file system has no locks, or a locked file cannot be written to
    try:
        yield
    finally:
        if is_unused(run):
            with contextlib.suppress(OSError):
                file.unlink()
                if not existed:
                    run.rmdir()
        lock.release()


def is_unused(run: Path) -> bool:
    """Whether the folder is missing or holds nothing but a lock and temporary files."""
    files = run.iterdir() if run.is_dir() else []
    return not run.is_file() and all(file.name == LOCK or file.match(".*.tmp") for file in files)


def _holder(file: Path) -> str:
    try:
        return f"process {int(file.read_text(encoding='ascii'))}"
    except (OSError, ValueError):  # Windows keeps other processes from reading a locked file
        return "another process"


def require_free(run: Path, *, replace: bool = False) -> None:
    """Check that a run may be made in this folder. A run without a checkpoint may always be replaced.

    Raises:
        ConfigError: a run is there already and ``replace`` is false, or the folder holds something else.
    """
    if is_run(run):
        require(
            replace or not paths.checkpoints(run),
            f"The run {run.name} exists already, in {run}.",
            "Choose another --name, continue it with --resume, or replace it with --force.",
        )
        require_own_files(run)
    else:
        require(is_unused(run), f"{run} exists and is not a run.", "Name an empty or a new folder.")


def is_run(folder: Path) -> bool:
    """Tells a run, also a damaged one, from other folders with a config.json, which are never replaced."""
    return bool(paths.checkpoints(folder)) or "corpus_hash" in read_facts(folder / "config.json")


def create_run(run: Path, record: RunRecord, tokenizer: Tokenizer, plan: Mapping[str, Any]) -> None:
    """Write config.json, tokenizer.json and plan.json, and delete the run that was in this folder."""
    with disk_errors(f"making the run's folder {run}"):
        run.mkdir(parents=True, exist_ok=True)
        for name in ("best.json", "last.json"):  # before what they name
            (run / name).unlink(missing_ok=True)
        for _, folder in paths.checkpoints(run):
            remove_folder(folder)
        for file in run.iterdir():
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            elif file.name not in ("config.json", LOCK):
                file.unlink()
        write_json(run / "config.json", record.to_dict())
        tokenizer.save(run / "tokenizer.json")
        write_json(run / "plan.json", plan)


def read_run(run: Path) -> RunRecord:
    """Raises CheckpointError where config.json is damaged or of a newer format; as ``require_own_files``."""
    require_own_files(run)
    values = read_versioned(run / "config.json")
    try:
        return RunRecord.from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"{run / 'config.json'} is damaged: {error.message}") from None


def require_own_files(run: Path) -> None:
    """Check that no link leads out of a run's folder: all that a command reads, changes or deletes is in it.

    Raises:
        CheckpointError: one does.
    """
    folder = Path(os.path.realpath(run))
    for file in run.rglob("*"):
        if file.is_symlink() and not Path(os.path.realpath(file)).is_relative_to(folder):
            raise CheckpointError(
                f"{file} is a link that leads out of the run's folder.",
                "Replace it by what it leads to. The whole folder of a run may be a link.",
            )


def resume_config(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """A run's settings with the changes that a resume may make: those of training.

    Raises:
        ConfigError: another setting would change.
    """
    changes = qualified(settings)
    fixed = [all_settings()[key].label for key in changes if not key.startswith("train.") or key in _KEPT]
    require(not fixed, f"A resumed run keeps its {', '.join(fixed)}.", "Start a new run to change it.")
    lengths = dict.fromkeys(LENGTHS) if LENGTHS & changes.keys() else {}
    return config.with_settings(lengths | changes)


def read_versioned(file: Path) -> dict[str, Any]:
    """The object in config.json or state.json.

    Raises:
        CheckpointError: it cannot be read, or a newer gptscratch wrote it.
    """
    try:
        values = read_json(file)
    except ConfigError as error:
        reason = error.message.removeprefix(f"{file} ")
        raise CheckpointError(f"{file} is damaged or missing: it {reason}") from None
    number = values.get("format")
    if type(number) is not int:
        raise CheckpointError(f"{file} is damaged, or not from a run: it has no format number.")
    if number > FORMAT:
        raise CheckpointError(
            f"{file} has format {number}; this gptscratch reads up to {FORMAT}.", "Update gptscratch."
        )
    return values


def read_facts(file: Path) -> dict[str, Any]:
    """A small JSON object of a run; empty where it is missing or damaged."""
    try:
        return read_json(file)
    except ConfigError:
        return {}


@contextlib.contextmanager
def disk_errors_in(run: Path, doing: str) -> Iterator[None]:
    """Turn an error of the disk (no space, no permission) into a RunError that says what is saved."""
    try:
        yield
    except OSError as error:
        if not (run / "config.json").is_file():
            raise RunError(f"The folder {run} was deleted or moved during training.") from None
        saved = "Nothing of this run was saved yet."
        for step, _ in paths.checkpoints(run):
            saved = f"It is saved up to step {step:,}: gptscratch train --resume {paths.typed(run)}"
        raise RunError(f"The disk reported an error while {doing}: {error}.", saved) from None
