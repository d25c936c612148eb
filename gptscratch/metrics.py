"""Where measurements go: metrics.jsonl, one flat object a line, always on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gptscratch.errors import disk_errors
from gptscratch.training.events import Evaluated, Event, Logged


class MetricsFile:
    """A listener that appends each ``Logged`` and ``Evaluated`` record to a file, and flushes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, event: Event) -> None:
        if isinstance(event, Logged | Evaluated):
            record = {name: value for name, value in asdict(event).items() if name != "progress"}
            line = json.dumps(record, allow_nan=False) + "\n"
            with disk_errors(f"writing {self.path}"), self.path.open("a", encoding="utf-8") as file:
                file.write(line)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line cut short by a crash is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def rewind_metrics(path: Path, step: int) -> bool:
    """Forget what a resumed run will report again: all after ``step``, and the evaluation at the end.

    That one is the second of its step.

    Returns whether this step itself was evaluated.
    """
    records = read_metrics(path)
    seen: set[tuple[int, bool]] = set()
    kept = []
    for record in records:
        kind = (record["step"], "val_loss" in record)
        if record["step"] <= step and kind not in seen:
            kept.append(record)
        seen.add(kind)
    temporary = path.with_name(path.name + ".tmp")
    with disk_errors(f"writing {path}"):
        temporary.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
        temporary.replace(path)
    return any(r["step"] == step and "val_loss" in r for r in records)
