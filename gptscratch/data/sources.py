"""Which files form a corpus: files, folders, glob patterns, stdin, a default text. Nothing is decoded."""

from __future__ import annotations

import glob
import gzip
import io
import os
import re
import stat
import sys
import sysconfig
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import IO, cast

from gptscratch import paths
from gptscratch.config import DataConfig
from gptscratch.errors import ConfigError, CorpusError, MissingExtraError, disk_errors

Progress = Callable[[str, int, int], None]  # stage, done, total

_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_WEIGHTED = re.compile(r"(.+)=([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf)", re.IGNORECASE)
_LEAST_SHARE = 1e-5  # of the weights of all corpora
_IN_MEMORY = 64 << 20  # bytes of a stream that are kept without a temporary file
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class UnreadableError(CorpusError):
    """A file that is gone or may not be read, a pipe or a device: skipped in a folder."""


@dataclass(frozen=True, slots=True)  # slots: there may be millions
class Source:
    """One file of a corpus."""

    name: str  # its path, for reading and for messages
    named: bool  # by the user: an error stops; in a folder, a file that is not text is skipped
    copy: IO[bytes] | None = None  # of a stream, which can be read only once

    @property
    def format(self) -> str:
        """Text, jsonl, csv, tsv or parquet."""
        name = self.name.lower().removesuffix(".gz").removesuffix(".zst")
        return _FORMATS.get(os.path.splitext(name)[1], "text")  # noqa: PTH122

    @contextmanager
    def open(self) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """(file, its decompressed content): the position in the file shows how much has been read.

        Raises:
            UnreadableError: it cannot be opened.
            CorpusError: it ends too early or is damaged; raised while the caller reads.
        """
        try:
            if self.copy is None and not self.named and not stat.S_ISREG(os.stat(self.name).st_mode):  # noqa: PTH116
                raise UnreadableError(f"{self.name} is not a regular file.")  # a pipe would wait
            file = self.copy or Path(self.name).open("rb")  # noqa: SIM115 - closed below
        except OSError as error:
            raise UnreadableError(f"{self.name} cannot be read: {error.strerror}.") from None
        try:
            yield file, _decompressed(file)
        except _damage() as error:
            raise CorpusError(f"{self.name} cannot be read to its end: {error}.", "Is it complete?") from None
        finally:
            if self.copy is None:
                file.close()

    def size_and_time(self) -> tuple[int, int]:
        """(bytes, time of the last change in ns); (0, 0) where it cannot be read."""
        if self.copy is not None:
            return self.copy.seek(0, os.SEEK_END), 0
        try:
            found = os.stat(self.name)  # noqa: PTH116 - a Path for each of a million files takes seconds
        except OSError:
            return 0, 0
        return found.st_size, found.st_mtime_ns


def find_sources(names: Sequence[str], config: DataConfig, on_progress: Progress) -> list[Source]:
    """Every file that some names refer to, those of folders and patterns in sorted order.

    Raises:
        CorpusError: a name does not exist, or a folder or pattern has no file.
    """
    found = [] if names else _default_corpus()
    for item in names:
        path = paths.expanded(item)
        if item == "-":
            found.append(Source("stdin", True, _copied(sys.stdin.buffer, "stdin", on_progress)))
        elif not _exists(path):
            matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - pathlib takes no absolute ones
            if not matches:
                raise _missing(item, path)
            found += [_named(Path(match), on_progress) for match in matches if not Path(match).is_dir()]
        elif path.is_dir():
            files = [Source(name, False) for name in _files_below(path, config.glob or "*")]
            if not files:
                matching = f" that matches {config.glob!r}" if config.glob else ""
                raise CorpusError(f"the folder {item} holds no file{matching}.")
            found += files
        else:
            found.append(_named(path, on_progress))
    return found


