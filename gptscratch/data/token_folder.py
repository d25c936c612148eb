"""A folder in which token files are made: its lock, and what may be in it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from gptscratch.data.shards import holds_shards
from gptscratch.data.sources import Progress
from gptscratch.errors import CorpusError, disk_errors
from gptscratch.files import leftovers

# The last one is made by generation/memorization.py.
FILES = ("train.bin", "val.bin", "tokenizer.json", "manifest.json", "train.suffixes")


@contextlib.contextmanager
def one_at_a_time(folder: Path, on_progress: Progress) -> Iterator[None]:
    """Holds the lock of a folder that is about to be made, and deletes what killed processes left there."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), poll_interval=0.2)
    with disk_errors(f"making {folder.parent}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.parent)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_progress("waiting for another gptscratch that writes these token files", 0, 0)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remove_leftovers(tokens: Path) -> None:
    """Delete what killed processes left of the folders in ``tokens``: a live process holds the lock."""
    for leftover, name in leftovers(tokens):
        lock = tokens / f".{name}.lock"
        if lock.exists():
            with contextlib.suppress(Timeout, OSError), FileLock(lock, timeout=0):
                shutil.rmtree(leftover, ignore_errors=True)


def is_tokens(folder: Path) -> bool:
    """Whether it holds token files, or shards of them."""
    return holds_tokens(folder) or holds_shards(folder)


def holds_tokens(folder: Path) -> bool:
    """Also of a name that is too long for a file, which ``os.path`` does not refuse."""
    return os.path.isfile(folder / "manifest.json") and any(folder.glob("*.bin"))  # noqa: PTH113


def require_free(out: Path) -> None:
    """Raises CorpusError where a folder holds something else."""
    if out.is_file():
        raise CorpusError(f"{out} is a file: a folder is needed.")
    files = out.iterdir() if out.is_dir() else ()
    known = (*FILES, ".*.lock", ".*.tmp")
    strange = [file.name for file in files if not any(map(file.match, known))]
    if strange:
        hint = "Name a new or empty folder with --out."
        raise CorpusError(f"{out} holds other files ({strange[0]}).", hint)
