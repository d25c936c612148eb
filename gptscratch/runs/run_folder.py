"""One process at a time per run folder, and what an error of the disk means for the run in it.

The lock is a file in the run's folder. The operating system releases it however its holder ends, so a
process that was killed holds no lock.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from gptscratch import paths
from gptscratch.errors import CheckpointError, RunError

LOCK = ".lock"
_ATTEMPTS = 3  # another process may remove an empty folder between making it and locking it


class RunBusyError(CheckpointError):
    """Another process trains this run."""


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Make the folder if needed and hold its lock; afterwards remove one that was made and is still empty.

    Raises:
        RunBusyError: another process holds the lock.
        RunError: the folder cannot be made.
    """
    existed = run.is_dir()
    lock = _taken(run)
    try:
        _write_holder(run)
        yield
    finally:
        if is_unused(run):
            with contextlib.suppress(OSError):
                (run / LOCK).unlink()
                if not existed:
                    run.rmdir()
        with contextlib.suppress(OSError):
            lock.release()


def is_unused(run: Path) -> bool:
    """Whether the folder is missing or holds nothing but a lock and temporary files."""
    if not run.exists():
        return True
    return run.is_dir() and all(
        file.name == LOCK or (file.name.startswith(".") and file.name.endswith(".tmp"))
        for file in run.iterdir()
    )


@contextlib.contextmanager
def disk_errors_in(run: Path, doing: str) -> Iterator[None]:
    """Turn an error of the disk (no space, no permission) into a RunError that says what is saved."""
    try:
        yield
    except OSError as error:
        if not (run / "config.json").is_file():
            raise RunError(
                f"The folder {run} was deleted or moved while its run was being trained.",
                "Training cannot continue, and nothing more was saved.",
            ) from None
        raise RunError(f"The disk reported an error while {doing}: {error}.", saved(run)) from None


def saved(run: Path) -> str:
    """What a run can be resumed from, in one sentence."""
    steps = [step for step, _ in paths.checkpoints(run)]
    if not steps:
        return "Nothing of this run was saved yet."
    return f"The run is saved up to step {steps[-1]:,}: gptscratch train --resume {paths.typed(run)}"


def _taken(run: Path) -> FileLock:
    for _ in range(_ATTEMPTS):
        with disk_errors_making(run):
            run.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(run / LOCK), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RunBusyError(
                f"{run.name} is being trained by {_holder(run)}.",
                "Wait until it has ended, or stop it; Ctrl-C saves it first.",
            ) from None
        except FileNotFoundError:
            continue
        except (OSError, NotImplementedError) as error:
            if not os.access(run, os.W_OK):
                raise RunError(f"The folder {run} cannot be written to: {error}.") from None
            return lock  # the file system has no locks
        if (run / LOCK).exists():
            return lock
        lock.release()
    raise RunError(f"The folder {run} cannot be locked: it is deleted again and again.")


@contextlib.contextmanager
def disk_errors_making(run: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"The run's folder {run} cannot be made: {error}.") from None


def _write_holder(run: Path) -> None:
    """Note which process holds the lock, for the message to others."""
    with contextlib.suppress(OSError):
        descriptor = os.open(run / LOCK, os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {platform.node()}")


def _holder(run: Path) -> str:
    try:
        number, _, machine = (run / LOCK).read_text(encoding="utf-8").partition(" ")
    except (OSError, ValueError):  # Windows keeps others from reading it
        number = machine = ""
    if not number.isdecimal():
        return "another process"
    return f"process {number}" + (f" on {machine}" if machine != platform.node() else "")
