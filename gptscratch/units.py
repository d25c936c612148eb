"""Numbers as text."""

from __future__ import annotations

import time


def count(number: float) -> str:
    """``3145728`` -> ``3.15 M``."""
    for factor, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if number >= factor:
            scaled = number / (1e3 if unit == " k" else factor)
            return f"{scaled:.3g}{unit}" if scaled < 1000 else f"{scaled:.0f}{unit}"
    return f"{number:,.0f}"


def plural(number: int, noun: str) -> str:
    """``1, "layer"`` -> ``1 layer``, ``2, "layer"`` -> ``2 layers``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


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
