"""Files of named tensors: safetensors, never a pickle."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptscratch.errors import CheckpointError


def save_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    """Write a file; equal tensors make equal bytes if there is one entry of metadata, or none.

    Raises:
        OSError: the disk has no space or cannot be written to.
    """
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path, metadata=metadata or {"format": "pt"})
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


def load_metadata(path: Path) -> Mapping[str, str]:
    """What a file's header says in addition to names and shapes; errors as ``load_tensors``."""
    with _reading(path), safe_open(path, "pt") as file:
        return file.metadata() or {}


def hash_of(file: Path) -> str:
    """The hash of a file's content; errors as ``load_tensors``."""
    found = hashlib.blake2b(digest_size=16)
    with _reading(file), file.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()


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
