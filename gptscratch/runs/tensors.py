"""Tensors in safetensors files, never pickles."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptscratch.errors import CheckpointError


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises OSError where the disk has no space or cannot be written to."""
    try:
        save_file({n: t.detach().contiguous() for n, t in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Raises CheckpointError where the file is missing, truncated or not a safetensors file."""
    with _reading(path):
        return load_file(path)


def load_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes in a file, from its header alone; errors as ``load_tensors``."""
    with _reading(path), safe_open(path, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a regular file")  # a pipe or a device could be read without end
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is damaged or missing ({error}).", "Use another checkpoint of the run, or train again."
        ) from None