def split_weights(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """``("a.txt=0.7", "b.txt=0.3")`` -> the names, and weights that sum to 1; without weights: none.

    A file whose own name ends in this way is a file.

    Raises:
        ConfigError: some corpora have a weight and some have none, or a weight is out of range.
    """
    found = [None if os.path.exists(name) else _WEIGHTED.fullmatch(name) for name in names]  # noqa: PTH110
    matches = [match for match in found if match]
    if not matches:
        return tuple(names), ()
    if len(matches) < len(names):
        bare = names[found.index(None)]
        raise ConfigError(f"{bare} has no weight, and other corpora have one.", f"For example: {bare}=0.5")
    weights = [float(match[2]) for match in matches]
    if not all(0 < weight < float("inf") for weight in weights):
        raise ConfigError("the weight of a corpus must be a number above 0.", "For example: a.txt=3 b.txt=1")
    shares = tuple(weight / sum(weights) for weight in weights)
    if min(shares) < _LEAST_SHARE:
        small = matches[shares.index(min(shares))][1]
        raise ConfigError(f"the weight of {small} is less than a hundred-thousandth of all.", "Leave it out.")
    return tuple(match[1] for match in matches), shares


def reads_stdin(config: DataConfig) -> bool:
    """Whether a part of the text comes from stdin, which cannot be read a second time."""
    return "-" in (*split_weights(config.corpus)[0], config.val_file)


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    """The file itself, or the content of a gzip or zstd file; its first bytes decide."""
    file.seek(0)
    start = file.read(4)
    file.seek(0)
    if start[:2] == _GZIP:
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb"))
    if start != _ZSTD:
        return file
    for module in ("compression.zstd", "backports.zstd"):  # the first is part of Python from 3.14 on
        try:
            return cast("IO[bytes]", import_module(module).open(file, "rb"))
        except ImportError:
            continue
    raise MissingExtraError("backports.zstd", "zstd")


def _damage() -> tuple[type[Exception], ...]:
    """The exceptions of reading a damaged or incomplete file."""
    loaded = (sys.modules.get(name) for name in ("compression.zstd", "backports.zstd"))
    return (EOFError, zlib.error, OSError, *(module.ZstdError for module in loaded if module))


def _named(path: Path, on_progress: Progress) -> Source:
    if path.is_file():
        return Source(str(path), True)
    if path.is_block_device() or (path.is_char_device() and str(path) != "/dev/stdin"):  # it may never end
        raise UnreadableError(f"{path} is a device, not a file.", "Name a text file, or - for stdin.")
    try:
        with path.open("rb") as pipe:
            return Source(str(path), True, _copied(pipe, str(path), on_progress))
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}.") from None


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:  # a loop of links, a folder without permission, a name that is too long
        raise UnreadableError(f"{str(path)[:200]} cannot be read: {error.strerror}.") from None
    return True


def _files_below(folder: Path, pattern: str) -> Iterator[str]:
    """Files of a folder and its folders without hidden ones; strings, for there may be millions."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            path = os.path.join(root, name)  # noqa: PTH118 - a million Paths are a gigabyte
            if fnmatch(name, pattern) or fnmatch(os.path.relpath(path, folder), pattern):
                yield path


def _default_corpus() -> list[Source]:
    """English prose that comes with Python: its language reference, else the source of its library."""
    try:
        topics: dict[str, str] = import_module("pydoc_data.topics").topics
    except ImportError:
        root = Path(sysconfig.get_paths()["stdlib"])
        others = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
        files = (Path(name) for name in _files_below(root, "*.py"))
        found = [Source(str(file), False) for file in files if not others & {*file.relative_to(root).parts}]
        if not found:
            hint = "Name a text: gptscratch train corpus.txt"
            raise CorpusError("no corpus is given, and this Python has no text of its own.", hint) from None
        return found
    named = ((f"Python's language reference: {name}", text) for name, text in topics.items())
    return [Source(name, True, io.BytesIO(text.encode())) for name, text in named]


def _copied(stream: IO[bytes], name: str, on_progress: Progress) -> IO[bytes]:
    """A copy of a stream, which is read more than once: a large one on the disk, in the cache directory."""
    with disk_errors(f"copying {name}"):
        paths.tokens_dir().mkdir(parents=True, exist_ok=True)
        copy = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(paths.tokens_dir()))  # noqa: SIM115
        size = 0
        while chunk := cast("io.BufferedReader", stream).read1(1 << 16):  # what is there, without waiting
            size += copy.write(chunk)
            on_progress(f"reading {name}", size, 0)
    return cast("IO[bytes]", copy)


def _missing(item: str, path: Path) -> CorpusError:
    hint = f"The current folder is {Path.cwd()}."
    if glob.has_magic(item):
        return CorpusError(f"no file matches {item}.", hint)
    entries = {entry.stem.lower(): entry for entry in path.parent.iterdir()} if path.parent.is_dir() else {}
    near = get_close_matches(path.stem.lower(), entries, n=1, cutoff=0.75)
    return CorpusError(f"{item} does not exist.", f"Did you mean {entries[near[0]]}?" if near else hint)
