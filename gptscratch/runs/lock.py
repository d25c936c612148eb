"""The lock on a run's folder: one process at a time trains a run.

The operating system releases it however its holder ends, so a process that was killed holds no lock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from gptscratch.errors import CheckpointError, disk_errors

LOCK = ".lock"  # in the run's folder; it holds the number of the process


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
    lock = FileLock(str(file), timeout=0)
    try:
        lock.acquire()
        with contextlib.suppress(OSError):
            file.write_text(str(os.getpid()), encoding="ascii")
    except Timeout:
        raise RunBusyError(
            f"{run.name} is being trained by {_holder(file)}.",
            "Wait until it has ended, or stop it; Ctrl-C saves it first.",
        ) from None
    except (OSError, NotImplementedError):
        pass  # the file system has no locks
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
    if not run.exists():
        return True
    return run.is_dir() and all(
        file.name == LOCK or (file.name.startswith(".") and file.name.endswith(".tmp"))
        for file in run.iterdir()
    )


def _holder(file: Path) -> str:
    try:
        return f"process {int(file.read_text(encoding='ascii'))}"
    except (OSError, ValueError):  # Windows keeps other processes from reading a locked file
        return "another process"
