"""The documents of one file: a reader for each format, from bytes to chunks of text.

A document may have any size, so it comes in chunks of about ``Sizes.chunk`` characters. They end before a
space that follows a word: GPT-2's pre-tokenization splits there too, so that the ids do not change.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

from gptscratch.config import DataConfig
from gptscratch.data.encoding import encoding_of, undecodable
from gptscratch.data.sources import Source
from gptscratch.data.token_files import Removed
from gptscratch.errors import CorpusError, MissingExtraError

END_OF_TEXT = "<|endoftext|>"
_HALVES = ("utf-7", "unicode-escape", "raw-unicode-escape")  # may decode to half of a surrogate pair
_PARQUET_BYTES, _PARQUET_ROWS = 1 << 24, 64  # taken at once at most


class TextChunk(NamedTuple):
    """A document or a part of one."""

    text: str
    ends_document: bool


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
    """What is counted while a corpus is read; complete at the end."""

    skipped: int = 0  # files of folders that are not text, may not be read, or are gone
    replaced: int = 0  # characters U+FFFD in files that were read with errors="replace"
    encodings: Counter[str] = field(default_factory=Counter)  # files by encoding
    removed: dict[str, Removed] = field(default_factory=dict)  # by each cleaning step


@dataclass(frozen=True)
class Reading:
    """What a reader needs."""

    source: Source
    config: DataConfig
    counts: ReadCounts
    on_bytes: Callable[[int], None]  # called with the position in the file
    sizes: Sizes


def read_documents(reading: Reading) -> Iterator[TextChunk]:
    """The documents of one file in chunks; documents of white space alone are left out.

    Raises:
        CorpusError: bytes that are not text, a missing column, a damaged row.
        MissingExtraError: the format or the compression needs a package that is not installed.
    """
    return READERS[reading.source.format](reading)


def _read_text(reading: Reading) -> Iterator[TextChunk]:
    """Documents end at each separator; one line end on either side belongs to it."""
    separator = (reading.config.separator or "").replace("\\n", "\n").replace("\\t", "\t") or END_OF_TEXT
    trims = bool(separator.strip())
    hold = len(separator) + 1  # a separator and the line end before it may span two blocks
    rest, begun, fresh = "", False, False  # begun: a part of this document is out; fresh: a separator ended
    for block in _decoded(reading):
        rest += block
        # Each "in" is one scan by the C library; a search for the whole separator takes ten times as long.
        *done, rest = rest.split(separator) if all(letter in rest for letter in separator) else (rest,)
        for text in done:
            text = text.removeprefix("\n") if fresh and not begun else text
            text = text.removesuffix("\n") if trims else text
            if begun or text.strip():
                yield from _chunks(text, reading.sizes.chunk)
            begun, fresh = False, trims
        while len(rest) > reading.sizes.chunk + hold:
            rest = rest.removeprefix("\n") if fresh and not begun else rest
            at = _split_point(rest, reading.sizes.chunk)
            if begun or rest[:at].strip():
                yield TextChunk(rest[:at], False)
                begun = True
            rest = rest[at:]
    rest = rest.removeprefix("\n") if fresh and not begun else rest
    if begun or rest.strip():
        yield from _chunks(rest, reading.sizes.chunk)


def _read_jsonl(reading: Reading) -> Iterator[TextChunk]:
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
            raise _no_column(where, column, list(row))
        text = row[column]
        if not isinstance(text, str | None):
            raise CorpusError(f"{where}: {column!r} is not text but {text!r:.40}.")
        if text and text.strip():
            text = _whole_characters(text) if "\\u" in line else text
            yield from _chunks(_newlines(text), reading.sizes.chunk)


def _read_table(reading: Reading) -> Iterator[TextChunk]:
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
            raise _no_column(name, wanted, header)
        at = header.index(wanted) if header else 0
        for row in rows:
            if len(row) > at and row[at].strip():
                yield from _chunks(row[at], reading.sizes.chunk)
    except csv.Error as error:
        where = f"{name}, line {rows.line_num:,}"
        if "field larger than" in str(error):
            raise _too_long(where, "a field", reading.sizes.longest) from None
        raise CorpusError(f"{where}: {error}.") from None
    finally:
        csv.field_size_limit(limit)


def _read_parquet(reading: Reading) -> Iterator[TextChunk]:
    try:
        parquet, arrow = import_module("pyarrow.parquet"), import_module("pyarrow")
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    name, number = reading.source.name, 0
    with reading.source.open() as (raw, content):
        try:
            file = parquet.ParquetFile(content, buffer_size=1 << 20)
            column = _parquet_column(file, name, reading.config.text_column or "", arrow.types)
            for rows in file.iter_batches(parquet_rows(file, column), columns=[column]):
                values = rows.column(0)
                if arrow.types.is_dictionary(values.type):
                    values = values.dictionary_decode()
                reading.on_bytes(raw.tell())
                for data in values.cast(arrow.large_binary()).to_pylist():
                    number += 1
                    text = _parquet_text(data or b"", f"{name}, row {number:,}", column, reading)
                    if text.strip():
                        yield from _chunks(text, reading.sizes.chunk)
        except MemoryError:
            raise CorpusError(
                f"{name}: the memory does not hold one of its row groups.",
                "Write it with smaller row groups, and this column without a dictionary.",
            ) from None
        except (arrow.ArrowException, OSError) as error:
            raise CorpusError(f"{name} cannot be read: {error}.", "Is it complete?") from None


Reader = Callable[[Reading], Iterator[TextChunk]]
READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "text": _read_text,
        "jsonl": _read_jsonl,
        "csv": _read_table,
        "tsv": _read_table,
        "parquet": _read_parquet,
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


def _chunks(text: str, size: int) -> Iterator[TextChunk]:
    """A whole document, or the rest of one."""
    start = 0
    while len(text) - start > size:
        at = start + _split_point(text[start : start + size + 1], size)
        yield TextChunk(text[start:at], False)
        start = at
    yield TextChunk(text[start:] if start else text, True)


def _split_point(text: str, size: int) -> int:
    """The last place in the second half of a chunk that is before white space and after none."""
    for space in (" ", "\n", "\t"):
        at = text.rfind(space, size // 2, size)
        while at > 0:
            if not text[at - 1].isspace():
                return at
            at = text.rfind(space, size // 2, at)
    return size


def _lines(reading: Reading) -> Iterator[str]:
    """Lines with their \\n; a list of parts, so that a long line is joined once."""
    parts: list[str] = []
    size = 0
    for block in _decoded(reading):
        first, *others = block.split("\n")
        parts.append(first)
        size += len(first)
        if size > reading.sizes.longest:
            raise _too_long(reading.source.name, "a line", reading.sizes.longest)
        for line in others:
            yield "".join(parts) + "\n"
            parts, size = [line], len(line)
    if any(parts):
        yield "".join(parts)


def _joined(first: str, lines: Iterable[str]) -> Iterator[str]:
    if first:
        yield first
        yield from lines


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _whole_characters(text: str) -> str:
    """Half of a surrogate pair is not a character, and nothing can encode it: U+FFFD replaces it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _parquet_column(file: Any, name: str, wanted: str, types: Any) -> str:
    schema = file.schema_arrow
    wanted = wanted or ("text" if len(schema.names) != 1 else schema.names[0])
    if wanted not in schema.names:
        raise _no_column(name, wanted, schema.names)
    kind = schema.field(wanted).type
    inner = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(inner) or types.is_large_string(inner) or str(inner) == "string_view"):
        raise CorpusError(
            f"{name}: the column {wanted!r} does not hold text but {kind}.",
            "Name another with --text-column.",
        )
    return wanted


