"""Files of named tensors: safetensors, never a pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptscratch.errors import CheckpointError

# The number formats that the weights of a run can have, and their names in a file.
STORED = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


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


def save_streamed(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, tensors: Iterable[Tensor]
) -> None:
    """Write a file with one tensor in memory at a time; ``save_tensors`` needs all of them.

    The format: the length of the header in 8 bytes, the header as JSON, then the numbers without gaps
    (https://huggingface.co/docs/safetensors).

    Args:
        shapes: by name, in the order of ``tensors``, which are all of type ``dtype``.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": STORED[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(tensor.contiguous().view(torch.uint8).numpy().data)


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
    """The SHA-256 of a file's content, which many processors compute fast; errors as ``load_tensors``."""
    found = hashlib.sha256()
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
