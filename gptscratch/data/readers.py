"""The documents of one file: a reader for each format, from bytes to chunks of text.

A document may have any size, so it comes in chunks of about ``Sizes.chunk`` characters. They end before a
space that follows a word: GPT-2's pre-tokenization splits there too, so that the ids do not change.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from gptscratch.data.chunks import (
    Documents,
    Reading,
    in_batches,
    no_column,
    split_point,
    too_long,
    unix_newlines,
)
from gptscratch.data.encoding import encoding_of, undecodable
from gptscratch.data.parquet import parquet_documents
from gptscratch.errors import CorpusError

END_OF_TEXT = "<|endoftext|>"
_HALVES = ("utf-7", "unicode-escape", "raw-unicode-escape")  # may decode to half of a surrogate pair


def read_documents(reading: Reading) -> Iterator[Documents]:
    """The documents of one file; those of white space alone are left out.

    Raises:
        CorpusError: bytes that are not text, a missing column, a damaged row.
        MissingExtraError: the format or the compression needs a package that is not installed.
    """
    reader = READERS.get(reading.source.format)
    return in_batches(reader(reading), reading.sizes.chunk) if reader else _read_text(reading)


def _read_text(reading: Reading) -> Iterator[Documents]:
    """Documents end at each separator; one line end on either side belongs to it."""
    separator = (reading.config.separator or "").replace("\\n", "\n").replace("\\t", "\t") or END_OF_TEXT
    trims = bool(separator.strip())
    hold = len(separator) + 1  # a separator and the line end before it may span two blocks
    rest, begun, fresh = "", False, False  # begun: a part of this document is out; fresh: a separator ended
    for block in _decoded(reading):
        rest += block
        # Each "in" is one scan by the C library; a search for the whole separator takes ten times as long.
        *done, rest = rest.split(separator) if all(letter in rest for letter in separator) else (rest,)
        if done:
            first, *others = done
            first = first.removeprefix("\n") if fresh and not begun else first
            if trims:
                first, others = (
                    first.removesuffix("\n"),
                    [o.removeprefix("\n").removesuffix("\n") for o in others],
                )
            texts = [text for text in others if text and not text.isspace()]
            yield from in_batches([first, *texts] if begun or first.strip() else texts, reading.sizes.chunk)
            begun, fresh = False, trims
        while len(rest) > reading.sizes.chunk + hold:
            rest = rest.removeprefix("\n") if fresh and not begun else rest
            at = split_point(rest, reading.sizes.chunk)
            if begun or rest[:at].strip():
                yield Documents([rest[:at]], False)
                begun = True
            rest = rest[at:]
    rest = rest.removeprefix("\n") if fresh and not begun else rest
    if begun or rest.strip():
        yield from in_batches([rest], reading.sizes.chunk)


def _jsonl_documents(reading: Reading) -> Iterator[str]:
    name, column = reading.source.name, reading.config.text_column or "text"
    for number, line in enumerate(_lines(reading), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number:,}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{where}: invalid JSON ({error}).") from None
        except RecursionError:
            raise CorpusError(f"{where}: the JSON is nested too deep.") from None
        if not isinstance(row, dict):
            raise CorpusError(f"{where}: a JSON object is expected on each line.")
        if column not in row:
            raise no_column(where, column, list(row))
        text = row[column]
        if not isinstance(text, str | None):
            raise CorpusError(f"{where}: {column!r} is not text but {text!r:.40}.")
        if text and text.strip():
            text = _whole_characters(text) if "\\u" in line else text
            yield unix_newlines(text)


def _table_documents(reading: Reading) -> Iterator[str]:
    name = reading.source.name
    lines = _lines(reading)
    first = next(lines, "")
    delimiter = "\t" if reading.source.format == "tsv" else max(",;\t", key=first.count)
    limit = csv.field_size_limit(reading.sizes.longest)  # the module's own is 128 kB
    try:
        rows = csv.reader(_joined(first, lines), delimiter=delimiter)
        header = next(rows, [])
        wanted = reading.config.text_column or ("text" if len(header) != 1 else header[0])
        if header and wanted not in header:
            raise no_column(name, wanted, header)
        at = header.index(wanted) if header else 0
        for row in rows:
            if len(row) > at and row[at].strip():
                yield row[at]
    except csv.Error as error:
        where = f"{name}, line {rows.line_num:,}"
        if "field larger than" in str(error):
            raise too_long(where, "a field", reading.sizes.longest) from None
        raise CorpusError(f"{where}: {error}.") from None
    finally:
        csv.field_size_limit(limit)


Reader = Callable[[Reading], Iterator[str]]
READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "jsonl": _jsonl_documents,
        "csv": _table_documents,
        "tsv": _table_documents,
        "parquet": parquet_documents,
    }
)


def _decoded(reading: Reading) -> Iterator[str]:
    """Text in blocks, with every line end as \\n, also where CR and LF are in two blocks."""
    name, replaces = reading.source.name, reading.config.encoding_errors == "replace"
    with reading.source.open() as (file, content):
        block = content.read(reading.sizes.block)
        encoding = encoding_of(block, name, reading.config.encoding)
        reading.counts.encodings[encoding] += 1
        decoder = codecs.getincrementaldecoder(encoding)(reading.config.encoding_errors)
        newlines = io.IncrementalNewlineDecoder(decoder, translate=True)
        start = 0  # of the block, in the content
        while True:
            waiting = len(decoder.getstate()[0])
            try:
                text = newlines.decode(block, final=not block)
            except UnicodeError as error:
                raise undecodable(name, encoding, error, block, start - waiting) from None
            if replaces:
                reading.counts.replaced += text.count("\ufffd")
            if text:
                yield _whole_characters(text) if encoding in _HALVES else text
            if not block:
                return
            start += len(block)
            reading.on_bytes(file.tell())
            block = content.read(reading.sizes.block)


def _lines(reading: Reading) -> Iterator[str]:
    """Lines with their \\n; a list of parts, so that a long line is joined once."""
    parts: list[str] = []
    size = 0
    for block in _decoded(reading):
        first, *others = block.split("\n")
        parts.append(first)
        size += len(first)
        if size > reading.sizes.longest:
            raise too_long(reading.source.name, "a line", reading.sizes.longest)
        for line in others:
            yield "".join(parts) + "\n"
            parts, size = [line], len(line)
    if any(parts):
        yield "".join(parts)


def _joined(first: str, lines: Iterable[str]) -> Iterator[str]:
    if first:
        yield first
        yield from lines


def _whole_characters(text: str) -> str:
    """Half of a surrogate pair is not a character, and nothing can encode it: U+FFFD replaces it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
