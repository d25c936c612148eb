"""Files and folders that are complete or absent: written under a temporary name, flushed, renamed.

A temporary name is ``.<name>.<process>.tmp``, in the same folder. A killed process leaves it;
``remove_leftovers`` deletes it later.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_REMOVED = ".removed"  # after the name of a folder that is being deleted


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it replaces ``path`` when the block ends without an error."""
    temporary = _temporary(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to write to; it becomes ``path``, which must not exist, when the block succeeds.

    Its files are flushed to the disk before.
    """
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            sync(file)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


@contextlib.contextmanager
def new_files(folder: Path, last: str) -> Iterator[Path]:
    """A temporary folder inside of ``folder``, which exists and stays; its files are moved there at the end.

    It may be a mounted volume, or the current folder of a shell. The file ``last`` completes the others.
    """
    temporary = _temporary(folder / "new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        (folder / last).unlink(missing_ok=True)
        for file in sorted(temporary.iterdir(), key=lambda file: file.name == last):
            sync(file)
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(folder)


def write_text(path: Path, text: str) -> None:
    """Replace a file by this text in UTF-8."""
    with new_file(path) as temporary:
        # The name of a corpus, which may be part of a page, need not be UTF-8.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a file by a JSON object."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def remove_folder(folder: Path) -> None:
    """Delete a folder; it is renamed first, so that it never exists in part under its name."""
    temporary = _temporary(folder.with_name(f"{folder.name}{_REMOVED}"))  # next to a new folder of this name
    shutil.rmtree(temporary, ignore_errors=True)
    folder.rename(temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete what killed processes left in ``folder``, or of one name; no process may be writing it now."""
    for leftover, of in leftovers(folder):
        if name not in (None, of):
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def leftovers(folder: Path) -> Iterator[tuple[Path, str]]:
    """The temporary files and folders in ``folder``, each with the name that it has when it is complete."""
    for temporary in folder.glob(".*.[0-9]*.tmp"):
        yield temporary, temporary.name[1:].rsplit(".", 2)[0].removesuffix(_REMOVED)


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
