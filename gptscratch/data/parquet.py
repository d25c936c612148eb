"""Parquet: the texts of one column, read in batches of a bounded number of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from gptscratch.data.chunks import Reading, no_column, too_long, unix_newlines
from gptscratch.errors import CorpusError, MissingExtraError

_BYTES, _ROWS = 1 << 24, 64  # taken at once at most


def parquet_documents(reading: Reading) -> Iterator[str]:
    try:
        parquet, arrow = import_module("pyarrow.parquet"), import_module("pyarrow")
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    name, number = reading.source.name, 0
    with reading.source.open() as (raw, content):
        try:
            file = parquet.ParquetFile(content, buffer_size=1 << 20)
            column = _column(file, name, reading.config.text_column or "", arrow.types)
            for rows in file.iter_batches(rows_at_once(file, column), columns=[column]):
                values = rows.column(0)
                if arrow.types.is_dictionary(values.type):
                    values = values.dictionary_decode()
                reading.on_bytes(raw.tell())
                for data in values.cast(arrow.large_binary()).to_pylist():
                    number += 1
                    text = _text(data or b"", f"{name}, row {number:,}", column, reading)
                    if text.strip():
                        yield text
        except MemoryError:
            raise CorpusError(
                f"{name}: one of its row groups does not fit into memory.",
                "Write it with smaller row groups, and this column without a dictionary.",
            ) from None
        except (arrow.ArrowException, OSError) as error:
            raise CorpusError(f"{name} cannot be read: {error}.", "Is it complete?") from None


def _column(file: Any, name: str, wanted: str, types: Any) -> str:
    schema = file.schema_arrow
    wanted = wanted or ("text" if len(schema.names) != 1 else schema.names[0])
    if wanted not in schema.names:
        raise no_column(name, wanted, schema.names)
    kind = schema.field(wanted).type
    inner = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(inner) or types.is_large_string(inner) or str(inner) == "string_view"):
        raise CorpusError(
            f"{name}: the column {wanted!r} does not hold text but {kind}.",
            "Name another with --text-column.",
        )
    return wanted


def rows_at_once(file: Any, column: str) -> int:
    """How many rows are taken at once: about 16 MB, judged by the row group with the largest ones."""
    most = 1.0
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        for part in map(group.column, range(group.num_columns)):
            if part.path_in_schema == column and group.num_rows:
                most = max(most, part.total_uncompressed_size / group.num_rows)
    return int(min(_ROWS, max(1, _BYTES // most)))


def _text(data: bytes, where: str, column: str, reading: Reading) -> str:
    try:
        text = data.decode(errors=reading.config.encoding_errors)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{where}: the text in {column!r} is not UTF-8: byte 0x{data[error.start]:02x} at offset "
            f"{error.start:,}.",
            "--encoding-errors replace reads such bytes as U+FFFD.",
        ) from None
    if len(text) > reading.sizes.longest:
        raise too_long(where, f"the text in {column!r}", reading.sizes.longest)
    if reading.config.encoding_errors == "replace":
        reading.counts.replaced += text.count("\ufffd")
    return unix_newlines(text)
