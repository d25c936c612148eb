"""The lock on a run's folder: one process at a time trains a run.

The operating system releases it however its holder ends, so a process that was killed holds no lock.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from gptscratch.errors import CheckpointError, disk_errors

LOCK = ".lock"  # in the run's folder; it names the process and the machine that hold it


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
    lock = FileLock(str(run / LOCK), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunBusyError(
            f"{run.name} is being trained by {_holder(run)}.",
            "Wait until it has ended, or stop it; Ctrl-C saves it first.",
        ) from None
    except (OSError, NotImplementedError):
        pass  # the file system has no locks
    try:
        _write_holder(run)
        yield
    finally:
        if is_unused(run):
            with contextlib.suppress(OSError):
                (run / LOCK).unlink()
                if not existed:
                    run.rmdir()
        lock.release()


def is_unused(run: Path) -> bool:
    """Whether the folder is missing or holds nothing but a lock and temporary files."""
    if not run.exists():
        return True
    return run.is_dir() and all(
        file.name == LOCK or (file.name.startswith(".") and file.name.endswith(".tmp"))
        for file in run.iterdir()
    )


def _write_holder(run: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(run / LOCK, os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {platform.node()}")


def _holder(run: Path) -> str:
    try:
        number, _, machine = (run / LOCK).read_text(encoding="utf-8").partition(" ")
    except (OSError, ValueError):  # Windows keeps other processes from reading a locked file
        number = machine = ""
    if not number.isdecimal():
        return "another process"
    return f"process {number}" + (f" on {machine}" if machine != platform.node() else "")
