"""The documents of one file: a reader for each format."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import chain
from pathlib import PurePath
from types import MappingProxyType

from gptscratch.data.chunks import END, Reading, break_point, divided
from gptscratch.data.encoding import decoded, whole_characters
from gptscratch.errors import CorpusError, MissingExtraError

END_OF_TEXT = "<|endoftext|>"
_ROWS = 16  # of a parquet file that are taken at once: one may be a whole book


def read_documents(reading: Reading) -> Iterator[bytes]:
    """The documents of one file, each in one part or more; those of white space alone are left out.

    Raises:
        CorpusError: bytes that are not text, a missing column, a damaged row.
        MissingExtraError: the format or the compression needs a package that is not installed.
    """
    reader = READERS.get(reading.source.format)
    if reader is None:
        yield from _text_documents(reading)
        return
    reading.counts.formats.add(reading.source.format)
    for text in reader(reading):
        yield from divided(text, reading.sizes.chunk)


def _text_documents(reading: Reading) -> Iterator[bytes]:
    """Documents end at each separator; one line end on either side belongs to it."""
    separator = (reading.config.separator or "").replace("\\n", "\n").replace("\\t", "\t") or END_OF_TEXT
    trims = bool(separator.strip())
    hold = len(separator) + 1  # a separator and the line end before it may be in two blocks
    rest, begun, ended = "", False, False  # begun: a part of this document is out; ended: by a separator
    kind = ""
    for block in decoded(reading):
        kind = kind or _text_format(reading.source.name, block)
        reading.counts.formats.add(kind)
        text = rest + (block.removeprefix("\n") if ended else block)
        *whole, rest = text.split(separator)
        if whole and trims:
            text = text.replace("\n" + separator, separator).replace(separator + "\n", separator)
            *whole, rest = text.split(separator)
        ended = trims and bool(whole) and not rest
        for document in whole:
            if begun or (document and not document.isspace()):
                yield document.encode() + END
            begun = False
        if len(rest) > reading.sizes.chunk + hold:
            at = break_point(rest, 0, len(rest) - hold)
            begun = begun or not rest[:at].isspace()
            if begun:
                yield rest[:at].encode()
            rest = rest[at:]
    if begun or rest.strip():
        yield rest.encode() + END


def _text_format(name: str, start: str) -> str:
    is_json = ".json" in PurePath(name.lower()).suffixes and start.lstrip().startswith(("[", "{"))
    return "json" if is_json else "text"


def _jsonl_documents(reading: Reading) -> Iterator[str]:
    column: str | None = None
    for number, line in enumerate(_lines(reading), 1):
        if line.isspace():
            continue
        where = f"{reading.source.name}, line {number:,}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{where}: invalid JSON ({error}).") from None
        except RecursionError:
            raise CorpusError(f"{where}: the JSON is nested too deep.") from None
        if not isinstance(row, dict):
            raise CorpusError(f"{where}: a JSON object is expected on each line.")
        column = _column(where, reading, list(row)) if column is None else column
        text = row.get(column)
        if not isinstance(text, str | None):
            raise CorpusError(f"{where}: {column!r} is not text but {text!r:.40}.")
        if text:
            yield _unix_newlines(whole_characters(text) if "\\u" in line else text)


def _table_documents(reading: Reading) -> Iterator[str]:
    lines = _lines(reading)
    blank, first = next(((n, line) for n, line in enumerate(lines) if not line.isspace()), (0, ""))
    delimiter = "\t" if reading.source.format == "tsv" else max(",;\t|", key=first.count)
    limit = csv.field_size_limit(reading.sizes.longest)  # the module's own is 128 kB
    try:
        rows = csv.reader(chain([first] if first else [], lines), delimiter=delimiter)
        header = [name.strip() for name in next(rows, [])]
        at = header.index(_column(reading.source.name, reading, header)) if header else 0
        for row in rows:
            if len(row) > at:
                yield row[at]
    except csv.Error as error:
        where = f"{reading.source.name}, line {blank + rows.line_num:,}"
        if "field larger than" in str(error):
            raise _too_long(where, "a field", reading) from None
        raise CorpusError(f"{where}: {error}.") from None
    finally:
        csv.field_size_limit(limit)


def _parquet_documents(reading: Reading) -> Iterator[str]:
    try:
        parquet, arrow = import_module("pyarrow.parquet"), import_module("pyarrow")
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    name, number = reading.source.name, 0
    with reading.source.open() as (raw, content):
        try:
            file = parquet.ParquetFile(content, buffer_size=1 << 20)
            column = _column(name, reading, file.schema_arrow.names)
            kind = file.schema_arrow.field(column).type
            inner = kind.value_type if arrow.types.is_dictionary(kind) else kind
            if str(inner) not in ("string", "large_string", "string_view"):
                message = f"{name}: the column {column!r} does not hold text but {kind}."
                raise CorpusError(message, "Name another with --text-column.")
            for rows in file.iter_batches(_ROWS, columns=[column]):
                reading.on_bytes(raw.tell())
                values = rows.column(0)
                if arrow.types.is_dictionary(values.type):
                    values = values.dictionary_decode()
                for data in values.cast(arrow.large_binary()).to_pylist():
                    number += 1
                    yield _parquet_text(data or b"", f"{name}, row {number:,}", column, reading)
        except MemoryError:
            raise CorpusError(
                f"{name}: one of its row groups does not fit into memory.",
                "Write it with smaller row groups, and this column without a dictionary.",
            ) from None
        except (arrow.ArrowException, OSError) as error:
            raise CorpusError(f"{name} cannot be read: {error}.", "Is it complete?") from None


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
        raise _too_long(where, f"the text in {column!r}", reading)
    if reading.config.encoding_errors == "replace":
        reading.counts.replaced += text.count("\ufffd")
    return _unix_newlines(text)


Reader = Callable[[Reading], Iterator[str]]
READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "jsonl": _jsonl_documents,
        "csv": _table_documents,
        "tsv": _table_documents,
        "parquet": _parquet_documents,
    }
)


def _lines(reading: Reading) -> Iterator[str]:
    """Lines with their \\n; a list of parts, so that a long line is joined once."""
    parts: list[str] = []
    size = 0
    for block in decoded(reading):
        first, *others = block.split("\n")
        parts.append(first)
        size += len(first)
        if size > reading.sizes.longest:
            raise _too_long(reading.source.name, "a line", reading)
        for line in others:
            yield "".join(parts) + "\n"
            parts, size = [line], len(line)
    if any(parts):
        yield "".join(parts)


def _column(where: str, reading: Reading, columns: list[str]) -> str:
    """The column of the text: the one asked for, or the only one, or "text"."""
    wanted = reading.config.text_column or (columns[0] if len(columns) == 1 else "text")
    if wanted not in columns:
        hint = f"Name one with --text-column. It has: {', '.join(columns[:20])}."
        raise CorpusError(f"{where} has no column {wanted!r}.", hint)
    if wanted not in ("text", reading.config.text_column):
        reading.counts.columns.add(wanted)
    return wanted


def _unix_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _too_long(where: str, what: str, reading: Reading) -> CorpusError:
    return CorpusError(
        f"{where}: {what} is longer than {reading.sizes.longest:,} characters, which is not read.",
        "Is a quotation mark or a line end missing? A document of any length can be a plain text file.",
    )
