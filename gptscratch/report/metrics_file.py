"""The curves of a run in little memory, from a metrics.jsonl that may still grow."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptscratch.runs.metrics import parse_metrics

TRAINING = ("step", "train_loss", "tokens", "seconds", "learning_rate", "grad_norm", "tokens_per_second")
VALIDATION = ("step", "val_loss", "val_tokens", "val_bits_per_byte", "val_accuracy")
_CHUNK = 1 << 20  # bytes that are parsed at once

Columns = Mapping[str, "array[float]"]  # of the same length; missing: NaN


class MetricsFile:
    """Reads metrics.jsonl; a second time it reads only the lines that were appended since."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget(0)

    def read(self) -> tuple[Columns, Columns]:
        """The training curve and the validation curve: the records that have a loss."""
        if not self.path.is_file():
            self._forget(0)
            return self._training, self._validation
        with self.path.open("rb") as file:
            found = self.path.stat()
            if found.st_ino != self._inode or found.st_size < self._offset:
                self._forget(found.st_ino)  # a resumed run wrote it again
            file.seek(self._offset)
            while chunk := file.read(_CHUNK):
                chunk += file.readline()
                if not chunk.endswith(b"\n"):  # the last line is being written
                    chunk = chunk[: chunk.rfind(b"\n") + 1]
                if not chunk:
                    break
                self._offset += len(chunk)
                self._add(parse_metrics(chunk))
        return self._training, self._validation

    def _add(self, records: list[dict[str, Any]]) -> None:
        for columns in (self._training, self._validation):
            loss = list(columns)[1]
            usable = [record for record in records if math.isfinite(_number(record.get(loss)))]
            for name, values in columns.items():
                values.extend([_number(record.get(name)) for record in usable])

    def _forget(self, inode: int) -> None:
        self._inode, self._offset = inode, 0
        self._training = {name: array("d") for name in TRAINING}
        self._validation = {name: array("d") for name in VALIDATION}


def _number(value: Any) -> float:
    """A number from a file that anyone may have written; NaN: it is something else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18:
        return value
    return math.nan
