"""metrics.jsonl, the measurements of a run, and samples.jsonl, its texts: one flat JSON object per line."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from gptscratch.files import new_file
from gptscratch.runs.run import disk_errors_in


def append_metrics(file: Path, record: Mapping[str, Any]) -> None:
    """Add a line, which is written to the file when this returns.

    Raises:
        RunError: the file cannot be written.
    """
    line = json.dumps(record, allow_nan=False) + "\n"
    with disk_errors_in(file.parent, f"writing {file.name}"), file.open("a", encoding="utf-8") as lines:
        lines.write(line)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of such a file; lines that are damaged or were cut short by a crash are left out."""
    return parse_metrics(path.read_bytes()) if path.is_file() else []


def parse_metrics(lines: bytes) -> list[dict[str, Any]]:
    """The records of some lines, as ``read_metrics`` returns them."""
    texts = [line for line in lines.decode(errors="replace").splitlines() if line.strip()]
    try:
        found = json.loads(f"[{','.join(texts)}]")  # all at once is faster
    except (ValueError, RecursionError):
        found = list(map(_parsed, texts))
    return [record for record in found if isinstance(record, dict) and _is_step(record.get("step"))]


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < 10**18


def _parsed(line: str | bytes) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(line)
    return None


def rewind_metrics(path: Path, step: int) -> bool:
    """Forget what a resumed run will report again: all after ``step``, and the evaluation at the end.

    That one is the second of its step, or of an earlier step than the record before it. Only the end of the
    file is parsed.

    Returns whether this step itself was evaluated.
    """
    if not path.exists():
        return False
    with disk_errors_in(path.parent, f"writing {path.name}"), path.open("rb") as file:
        start, lines = _tail(file, step)
        newest = (-1, False)  # step, and whether it was evaluated
        for line in lines:
            record = (_step_of(line), b'"val_loss"' in line)
            again = record[1] and newest >= record
            if not line.endswith(b"\n") or record[0] > step or (record[0] >= 0 and again):
                break
            newest = max(newest, record)
            start += len(line)
        if start < file.seek(0, os.SEEK_END):
            file.seek(0)
            with new_file(path) as temporary, temporary.open("wb") as kept:  # readers notice another file
                for block in iter(lambda: file.read(min(1 << 20, start - file.tell())), b""):
                    kept.write(block)
    return newest == (step, True)


def _tail(file: BinaryIO, step: int) -> tuple[int, list[bytes]]:
    """Where the last lines of a file start, from a record before ``step`` on that has no validation loss."""
    size, length = file.seek(0, os.SEEK_END), 1 << 16
    while True:
        start = file.seek(max(0, size - length))
        start += len(file.readline()) if start else 0  # the rest of a line
        lines = file.read().splitlines(keepends=True)
        if not start or (lines and 0 <= _step_of(lines[0]) < step and b'"val_loss"' not in lines[0]):
            return start, lines
        length *= 4


def _step_of(line: bytes) -> int:
    """-1 where the line is damaged."""
    record = _parsed(line)
    step = record.get("step") if isinstance(record, dict) else None
    return step if type(step) is int else -1
