"""``gptscratch compare``: the settings and the results of runs in one table."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from gptscratch.cli import options as o
from gptscratch.cli.console import notice, out, print_json

EXAMPLES = """Examples:
  gptscratch compare book book-2           results, and settings that differ
  gptscratch compare book book-2 --json"""


@o.command()
def compare(
    names: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Two or more runs.", autocompletion=o.run_names)
    ],
    json: bool = o.JSON,
) -> None:
    """Compare runs: their results, and the settings that differ."""
    from gptscratch import paths
    from gptscratch.report.comparison import compare as compared
    from gptscratch.report.comparison import shown

    found = compared([paths.find_run(name) for name in names])
    if json:
        print_json(found)
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for run in found.runs:
        table.add_column(escape(run), overflow="fold")
    for title, rows in (("results", found.results), ("settings", found.settings)):
        if rows:
            table.add_row(f"[bold]{title}[/]")
        for name, values in rows.items():
            winners = found.best.get(name, ())
            cells = (escape(shown(name, value)) for value in values)
            marked = (f"[bold green]{cell}[/]" if i in winners else cell for i, cell in enumerate(cells))
            label = name.removesuffix("_bytes").replace("_", " ") if title == "results" else name
            table.add_row(label, *marked)
    out.print(table)
    for text in found.notes:
        notice(text)