def parquet_rows(file: Any, column: str) -> int:
    """How many rows are taken at once: about 16 MB, judged by the row group with the largest ones."""
    most = 1.0
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        for part in map(group.column, range(group.num_columns)):
            if part.path_in_schema == column and group.num_rows:
                most = max(most, part.total_uncompressed_size / group.num_rows)
    return int(min(_PARQUET_ROWS, max(1, _PARQUET_BYTES // most)))


def _parquet_text(data: bytes, where: str, column: str, reading: Reading) -> str:
    try:
        text = data.decode(errors=reading.config.encoding_errors)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{where}: the text in {column!r} is not UTF-8: byte 0x{data[error.start]:02x} at offset "
            f"{error.start:,}.",
            "--encoding-errors replace reads such bytes as U+FFFD.",
        ) from None
    if len(text) > reading.sizes.longest:
        raise _too_long(where, f"the text in {column!r}", reading.sizes.longest)
    if reading.config.encoding_errors == "replace":
        reading.counts.replaced += text.count("\ufffd")
    return _newlines(text)


def _too_long(where: str, what: str, longest: int) -> CorpusError:
    return CorpusError(
        f"{where}: {what} is longer than {longest:,} characters, which is not read.",
        "Is a quotation mark or a line end missing? A document of any length can be a plain text file.",
    )


def _no_column(where: str, column: str, columns: list[str]) -> CorpusError:
    known = ", ".join(columns[:20])
    return CorpusError(f"{where} has no column {column!r}.", f"Name one with --text-column. It has: {known}.")
