"""One process at a time: a lock on a file, which the system releases however its holder ends."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from gptscratch.errors import disk_errors

_PAUSE = 0.2  # seconds between two looks


@contextlib.contextmanager
def one_at_a_time(file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the lock; ``waiting`` is called while another process has it. Afterwards its file is deleted,
    and its folder if nothing else is there.

    Where a file system knows no locks, nobody waits.

    Raises:
        RunError: the file cannot be made.
    """
    while (held := _taken(file)) is None:
        waiting()
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()
            file.parent.rmdir()
        held.close()


def is_taken(file: Path) -> bool:
    """Whether another process holds the lock now."""
    if not file.exists():
        return False
    held = _taken(file)
    if held is not None:
        held.close()
    return held is None


def _taken(file: Path) -> IO[bytes] | None:
    with disk_errors(f"making {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = file.open("ab")
    # Whoever had it may have deleted the file since it was opened: then it is no lock any more.
    if _lock(handle) and os.fstat(handle.fileno()).st_nlink:
        return handle
    handle.close()
    return None


def _lock(handle: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True
