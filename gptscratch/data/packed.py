"""Packed files as streams of what is in them: gzip, and zstd by an extra."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import IO, Any, cast

from gptscratch.errors import MissingExtraError

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 14  # packed bytes taken at once: what repeats unpacks to thousands of times its size


def unpacked(file: IO[bytes]) -> IO[bytes]:
    """The file itself, or what is packed in it; its first bytes decide.

    Raises:
        MissingExtraError: it is a .zst, and zstandard is not installed.
    """
    start = file.read(4)
    file.seek(0)
    if start[:2] == _GZIP:
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb"))
    if start != _ZSTD:
        return file
    try:
        module = import_module("zstandard")
    except ImportError:
        raise MissingExtraError("zstandard", "zstd") from None
    return cast("IO[bytes]", _Zstd(file, module.ZstdDecompressor().decompressobj))


def unpacking_errors() -> tuple[type[Exception], ...]:
    """What a damaged file raises while it is read."""
    module = sys.modules.get("zstandard")
    return (EOFError, zlib.error, OSError, *((module.ZstdError,) if module else ()))


class _Zstd(io.RawIOBase):
    """Frames one behind the other. The package's own reader takes a file that was cut for a whole one."""

    def __init__(self, file: IO[bytes], new_frame: Callable[[], Any]) -> None:
        self._file = file
        self._new_frame = new_frame
        self._frame: Any = None
        self._packed = b""  # read, and behind the last frame's end
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._packed or self._file.read(_CHUNK)
            self._packed = b""
            if not data and self._frame is not None:
                raise EOFError("it ends inside of a frame")
            if not data:
                return 0
            self._frame = self._frame or self._new_frame()
            self._ready = memoryview(self._frame.decompress(data))
            if self._frame.eof:
                self._packed = self._frame.unused_data
                self._frame = None
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size
