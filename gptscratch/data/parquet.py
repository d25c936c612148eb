"""Parquet: the texts of one column, read in batches of a bounded number of bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gptscratch.config import DataConfig
from gptscratch.data.encoding import counting_errors, n_replaced
from gptscratch.data.sources import Source
from gptscratch.errors import CorpusError, MissingExtraError

if TYPE_CHECKING:
    from gptscratch.data.readers import Tally

MOST_CHARACTERS = 1 << 26  # of a line, or of a field of a table: each is in memory several times
_BATCH_BYTES = 1 << 24  # of text that is taken at once
_ROWS = 64  # taken at once at most: the values of a dictionary are larger than what the file says


def parquet_texts(
    source: Source, config: DataConfig, on_bytes: Callable[[int], None], tally: Tally
) -> Iterator[str]:
    """The texts of a column ("text", or the only one); rows without one are left out.

    Raises:
        MissingExtraError: pyarrow is not installed.
        CorpusError: not a parquet file, no such column, or a column that does not hold text.
    """
    try:
        parquet = import_module("pyarrow.parquet")
        arrow = import_module("pyarrow")
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    with source.open() as (raw, content):
        try:
            file = parquet.ParquetFile(content, buffer_size=1 << 20)
            column = _column(file, source.name, config.text_column, arrow.types)
            number = 0
            for rows in file.iter_batches(rows_at_once(file, column), columns=[column]):
                values = rows.column(0)
                if arrow.types.is_dictionary(values.type):
                    values = values.dictionary_decode()
                on_bytes(raw.tell())
                for data in values.cast(arrow.large_binary()).to_pylist():
                    number += 1
                    if data:
                        yield _text(
                            data, f"{source.name}, row {number:,}", column, config.encoding_errors, tally
                        )
        except MemoryError:
            raise CorpusError(
                f"{source.name}: the memory does not hold one of its row groups.",
                "Write it with smaller row groups, and this column without a dictionary.",
            ) from None
        except (arrow.ArrowException, OSError) as error:
            raise CorpusError(f"{source.name} cannot be read: {error}.", "Is the file whole?") from None


def _column(file: Any, name: str, wanted: str, types: Any) -> str:
    schema = file.schema_arrow
    names = schema.names
    wanted = wanted or ("text" if len(names) != 1 else names[0])
    if wanted not in names:
        raise no_column(name, wanted, names)
    kind = schema.field(wanted).type
    inner = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(inner) or types.is_large_string(inner) or str(inner) == "string_view"):
        raise CorpusError(
            f"{name}: the column {wanted!r} does not hold text but {kind}.",
            "Name another with --text-column.",
        )
    return wanted


def rows_at_once(file: Any, column: str) -> int:
    """So many that they are about ``_BATCH_BYTES``, judged by the largest row group."""
    most = 1.0
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        for part in map(group.column, range(group.num_columns)):
            if part.path_in_schema == column and group.num_rows:
                most = max(most, part.total_uncompressed_size / group.num_rows)
    return int(min(_ROWS, max(1, _BATCH_BYTES // most)))


def _text(data: bytes, where: str, column: str, errors: str, tally: Tally) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if errors != "replace":
            raise CorpusError(
                f"{where}: the text in {column!r} is not UTF-8: byte 0x{data[error.start]:02x} at offset "
                f"{error.start:,}.",
                "--encoding-errors replace reads such bytes as U+FFFD.",
            ) from None
        before = n_replaced()
        text = data.decode(errors=counting_errors())
        tally.replaced += n_replaced() - before
    if len(text) > MOST_CHARACTERS:
        raise too_long(where, f"the text in {column!r}")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def too_long(where: str, what: str) -> CorpusError:
    return CorpusError(
        f"{where}: {what} is longer than {MOST_CHARACTERS:,} characters, which is not read.",
        "Is a quotation mark or a line end missing? A document of any length can be a plain text file.",
    )


def no_column(where: str, column: str, columns: list[str]) -> CorpusError:
    known = ", ".join(columns[:20])
    return CorpusError(f"{where} has no column {column!r}.", f"Name one with --text-column. It has: {known}.")
