"""Fills the page's template. Everything that comes from a run is escaped."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gptscratch
from gptscratch.errors import MissingExtraError
from gptscratch.report import comparison
from gptscratch.report.copies import Copies
from gptscratch.report.doctor import diagnose
from gptscratch.report.record import RunReport
from gptscratch.units import count, duration, plural, size, timestamp

if TYPE_CHECKING:
    from jinja2 import Environment

GENERATOR = "gptscratch report"  # in the page's <meta>: tells such a page from another file
_HERE = Path(__file__).parent
_MOST_SAMPLES = 6  # that are shown at once; the others are folded
_PLAN_FORMATS = {
    "steps": "{:,.0f}".format, "tokens": count, "epochs": "{:.3g}".format, "seconds": duration,
    "memory_bytes": size,
}  # fmt: skip


def render_page(
    runs: Sequence[RunReport],
    copies: Sequence[Copies | str | None] = (),
    *,
    live: bool = False,
) -> str:
    """The page as HTML.

    Args:
        runs: one or more; their curves share the charts.
        copies: one entry for each run, None where they were not measured; empty: none were.
        live: the page is served: it asks for its newest version again and again, and the plotting script has
            an address of its own instead of being a part of the page.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    template = _environment().get_template("page.html.jinja")
    described = [run.described for run in runs]
    names = comparison.distinct_names(described)
    return template.render(
        runs=runs,
        names=names,
        copies=copies or [None] * len(runs),
        compared=comparison.comparison_of(described) if len(runs) > 1 else None,
        charts={"runs": list(map(_curves, runs, names))},
        plotly="" if live else packed_plotly(),
        live=live,
        generator=GENERATOR,
        version=gptscratch.__version__,
    )


def is_report(file: Path) -> bool:
    """Whether a file is a page that was made here, so that a new one may replace it."""
    with file.open("rb") as opened:
        return f'content="{GENERATOR}'.encode() in opened.read(1000)


@cache
def plotly_script() -> str:
    """plotly.js, from the Python package of plotly."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingExtraError("plotly", "report") from None
    return str(get_plotlyjs())


def packed_plotly() -> str:
    """The script compressed by gzip, in base64: 2 MB instead of 5."""
    return base64.b64encode(gzip.compress(plotly_script().encode(), mtime=0)).decode("ascii")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count, "duration": duration, "size": size, "timestamp": timestamp, "plural": plural,
        "planned": lambda value, name: "-" if value is None else _PLAN_FORMATS[name](value),
        "spread": _spread, "copied": _copied,
    }  # fmt: skip
    environment.globals |= {"shown": comparison.shown, "settings_of": _settings, "diagnose": diagnose}
    return environment


def _curves(run: RunReport, name: str) -> dict[str, Any]:
    """What page.js draws."""
    return {"name": name, "training": run.training, "validation": run.validation, "final": run.final}


def _spread(samples: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """(a few that are evenly spread, with the first and the last; the others)."""
    last = len(samples) - 1
    most = min(_MOST_SAMPLES, len(samples))
    chosen = {round(i * last / max(1, most - 1)) for i in range(most)}
    few = [sample for i, sample in enumerate(samples) if i in chosen]
    return few, [sample for i, sample in enumerate(samples) if i not in chosen]


def _copied(text: str, span: Any) -> tuple[str, str, str]:
    """The text before, in and after its copied span."""
    return text[: span.start], text[span.start : span.end], text[span.end :]


def _settings(run: RunReport) -> list[tuple[str, str]]:
    """Every setting of the run by its full name."""
    sections = {name: run.described.config.get(name, {}) for name in ("model", "data", "train")}
    return [
        (f"{section}.{name}", comparison.shown(name, value))
        for section, values in sections.items()
        for name, value in values.items()
    ]
