"""Parquet: the texts of one column, read a row group at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module

from gptscratch.data.sources import Source
from gptscratch.errors import CorpusError, MissingExtraError

_ROWS = 1024  # that are turned into Python texts at once


def parquet_texts(source: Source, column: str, on_bytes: Callable[[int], None]) -> Iterator[str]:
    """The texts of a column ("text", or the only one); rows without one are left out.

    Raises:
        MissingExtraError: pyarrow is not installed.
        CorpusError: no parquet file, no such column, or a column that is no text.
    """
    try:
        parquet = import_module("pyarrow.parquet")
        arrow = import_module("pyarrow")
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    with source.open() as (raw, content):
        try:
            file = parquet.ParquetFile(content)
            names = file.schema_arrow.names
            wanted = column or ("text" if len(names) != 1 else names[0])
            if wanted not in names:
                raise no_column(source.name, wanted, names)
            kind = str(file.schema_arrow.field(wanted).type)
            if "string" not in kind:
                raise CorpusError(f"{source.name}: the column {wanted!r} is no text but {kind}.")
            for rows in file.iter_batches(_ROWS, columns=[wanted]):
                texts = rows.column(0).to_pylist()
                on_bytes(raw.tell())
                yield from (text.replace("\r\n", "\n").replace("\r", "\n") for text in texts if text)
        except (arrow.ArrowException, OSError) as error:
            raise CorpusError(f"{source.name} cannot be read: {error}.", "Is the file whole?") from None


def no_column(where: str, column: str, columns: list[str]) -> CorpusError:
    known = ", ".join(columns[:20])
    return CorpusError(f"{where} has no column {column!r}.", f"Name one with --column. It has: {known}.")
