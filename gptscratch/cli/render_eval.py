"""Output of ``eval``: a line for each measurement of a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from gptscratch.cli.console import out, print_json


def results(run: str, found: Mapping[str, Any], *, json: bool) -> None:
    if json:
        names = ("results", "n-shot", "n-samples", "versions")
        print_json({"run": run, **{name.replace("-", "_"): found.get(name) for name in names}})
        return
    table = Table(
        "task", "questions", "examples", "measurement", "value", "standard error", box=None, pad_edge=False
    )
    for task, values in found["results"].items():
        shots = found.get("n-shot", {}).get(task, "")
        for name, value, error in _measurements(values):
            questions = str(values.get("sample_len", ""))
            table.add_row(escape(task), questions, str(shots), escape(name), value, error)
    out.print(table)


def _measurements(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(name, value, standard error) of a task; lm-eval writes them as ``"acc,none"``: name, then filter."""
    for key, value in values.items():
        name, _, which = key.partition(",")
        if name == "sample_len" or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = values.get(f"{name}_stderr,{which}")
        label = name if which in ("", "none") else f"{name} ({which})"
        yield label, f"{value:.4f}", f"{error:.4f}" if isinstance(error, int | float) else ""
