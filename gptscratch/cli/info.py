"""``gptscratch info``: the runs on this machine, or all about one thing."""

from __future__ import annotations

from typing import Annotated

import typer

from gptscratch.cli import options as o
from gptscratch.cli import render_info


def info(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[CKPT|PRESET|FOLDER]", help="A run, a preset or a folder of token files."),
    ] = None,
    json: o.Json = False,
) -> None:
    """List the runs, or show a run, a preset or a folder of token files.

    Presets: nano, tiny, mini, small, medium, large, gpt2, gpt2-medium, gpt2-large, gpt2-xl.
    """
    from gptscratch import describe

    if what is None:
        render_info.runs(describe.list_runs(), json=json)
        return
    described = describe.describe(what)
    if isinstance(described, describe.RunDescription):
        render_info.run(described, json=json)
    elif isinstance(described, describe.ModelDescription):
        render_info.model(described, title=what, json=json)
    else:
        render_info.token_files(described, json=json)
