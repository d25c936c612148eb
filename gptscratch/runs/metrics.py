"""metrics.jsonl, the measurements of a run, and samples.jsonl, its texts: one flat JSON object per line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptscratch.files import write_text
from gptscratch.runs.run import disk_errors_in


def append_metrics(file: Path, record: Mapping[str, Any]) -> None:
    """Add a line, which is on disk when this returns.

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
    return [record for record in found if isinstance(record, dict) and type(record.get("step")) is int]


def _parsed(line: str) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(line)
    return None


def rewind_metrics(path: Path, step: int) -> bool:
    """Forget what a resumed run will report again: all after ``step``, and the evaluation at the end.

    That one is the second of its step.

    Returns whether this step itself was evaluated.
    """
    if not path.exists():
        return False
    records = read_metrics(path)
    seen: set[tuple[int, bool]] = set()
    kept = []
    for record in records:
        kind = (record["step"], "val_loss" in record)
        if record["step"] <= step and kind not in seen:
            kept.append(record)
        seen.add(kind)
    with disk_errors_in(path.parent, f"writing {path.name}"):
        write_text(path, "".join(json.dumps(r) + "\n" for r in kept))
    return any(r["step"] == step and "val_loss" in r for r in records)
