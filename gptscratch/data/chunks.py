"""Arguments and results of readers: chunks of text, counts of a pass over a corpus, sizes, errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from gptscratch.config import DataConfig
from gptscratch.data.sources import Source
from gptscratch.data.token_files import Removed
from gptscratch.errors import CorpusError


class Documents(NamedTuple):
    """Some documents in a row; the first may continue the last one of those before."""

    texts: list[str]  # at least one
    complete: bool  # whether the last one ends here


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is held in memory at once, so that it is bounded whatever the corpus's size and form."""

    block: int = 1 << 18  # bytes read at once: with 1 << 20 the C heap fragments to ten times what is used
    chunk: int = 1 << 17  # characters of a document
    longest: int = 1 << 26  # characters of a line, or of a field of a table
    whole: int = 16_000_000  # characters of a document that is cleaned as a whole
    sample: int = 32_000_000  # characters kept between the two passes over a corpus
    batch: int = 1 << 20  # characters encoded at once
    small: int = 32 << 20  # bytes: a smaller corpus is found again by its content, others by size and time


@dataclass
class ReadCounts:
    """Counts of a pass over a corpus; complete at its end."""

    skipped: int = 0  # files of folders that are not text, may not be read, or are gone
    replaced: int = 0  # characters U+FFFD in files that were read with errors="replace"
    encodings: Counter[str] = field(default_factory=Counter)  # files by encoding
    removed: dict[str, Removed] = field(default_factory=dict)  # by each cleaning step


@dataclass(frozen=True)
class Reading:
    """The arguments of a reader."""

    source: Source
    config: DataConfig
    counts: ReadCounts
    on_bytes: Callable[[int], None]  # called with the position in the file
    sizes: Sizes


def in_batches(documents: Iterable[str], size: int) -> Iterator[Documents]:
    """Whole documents, together of about ``size`` characters; longer ones are divided."""
    texts: list[str] = []
    characters = 0
    for text in documents:
        start = 0
        while len(text) - start > size:
            at = start + split_point(text[start : start + size + 1], size)
            yield Documents([*texts, text[start:at]], False)
            texts, characters, start = [], 0, at
        texts.append(text[start:])
        characters += len(text) - start
        if characters > size:
            yield Documents(texts, True)
            texts, characters = [], 0
    if texts:
        yield Documents(texts, True)


def split_point(text: str, size: int) -> int:
    """The last place in the second half of a chunk that is before white space and after none."""
    for space in (" ", "\n", "\t"):
        at = text.rfind(space, size // 2, size)
        while at > 0:
            if not text[at - 1].isspace():
                return at
            at = text.rfind(space, size // 2, at)
    return size


def unix_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def too_long(where: str, what: str, longest: int) -> CorpusError:
    return CorpusError(
        f"{where}: {what} is longer than {longest:,} characters, which is not read.",
        "Is a quotation mark or a line end missing? A document of any length can be a plain text file.",
    )


def no_column(where: str, column: str, columns: list[str]) -> CorpusError:
    known = ", ".join(columns[:20])
    return CorpusError(f"{where} has no column {column!r}.", f"Name one with --text-column. It has: {known}.")
