"""From the bytes of one file to pieces of documents: encodings, line ends, rows and separators.

A document may be of any size, so it comes in pieces of about ``PIECE`` characters. They are cut before
a space that follows a word: there GPT-2's pre-tokenisation cuts too, and the ids stay the same.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from gptscratch.config import DataConfig
from gptscratch.data.encoding import (
    counting_errors,
    encoding_of,
    n_replaced,
    undecodable,
    undecodable_text,
)
from gptscratch.data.packed import unpacking_errors
from gptscratch.data.parquet import MOST_CHARACTERS, no_column, parquet_texts, too_long
from gptscratch.data.sources import Source
from gptscratch.errors import CorpusError

PIECE = 1 << 17  # characters
END_OF_TEXT = "<|endoftext|>"
_HALVES = ("utf-7", "unicode-escape", "raw-unicode-escape")  # may decode to half of a surrogate pair
_CHUNK = 1 << 18  # bytes read at once: with 1 << 20 the C heap frays to ten times what is used


class Piece(NamedTuple):
    text: str
    ends: bool  # a document with it


@dataclass
class Tally:
    """What is counted while files are read."""

    replaced: int = 0  # bytes that the encoding does not know, read as U+FFFD
    encodings: Counter[str] = field(default_factory=Counter)  # files by their encoding


def read_pieces(
    source: Source, config: DataConfig, on_bytes: Callable[[int], None], tally: Tally
) -> Iterator[Piece]:
    """The documents of one file in pieces; documents of white space alone are left out.

    Raises:
        CorpusError: bytes that are no text, a missing column, a broken row.
    """
    if source.format == "parquet":
        return (
            piece
            for text in parquet_texts(source, config, on_bytes, tally)
            if text.strip()
            for piece in _cut(text)
        )
    chunks = _decoded(source, config, on_bytes, tally)
    if source.format == "text":
        return _split(chunks, config.separator.replace("\\n", "\n").replace("\\t", "\t"))
    rows = _json_texts if source.format == "jsonl" else _table_texts
    return (
        piece for text in rows(source, chunks, config.text_column) if text.strip() for piece in _cut(text)
    )


def _decoded(
    source: Source, config: DataConfig, on_bytes: Callable[[int], None], tally: Tally
) -> Iterator[str]:
    """Text in chunks, with every line end a \\n, also where CR and LF fall into two chunks."""
    with source.open() as (file, content):
        chunk = _read(content, source.name)
        encoding = encoding_of(chunk, source.name, config.encoding)
        tally.encodings[encoding.lower()] += 1
        errors = counting_errors() if config.encoding_errors == "replace" else config.encoding_errors
        decoder = codecs.getincrementaldecoder(encoding)(errors)
        newlines = io.IncrementalNewlineDecoder(decoder, translate=True)
        makes_halves = codecs.lookup(encoding).name in _HALVES
        start = 0  # of the chunk, in the content
        while True:
            waiting = len(decoder.getstate()[0])
            replaced = n_replaced()
            try:
                text = newlines.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise undecodable(source.name, error, start - waiting) from None
            except UnicodeError as error:
                raise undecodable_text(source.name, encoding, error, chunk) from None
            tally.replaced += n_replaced() - replaced
            if text:
                yield _whole_characters(text) if makes_halves else text
            if not chunk:
                return
            start += len(chunk)
            on_bytes(file.tell())
            chunk = _read(content, source.name)


def _read(content: IO[bytes], name: str) -> bytes:
    try:
        return content.read(_CHUNK)
    except unpacking_errors() as error:
        raise CorpusError(f"{name} cannot be read to its end: {error}.", "Is the file whole?") from None


def _split(chunks: Iterable[str], separator: str) -> Iterator[Piece]:
    """Plain text into documents at each separator, with a line end on either side of it taken along."""
    mark = separator or END_OF_TEXT
    trims = bool(mark.strip())
    hold = len(mark) + 1  # a separator, and the line end before it, may lie across two chunks
    rest, begun, fresh = "", False, False  # begun: pieces of this document are out; fresh: just separated
    for chunk in chunks:
        rest += chunk
        # Each "in" is one scan by the C library; a search for the whole mark takes ten times as long.
        *done, rest = rest.split(mark) if all(letter in rest for letter in mark) else (rest,)
        for text in done:
            text = text.removeprefix("\n") if fresh and not begun else text
            text = text.removesuffix("\n") if trims else text
            if begun or text.strip():
                yield from _cut(text)
            begun, fresh = False, trims
        while len(rest) > PIECE + hold:
            if fresh and not begun:
                rest = rest.removeprefix("\n")
            at = _cut_place(rest)
            if begun or rest[:at].strip():
                yield Piece(rest[:at], False)
                begun = True
            rest = rest[at:]
    rest = rest.removeprefix("\n") if fresh and not begun else rest
    if begun or rest.strip():
        yield from _cut(rest)


def _cut(text: str) -> Iterator[Piece]:
    """A whole document, or the rest of one."""
    start = 0
    while len(text) - start > PIECE:
        at = start + _cut_place(text[start : start + PIECE + 1])
        yield Piece(text[start:at], False)
        start = at
    yield Piece(text[start:] if start else text, True)


def _cut_place(text: str) -> int:
    """The last place in the second half of a piece that is before a space and after no space."""
    for space in (" ", "\n", "\t"):
        at = text.rfind(space, PIECE // 2, PIECE)
        while at > 0:
            if not text[at - 1].isspace():
                return at
            at = text.rfind(space, PIECE // 2, at)
    return PIECE


def _lines(name: str, chunks: Iterable[str]) -> Iterator[str]:
    """Lines with their \\n; a list of parts, so that a long line is joined once.

    Raises:
        CorpusError: a line is longer than ``MOST_CHARACTERS``.
    """
    parts: list[str] = []
    size = 0
    for chunk in chunks:
        first, *others = chunk.split("\n")
        parts.append(first)
        size += len(first)
        if size > MOST_CHARACTERS:
            raise too_long(name, "a line")
        for line in others:
            yield "".join(parts) + "\n"
            parts, size = [line], len(line)
    if any(parts):
        yield "".join(parts)


def _json_texts(source: Source, chunks: Iterable[str], column: str) -> Iterator[str]:
    column = column or "text"
    for number, line in enumerate(_lines(source.name, chunks), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{source.name}, line {number:,}: invalid JSON ({error}).") from None
        except RecursionError:
            raise CorpusError(f"{source.name}, line {number:,}: the JSON is nested too deep.") from None
        if not isinstance(row, dict):
            raise CorpusError(f"{source.name}, line {number:,}: a JSON object is expected on each line.")
        if column not in row:
            raise no_column(f"{source.name}, line {number:,}", column, list(row))
        text = row[column]
        if text is None:
            continue
        if not isinstance(text, str):
            raise CorpusError(f"{source.name}, line {number:,}: {column!r} is not text but {text!r:.40}.")
        text = text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
        yield _whole_characters(text) if "\\u" in line else text


def _whole_characters(text: str) -> str:
    """Half of a surrogate pair is not a character, and no encoder takes it: U+FFFD replaces it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _table_texts(source: Source, chunks: Iterable[str], column: str) -> Iterator[str]:
    lines = _lines(source.name, chunks)
    first = next(lines, "")
    delimiter = "\t" if source.format == "tsv" else max(",;\t", key=first.count)
    limit = csv.field_size_limit(MOST_CHARACTERS)  # the module's own is 128 kB
    try:
        rows = csv.reader(_chain(first, lines), delimiter=delimiter)
        header = next(rows, [])
        wanted = column or ("text" if len(header) != 1 else header[0])
        if header and wanted not in header:
            raise no_column(source.name, wanted, header)
        at = header.index(wanted) if header else 0
        for row in rows:
            if len(row) > at:
                yield row[at]
    except csv.Error as error:
        if "field larger than" in str(error):
            raise too_long(f"{source.name}, line {rows.line_num:,}", "a field") from None
        raise CorpusError(f"{source.name}, line {rows.line_num:,}: {error}.") from None
    finally:
        csv.field_size_limit(limit)


def _chain(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
        yield from lines
