"""A small plot of the loss, in characters of braille: 2 x 4 dots each."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from gptscratch.cli.console import out
from gptscratch.units import count

_ROWS = 7
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # bits of U+2800, by column and row
_TRIM = 0.02  # the share of the highest losses, those of the first steps, that the plot may cut off


def show(run: Path) -> None:
    """Print the curve of a run, where there is one."""
    from gptscratch.runs.metrics import read_metrics

    if text := loss_curve(read_metrics(run / "metrics.jsonl"), out.width):
        out.print(text)


def loss_curve(metrics: Sequence[Mapping[str, Any]], width: int) -> Text | None:
    """Training loss (dim) and validation loss (bold) by step; None where there is too little to draw.

    Args:
        metrics: the records of metrics.jsonl.
        width: columns.
    """
    train = sorted((r["step"], r["train_loss"]) for r in metrics if _is_number(r.get("train_loss")))
    val = [(r["step"], r["val_loss"]) for r in metrics if _is_number(r.get("val_loss"))]
    losses = sorted(loss for _, loss in train + val)
    columns = min(width - 9, 100)
    if len(train) < 3 or columns < 12 or not _is_encodable("\u28ff"):
        return None
    low, high = losses[0], losses[int((1 - _TRIM) * (len(losses) - 1))]
    last = max(1, *(step for step, _ in train + val))
    dots: dict[tuple[int, int], int] = {}
    bold = set()
    for points, strong in ((_connected(train, 4 * columns), False), (val, True)):
        for step, loss in points:
            x = round(step / last * (2 * columns - 1))
            share = (high - loss) / max(high - low, 1e-9)
            y = round(max(0.0, share) * (4 * _ROWS - 1))
            cell = (y // 4, x // 2)
            dots[cell] = dots.get(cell, 0) | _DOTS[x % 2][y % 4]
            bold |= {cell} if strong else set()
    text = Text()
    for row in range(_ROWS):
        loss = high - (high - low) * row / (_ROWS - 1)
        text.append(f"{loss:7.3f} " if row % 3 == 0 else " " * 8, style="dim")
        for column in range(columns):
            style = "bold cyan" if (row, column) in bold else "dim"
            text.append(chr(0x2800 + dots.get((row, column), 0)), style=style)
        text.append("\n")
    legend = "loss by step: training, validation (bold)"
    end = count(last)
    text.append(f"{'':8}0{legend[: columns - len(end) - 2]:^{columns - len(end) - 1}}{end}", style="dim")
    return text


def _connected(points: Sequence[tuple[int, float]], most: int) -> list[tuple[float, float]]:
    """The points with enough others on the lines between them."""
    span = max(points[-1][0] - points[0][0], 1)
    found: list[tuple[float, float]] = []
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        n = max(1, round(most * (x1 - x0) / span))
        found += [(x0 + (x1 - x0) * i / n, y0 + (y1 - y0) * i / n) for i in range(n)]
    return [*found, points[-1]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e9


def _is_encodable(character: str) -> bool:
    try:
        character.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
