"""``gptscratch info``: the runs on this machine, or all about one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptscratch.cli import curve, render, render_stats
from gptscratch.cli import options as o
from gptscratch.cli.console import no_effect, notice
from gptscratch.config.presets import PRESETS
from gptscratch.errors import require

EXAMPLES = """Examples:
  gptscratch info                     the runs
  gptscratch info book                a run: results, settings, model
  gptscratch info gpt2                a preset: parameters, memory"""


@o.command()
def info(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[RUN|PRESET|FOLDER]", help="A run, a preset or a folder of token files."),
    ] = None,
    preset: str | None = o.PRESET,
    sort: str = o.SORT,
    json: bool = o.JSON,
) -> None:
    """List the runs, or show a run, a preset or a folder of token files."""
    from gptscratch.runs import summary

    if what is None and preset is None:
        render.runs(summary.list_runs(sort=sort), json=json)
        return
    require(what is None or preset is None, f"{what} and --preset are both given.", "Give one of them.")
    no_effect("for one run", {"--sort": sort != "when"})
    described = summary.describe_preset(preset) if preset else summary.describe(what or "")
    if isinstance(described, summary.RunDescription):
        render.run(described, json=json)
        if not json:
            curve.show(Path(described.summary.folder))
        if what in PRESETS:
            notice(f"There is also a preset of this name: gptscratch info --preset {what}")
    elif isinstance(described, summary.ModelDescription):
        render.model(described, title=preset or what or "", json=json)
    else:
        render_stats.token_files(described, json=json)
