"""Which files a corpus is: files, folders, glob patterns, stdin, Python's own library. Nothing is decoded."""

from __future__ import annotations

import difflib
import glob
import os
import re
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from io import BufferedReader
from pathlib import Path
from typing import IO, TypeVar, cast

from gptscratch import paths
from gptscratch.config import DataConfig
from gptscratch.data.packed import unpacked
from gptscratch.errors import ConfigError, CorpusError, disk_errors

Progress = Callable[[str, int, int], None]  # stage, done, total
_Result = TypeVar("_Result")

_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?(?:nan|inf)"
_WEIGHTED = re.compile(rf"(.+)=({_NUMBER})", re.IGNORECASE)
LEAST_SHARE = 1e-5  # of the weights of all corpora
_IN_MEMORY = 64 << 20  # bytes of a stream that are kept without a temporary file


class VanishedError(CorpusError):
    """A file of a folder that is gone since the folder was listed."""


class UnreadableError(CorpusError):
    """A file that may not be read, or a pipe, socket or device: in a folder it is passed over."""


@dataclass(frozen=True, slots=True)  # slots: there may be millions
class Source:
    """One file of a corpus."""

    name: str  # its path, for reading and for messages
    format: str  # text, jsonl, csv, tsv or parquet
    named: bool  # by the user: a fault stops; in a folder, what is no text is passed over
    spooled: IO[bytes] | None = None  # a copy of a stream, which can be read only once

    @contextmanager
    def open(self) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """(file, its content): the file's own position tells how far reading is, also in a .gz."""
        if self.spooled is not None:
            self.spooled.seek(0)
            yield self.spooled, unpacked(self.spooled)
            return
        try:
            if not self.named and not stat.S_ISREG(Path(self.name).stat().st_mode):  # a pipe would wait
                raise UnreadableError(f"{self.name} is not a regular file.")
            file = Path(self.name).open("rb")  # noqa: SIM115 - closed below
        except OSError as error:
            gone = isinstance(error, FileNotFoundError) and not self.named
            kind = VanishedError if gone else UnreadableError
            raise kind(f"{self.name} cannot be read: {error.strerror}.") from None
        with file:
            try:
                content = unpacked(file)
            except OSError as error:
                raise UnreadableError(f"{self.name} cannot be read: {error.strerror}.") from None
            yield file, content

    def stamp(self) -> tuple[int, int]:
        """(bytes, time of change in ns): a stream has no time, of a file that is gone both are -1."""
        if self.spooled is not None:
            return (self.spooled.seek(0, os.SEEK_END), 0)
        try:
            found = os.stat(self.name)  # noqa: PTH116 - a Path for each of a million files takes seconds
        except OSError:
            return (-1, -1)
        return (found.st_size, found.st_mtime_ns)


def until_none_vanishes(job: Callable[[], _Result], on_progress: Progress | None) -> _Result:
    """A job over a corpus: again from its start, without them, where files of a folder vanish on the way."""
    while True:
        try:
            return job()
        except VanishedError as error:
            if on_progress:
                on_progress(f"{error.message} Starting again without it.", 0, 0)


def find_sources(
    config: DataConfig, names: Sequence[str], on_progress: Progress | None = None
) -> list[Source]:
    """Every file that some names mean, folders and patterns in sorted order.

    Raises:
        CorpusError: something named does not exist, or a folder or pattern holds no file.
    """
    if not names:
        return _standard_library()
    found: list[Source] = []
    for item in names:
        if item == "-":
            found.append(Source("stdin", "text", True, _spool(sys.stdin.buffer, "stdin", on_progress)))
            continue
        path = Path(item).expanduser()
        exists = _exists(path)
        if exists and path.is_dir():
            inside = [Source(name, _format(name), False) for name in _files_below(path, config.glob)]
            if not inside:
                wanted = f" that matches {config.glob!r}" if config.glob else ""
                raise CorpusError(f"the folder {item} holds no file{wanted}.")
            found += inside
        elif exists:
            found.append(_named(path, on_progress))
        else:
            matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - pathlib takes no absolute ones
            if not matches:
                raise _missing(item, path)
            found += [_named(Path(match), on_progress) for match in matches if not Path(match).is_dir()]
    return found


