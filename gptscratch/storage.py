"""Files of ours: JSON objects, replaced in one step, and tensors; both flushed to the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptscratch.config import FORMAT, read_json
from gptscratch.errors import CheckpointError, ConfigError


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises OSError where the disk refuses."""
    try:
        save_file({n: t.detach().contiguous() for n, t in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from None
    sync(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Raises CheckpointError where the file is missing, cut short or no safetensors file."""
    try:
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


def read_versioned(file: Path) -> dict[str, Any]:
    """The object in config.json or state.json, without its format.

    Raises:
        CheckpointError: it cannot be read, or a newer gptscratch wrote it.
    """
    try:
        values = read_json(file)
    except ConfigError as error:
        raise CheckpointError(f"{file} is damaged or missing: {error.message}") from None
    version = values.pop("format", None)
    if not isinstance(version, int):
        raise CheckpointError(f"{file} is damaged, or not a run's: it names no format.")
    if version > FORMAT:
        raise CheckpointError(
            f"{file} has format {version}; this gptscratch reads up to {FORMAT}.",
            "Run: pip install --upgrade gptscratch",
        )
    return values


def sync(path: Path) -> None:
    """Flush a file, or a folder's names, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
