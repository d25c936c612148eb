"""Writing token files so that an interrupted call can go on where it stopped.

While they are written, the files are called train.bin.part and val.bin.part. Every few seconds what was
written is forced to the disk, and unfinished.json then says how far it reaches. What a killed process wrote
after that is cut off again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

import gptscratch
from gptscratch.data.lock import is_taken
from gptscratch.data.token_files import SPLITS, Manifest, TokenArray, manifest_json
from gptscratch.errors import CorpusError, RunError

UNFINISHED = "unfinished.json"
LOCK = "unfinished.lock"
PART = ".part"  # behind the name of a file that is not finished
NEW = ".new"  # behind the name of one that is written at once
FILES = ("train.bin", "val.bin", "tokenizer.json", "manifest.json")
_DERIVED = "train.suffixes"  # of novelty.py, made from train.bin
_SAVED = 5.0  # seconds between two states on disk
_ABANDONED = 7 * 86_400.0  # seconds, after which nobody is expected to go on


@dataclass
class Done:
    """How much of a corpus is written."""

    pieces: int = 0
    characters: int = 0
    bytes: int = 0  # of the text in UTF-8
    counts: dict[str, dict[str, int]] = field(default_factory=lambda: {side: _zeros() for side in SPLITS})
    sections: list[int] = field(default_factory=list)  # tokens of each section's training side
    val_sections: list[int] = field(default_factory=list)
    val_unknown_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """What unfinished.json says."""

    version: str  # of gptscratch: another one may cut the text into other pieces
    recipe: str  # as in the manifest
    corpus_hash: str
    done: Done


def _zeros() -> dict[str, int]:
    return dict.fromkeys(("documents", "characters", "bytes", "tokens", "unknown"), 0)


def read_unfinished(folder: Path) -> Unfinished | None:
    """None where there is none, or none that this version can go on with."""
    try:
        values = json.loads((folder / UNFINISHED).read_text(encoding="utf-8"))
        found = Unfinished(**{**values, "done": Done(**values["done"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.version == gptscratch.__version__ else None


def is_ours(name: str) -> bool:
    """Whether a file of this name may stand in a folder of token files."""
    return name.removesuffix(NEW).removesuffix(PART) in (*FILES, UNFINISHED, LOCK, _DERIVED)


def discard(folder: Path) -> None:
    """Delete what is unfinished in a folder. Whoever holds its lock deletes the folder, if that is all."""
    for file in folder.iterdir():
        if is_ours(file.name) and file.name not in (*FILES, LOCK, _DERIVED):
            with contextlib.suppress(OSError):
                file.unlink()


def discard_stale(tokens: Path, corpus_hash: str) -> bool:
    """Delete the unfinished files of a text that is no more, and those that nobody went on with for a week.

    Returns whether there were some of that text. Those that a process is writing now stay.
    """
    found = False
    for file in tokens.glob(f"*/{UNFINISHED}"):
        folder = file.parent
        state = read_unfinished(folder)
        stale = state is not None and state.corpus_hash == corpus_hash
        with contextlib.suppress(OSError):
            if (stale or time.time() - file.stat().st_mtime > _ABANDONED) and not is_taken(folder / LOCK):
                discard(folder)
                (folder / LOCK).unlink(missing_ok=True)
                folder.rmdir()
                found = found or stale
    return found


class ShardWriter:
    """Writes both sides as they come; ``finish`` makes them valid.

    with ShardWriter(folder, np.uint16, tokenizer_json, recipe, corpus_hash) as writer:
        writer.add("train", ids)
        writer.save()
        writer.finish(manifest)

    Attributes:
        done: what the files hold; its owner keeps it up to date. At first what an earlier call left.
    """

    def __init__(
        self,
        folder: Path,
        dtype: type[np.unsignedinteger[Any]],
        tokenizer_json: str,
        recipe: str,
        corpus_hash: str,
    ) -> None:
        """Raises RunError where the folder cannot be written."""
        self._folder = folder
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._recipe, self._corpus_hash = recipe, corpus_hash
        self._names = {side: folder / f"{side}.bin{PART}" for side in SPLITS}
        self._saved = time.monotonic()
        with _writing(folder):
            self.done = self._left_before() or Done()
            self._files = {side: name.open("ab") for side, name in self._names.items()}
            for side, file in self._files.items():
                file.truncate(self._size(side))
            write_whole(folder / f"tokenizer.json{PART}", tokenizer_json)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        useless = kind is not None and (issubclass(kind, CorpusError) or not self.done.pieces)
        if kind is not None and not useless:
            with contextlib.suppress(RunError):
                self.save(now=True)
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        if useless:
            discard(self._folder)

    def add(self, side: str, ids: TokenArray) -> None:
        with _writing(self._folder):
            self._files[side].write(ids.astype(self._dtype, copy=False).data)

    def save(self, *, now: bool = False) -> None:
        """Let an interrupted call go on from here; every few seconds only, unless ``now``.

        Raises:
            RunError: the disk is full.
        """
        if not now and time.monotonic() - self._saved < _SAVED:
            return
        state = Unfinished(
            version=gptscratch.__version__,
            recipe=self._recipe,
            corpus_hash=self._corpus_hash,
            done=self.done,
        )
        with _writing(self._folder):
            self._sync()
            write_whole(self._folder / UNFINISHED, json.dumps(dataclasses.asdict(state)))
        self._saved = time.monotonic()

    def finish(self, manifest: Manifest) -> None:
        """Put both files, the tokenizer and, last, the manifest in their places.

        Raises:
            RunError: the disk is full, or the folder cannot be written.
        """
        with _writing(self._folder):
            (self._folder / "manifest.json").unlink(missing_ok=True)  # while files change, none is valid
            self._sync()
            for file in self._files.values():
                file.close()
            for name in FILES[:3]:
                (self._folder / f"{name}{PART}").replace(self._folder / name)
            write_whole(self._folder / "manifest.json", manifest_json(manifest))
            (self._folder / UNFINISHED).unlink(missing_ok=True)

    def _left_before(self) -> Done | None:
        state = read_unfinished(self._folder)
        if state is None or state.recipe != self._recipe:
            return None
        self.done = state.done
        whole = all(
            name.is_file() and name.stat().st_size >= self._size(side) for side, name in self._names.items()
        )
        return state.done if whole else None

    def _size(self, side: str) -> int:
        return self.done.counts[side]["tokens"] * int(self._dtype.itemsize)

    def _sync(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())


def write_whole(file: Path, text: str) -> None:
    """Under another name first: the file is there whole or not at all."""
    temporary = file.with_name(f"{file.name}{NEW}")
    with temporary.open("w", encoding="utf-8", newline="\n") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into a RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written: {error.strerror}.", "Is the disk full? --out puts it elsewhere."
        ) from None