def split_weights(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """``("a.txt=0.7", "b.txt=0.3")`` -> the names, and weights that sum to 1; no weights: none.

    A file whose own name ends so is a file.

    Raises:
        ConfigError: some corpora have a weight and some have none.
    """
    found = [None if os.path.exists(name) else _WEIGHTED.fullmatch(name) for name in names]  # noqa: PTH110 - no name is an error
    if not any(found):
        return tuple(names), ()
    bare = next((name for name, match in zip(names, found, strict=True) if match is None), None)
    if bare is not None:
        raise ConfigError(f"{bare} has no weight, and other corpora have one.", f"For example: {bare}=0.5")
    weights = [float(match[2]) for match in found if match]
    if not all(0 < weight < float("inf") for weight in weights):
        raise ConfigError("the weight of a corpus must be a number above 0.", "For example: a.txt=3 b.txt=1")
    shares = tuple(weight / sum(weights) for weight in weights)
    for match, share in zip(found, shares, strict=True):
        if match and share < LEAST_SHARE:
            raise ConfigError(
                f"the weight of {match[1]} is less than a hundred-thousandth of all weights.",
                "Leave it out, or give it a larger one.",
            )
    return tuple(m[1] for m in found if m), shares


def _named(path: Path, on_progress: Progress | None) -> Source:
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return Source(str(path), _format(str(path)), True)
    if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and str(path) != "/dev/stdin"):  # /dev/zero never ends
        raise UnreadableError(f"{path} is a device, not a file.", "Name a text file, or - for stdin.")
    try:
        with path.open("rb") as pipe:  # a named pipe gives its bytes once, and two passes are made
            return Source(str(path), _format(str(path)), True, _spool(pipe, str(path), on_progress))
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}.") from None


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:  # a loop of links, a folder that may not be entered, a name that is too long
        raise UnreadableError(f"{str(path)[:200]} cannot be read: {error.strerror}.") from None
    return True


def _format(name: str) -> str:
    path = Path(name.lower())
    return _FORMATS.get((path.with_suffix("") if path.suffix in (".gz", ".zst") else path).suffix, "text")


def _files_below(folder: Path, pattern: str) -> Iterator[str]:
    """Files of a folder and its folders, hidden ones left out; strings, for there may be millions."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith("."):
                continue
            path = os.path.join(root, name)  # noqa: PTH118 - a million Paths are a gigabyte
            if not pattern or fnmatch(name, pattern) or fnmatch(os.path.relpath(path, folder), pattern):
                yield path


def _standard_library() -> list[Source]:
    """The text that every machine with Python has: the library's own source, about ten megabytes."""
    root = Path(sysconfig.get_paths()["stdlib"])
    aside = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    names = [
        name for name in _files_below(root, "*.py") if not aside & set(Path(name).relative_to(root).parts)
    ]
    if not names:
        raise CorpusError(
            "no corpus is given, and this Python has no library source to take instead.",
            "Name a text: gptscratch train corpus.txt",
        )
    return [Source(name, "text", False) for name in names]


def _spool(stream: IO[bytes], name: str, on_progress: Progress | None) -> IO[bytes]:
    """A copy of a stream: small ones in memory, others in the cache directory, where token files go too."""
    with disk_errors(f"copying {name}"):
        paths.tokens_dir().mkdir(parents=True, exist_ok=True)
        place = str(paths.tokens_dir())
        spool = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=place)  # noqa: SIM115 - lives as its Source
        size = 0
        while chunk := cast("BufferedReader", stream).read1(1 << 16):  # what is there, without a wait
            size += spool.write(chunk)
            if on_progress:
                on_progress(f"reading {name}", size, 0)
    return cast("IO[bytes]", spool)


def _missing(item: str, path: Path) -> CorpusError:
    if glob.has_magic(item):
        return CorpusError(f"no file matches {item}.", f"The current folder is {Path.cwd()}.")
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f"Did you mean {path.parent / near[0]}?" if near else f"The current folder is {Path.cwd()}."
    return CorpusError(f"{item} does not exist.", hint)
