"""The folder of a run: its name, its lock, and what may be made in it.

config.json is the first file of a new run and the last to go when a run is replaced: the folder of a run is
a run at every moment, and a folder with nothing but a lock is free.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gptscratch import paths
from gptscratch.config import RunConfig
from gptscratch.data.sources import split_weights
from gptscratch.errors import CheckpointError, disk_errors, require
from gptscratch.files import remove_folder, write_json
from gptscratch.runs.run import RunRecord, read_facts, require_own_files
from gptscratch.tokenizer import Tokenizer

LOCK = ".lock"  # in the run's folder; it holds the number of the process that trains the run


@contextlib.contextmanager
def new_run(config: RunConfig, out: str | Path | None, *, replace: bool = False) -> Iterator[Path]:
    """The folder of a new run, locked until the end. Without a name it is named after the corpus.

    The folder is made at once, so that no other process takes the name while the corpus is prepared.

    Raises:
        ConfigError: as ``require_free``.
        RunBusyError: another process trains a run in this folder.
    """
    if out is not None or config.name:
        run = paths.expanded(out) if out is not None else paths.run_dir(config.name or "")
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
    stem = "stdin" if first == "-" else Path(first).resolve().name.split(".")[0]
    return map(paths.run_dir, paths.names_from(stem))


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
