"""JSON objects, replaced in one step, and tensors, both flushed to the disk; folders, deleted in one step."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptscratch.errors import CheckpointError


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises OSError where the disk refuses."""
    try:
        save_file({n: t.detach().contiguous() for n, t in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from None
    sync(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Raises CheckpointError where the file is missing, cut short or not a safetensors file."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a regular file")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is damaged or missing ({error}).", "Take another checkpoint of the run, or train again."
        ) from None


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a small JSON file in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Delete a folder such that it is either there, whole, or gone under its name."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    folder.rename(temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders that a killed process left in ``folder``."""
    for leftover in folder.glob(".*.[0-9]*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or a folder's names, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
