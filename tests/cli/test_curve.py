"""The loss curve of ``gptscratch info``."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptscratch.cli.curve import loss_curve

FALLING = [{"step": step, "train_loss": 5.0 - step / 50} for step in range(10, 110, 10)]


def heights(text: str) -> list[int]:
    """The row of the first dot of each column."""
    rows = [row[8:] for row in text.split("\n")[:7]]
    return [
        next(i for i, row in enumerate(rows) if ord(row[c]) > 0x2800)
        for c in range(len(rows[0]) // 8 + 1, len(rows[0]))
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_loss_that_falls_falls_in_the_plot(width: int) -> None:
    text = loss_curve(FALLING, width)
    assert text is not None
    assert max(map(len, text.plain.split("\n"))) <= width
    found = heights(text.plain)
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] == 6


def test_the_validation_loss_is_bold() -> None:
    text = loss_curve([*FALLING, {"step": 50, "val_loss": 4.5}], 60)
    assert text is not None
    assert sum("bold" in str(span.style) for span in text.spans) == 1


def test_there_is_no_curve_of_two_points_or_in_a_narrow_terminal() -> None:
    assert loss_curve(FALLING[:2], 80) is None
    assert loss_curve(FALLING, 20) is None


def test_there_is_no_curve_where_the_encoding_lacks_the_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert loss_curve(FALLING, 80) is None


def test_damaged_numbers_are_left_out() -> None:
    damaged = [
        {"step": 5, "train_loss": "x"},
        {"step": 6, "train_loss": 1e300},
        {"step": 7, "val_loss": None},
    ]
    assert str(loss_curve([*damaged, *FALLING], 60)) == str(loss_curve(FALLING, 60))


def test_info_of_a_run_ends_with_its_curve(gptscratch: Callable[..., Any], tale: Path) -> None:
    assert "loss by step" in gptscratch("info", tale.name).out
    assert "loss by step" not in gptscratch("info", tale.name, "--json").out
