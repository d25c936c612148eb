"""``gptscratch info``: the runs on this machine, or all about one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptscratch.cli import curve, render_info
from gptscratch.cli import options as o
from gptscratch.cli.console import notice
from gptscratch.config.presets import PRESETS
from gptscratch.errors import ConfigError


def info(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[CKPT|PRESET|FOLDER]", help="A run, a preset or a folder of token files."),
    ] = None,
    preset: o.Preset = None,
    sort: o.Sort = "when",
    json: o.Json = False,
) -> None:
    """List the runs, or show a run, a preset or a folder of token files.

    Presets: nano, tiny, mini, small, medium, large, gpt2, gpt2-medium, gpt2-large, gpt2-xl.
    """
    from gptscratch.runs import summary

    if preset is not None:
        if what is not None:
            raise ConfigError(f"{what} and --preset are both given.", "Give one of them.")
        render_info.model(summary.describe_preset(preset), title=preset, json=json)
        return
    if what is None:
        render_info.runs(summary.list_runs(sort=sort), json=json)
        return
    described = summary.describe(what)
    if isinstance(described, summary.RunDescription):
        render_info.run(described, json=json)
        if not json:
            curve.show(Path(described.summary.folder))
        if what in PRESETS:
            notice(f"There is also a preset of this name: gptscratch info --preset {what}")
    elif isinstance(described, summary.ModelDescription):
        render_info.model(described, title=what, json=json)
    else:
        render_info.token_files(described, json=json)
