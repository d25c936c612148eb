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
from safetensors.torch import load_file
from torch import Tensor

from gptscratch.errors import CheckpointError

# The number formats that the weights of a run can have, and their names in a file.
STORED = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    """Write tensors of one type; equal tensors make equal bytes.

    Where FSDP shards a tensor, all processes must call ``whole`` on each one in the same order.

    Raises:
        OSError: the disk has no space or cannot be written to.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    (dtype,) = {tensor.dtype for tensor in tensors.values()} or {torch.float32}
    save_streamed(path, shapes, dtype, map(whole, tensors.values()), **metadata)


def save_streamed(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    tensors: Iterable[Tensor],
    **metadata: str,
) -> None:
    """Write a file with one tensor in memory at a time.

    The format: the length of the header in 8 bytes, the header as JSON, then the numbers without gaps
    (https://huggingface.co/docs/safetensors).

    Args:
        shapes: by name, in the order of ``tensors``, which are all of type ``dtype``.
    """
    header: dict[str, Any] = {"__metadata__": metadata or {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": STORED[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.unlink(missing_ok=True)  # the tensors may be mapped from an old file of this name
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Raises CheckpointError where the file is missing, truncated or not a safetensors file."""
    with reading(path):
        return load_file(path)


@torch.no_grad()
def load_into(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors of a file, one at a time, into those of the same names; of a sharded one its own rows.

    Raises:
        CheckpointError: as ``load_tensors``, or one is missing or of another shape; then nothing changes.
    """
    shapes = load_shapes(path)
    for name, tensor in tensors.items():
        if shapes.get(name) != tuple(tensor.shape):
            raise CheckpointError(f"{path} does not fit its run: {name} is missing or of another shape.")
    with reading(path), safe_open(path, "pt") as file:
        for name, tensor in tensors.items():
            rows = row_range(tensor)
            found = file.get_tensor(name) if rows is None else file.get_slice(name)[rows]
            own_rows(tensor).copy_(found)


@torch.no_grad()
def own_rows(tensor: Any) -> Tensor:
    """What this process has of a tensor: some rows of a DTensor, which FSDP made; of any other, all."""
    found: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return found


def row_range(tensor: Any) -> slice | None:
    """Which rows of a sharded tensor are in this process, as torch.chunk divides them; None: it is whole."""
    if not hasattr(tensor, "to_local"):
        return None
    most = math.ceil(len(tensor) / tensor.device_mesh.size())
    start = min(len(tensor), most * tensor.device_mesh.get_local_rank())
    return slice(start, min(len(tensor), start + most))


@torch.no_grad()
def whole(tensor: Any) -> Tensor:
    """A tensor with the parts of all processes, which call this together, if FSDP shards it."""
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found


def load_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes in a file, from its header alone.

    Raises:
        CheckpointError: as ``load_tensors``, or a tensor is in a number format that is never saved.
    """
    with reading(path), safe_open(path, "pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        for name, part in parts.items():
            if part.get_dtype() not in STORED.values():
                raise CheckpointError(f"{path} is damaged: {name} is of type {part.get_dtype()}.")
        return {name: tuple(part.get_shape()) for name, part in parts.items()}


def load_metadata(path: Path) -> Mapping[str, str]:
    """What a file's header says in addition to names and shapes; errors as ``load_tensors``."""
    with reading(path), safe_open(path, "pt") as file:
        return file.metadata() or {}


def hash_of(file: Path) -> str:
    """The SHA-256 of a file's content, which many processors compute fast; errors as ``load_tensors``."""
    found = hashlib.sha256()
    with reading(file), file.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()


@contextlib.contextmanager
def reading(path: Path, hint: str = "Use another checkpoint of the run, or train again.") -> Iterator[None]:
    """Errors as ``load_tensors`` where a safetensors file that is read inside is missing or damaged."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a regular file")  # a pipe or a device could be read without end
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or missing ({error}).", hint) from None
