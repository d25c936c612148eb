"""Numbers as text."""

from __future__ import annotations

import time
from collections.abc import Sequence


def count(number: float) -> str:
    """``3145728`` -> ``3.15 M``."""
    return f"{number:,.0f}" if number < 1e4 else _scaled(number / 1000, "kMGT")


def plural(number: int, noun: str) -> str:
    """``1, "layer"`` -> ``1 layer``, ``2, "layer"`` -> ``2 layers``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Bytes."""
    return _scaled(number, ("B", "kB", "MB", "GB", "TB"))


def _scaled(number: float, units: Sequence[str]) -> str:
    """Three digits and a unit; each unit is a thousand of the one before, and ``number`` is in the first."""
    for unit in units:
        if number < 999.5:  # else it would be rounded to a fourth digit
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{1000 * number:,.0f} {units[-1]}"


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def timestamp(seconds: float) -> str:
    """A local time; seconds since 1970."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
