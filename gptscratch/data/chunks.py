"""Chunks of text, the arguments of the functions that read them, and the counts of what they find.

A chunk is text in UTF-8 in which the byte 0xff, which UTF-8 never contains, ends each document. A document
may have any size, so a chunk may end inside of one: before a space that follows a word. GPT-2's
pre-tokenization splits there too, so that the ids do not change.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptscratch.config import DataConfig
from gptscratch.data.sources import Source

END = b"\xff"  # of a document
_HASHED = 1 << 16  # bytes at the beginning of a document, at most a chunk, which decide its side
_BREAK = re.compile(r"(?s:.*)\S(?= )|(?s:.*)\S(?=\s)")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is held in memory at once, so that it is bounded whatever the corpus's size and form."""

    chunk: int = 1 << 17  # bytes read at once, and about those of a chunk
    longest: int = 1 << 26  # characters of a line, or of a field of a table
    whole: int = 16_000_000  # bytes of a document that is cleaned as a whole
    sample: int = 32_000_000  # bytes kept between the two passes over a corpus
    small: int = 32 << 20  # bytes: a smaller corpus is found again by its content, others by size and time


@dataclass(frozen=True, kw_only=True)
class Removed:
    """Counts of what one cleaning step removed."""

    step: str
    documents: int = 0  # dropped
    characters: int = 0  # with those of the dropped documents; below 0 where a step made text longer
    changed: int = 0  # documents kept, but changed


@dataclass
class ReadCounts:
    """Counts of a pass over a corpus; complete at its end."""

    skipped: int = 0  # files of folders that are not text, may not be read, or are gone
    replaced: int = 0  # characters U+FFFD in files that were read with errors="replace"
    encodings: Counter[str] = field(default_factory=Counter)  # files by encoding
    formats: set[str] = field(default_factory=set)  # of the files that were read; "json": read as plain text
    columns: set[str] = field(default_factory=set)  # names other than "text" of the only columns of tables
    cleaning: dict[str, Counter[str]] = field(default_factory=dict)  # the fields of Removed, by step

    @property
    def removed(self) -> tuple[Removed, ...]:
        """By each cleaning step, in order."""
        return tuple(Removed(step=step, **counts) for step, counts in self.cleaning.items())


@dataclass(frozen=True)
class Reading:
    """The arguments of a reader."""

    source: Source
    config: DataConfig
    counts: ReadCounts
    sizes: Sizes
    on_bytes: Callable[[int], None]  # called with the position in the file


def divided(text: str, size: int) -> Iterator[bytes]:
    """A document in parts of at most ``size`` characters; nothing of one that is white space alone."""
    if not text or text.isspace():
        return
    start = 0
    while len(text) - start > size:
        end = break_point(text, start, start + size)
        yield text[start:end].encode()
        start = end
    yield text[start:].encode() + END


def break_point(text: str, start: int, end: int) -> int:
    """The last place in the second half of a chunk that is before white space and after none."""
    found = _BREAK.match(text, (start + end) // 2, end)
    return found.end() if found else end


def texts_of(data: bytes) -> tuple[list[str], list[bool]]:
    """The texts of a chunk, and whether each ends its document."""
    *texts, rest = data.split(END)
    ends = [True] * len(texts)
    if rest:
        texts.append(rest)
        ends.append(False)
    return [text.decode() for text in texts], ends


class Chunk(NamedTuple):
    """A chunk and its place in the corpus."""

    component: int  # which of several corpora
    start: int  # in characters of the component
    end: int
    hashes: NDArray[np.uint64]  # of its documents; of one that began before it, the hash of its beginning
    sizes: NDArray[np.int64]  # bytes of its documents in this chunk
    data: bytes


def located(parts: Iterable[bytes], component: int, size: int) -> Iterator[Chunk]:
    """The parts of a component in chunks of about ``size`` bytes, with their places."""
    end, open_hash = 0, b""  # of the document that the chunk before ends in
    for data in _joined(parts, size):
        texts = data.split(END)
        first_bytes = np.frombuffer(data, np.int8) >= -64  # the others of a character are 0x80 to 0xbf
        start, end = end, end + int(np.count_nonzero(first_bytes)) - (len(texts) - 1)
        if not texts[-1]:
            texts.pop()
        new = texts[1:] if open_hash else texts
        hashes = [hashlib.blake2b(text[:_HASHED], digest_size=8).digest() for text in new]
        if open_hash:
            hashes.insert(0, open_hash)
        open_hash = b"" if data.endswith(END) else hashes[-1]
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        yield Chunk(component, start, end, np.frombuffer(b"".join(hashes), "<u8"), sizes, data)


def _joined(parts: Iterable[bytes], size: int) -> Iterator[bytes]:
    chunk: list[bytes] = []
    length = 0
    for part in parts:
        chunk.append(part)
        length += len(part)
        if length >= size:
            yield b"".join(chunk)
            chunk, length = [], 0
    if chunk:
        yield b"".join(chunk)
