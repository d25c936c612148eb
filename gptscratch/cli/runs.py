"""``gptscratch runs``: list, delete and rename runs, and print where they are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gptscratch.cli import options as o
from gptscratch.cli import render
from gptscratch.cli.console import err, notice, out
from gptscratch.config.setting import RUN, setting
from gptscratch.errors import ConfigError
from gptscratch.units import plural, size, timestamp

EXAMPLES = """Examples:
  gptscratch runs --sort loss           the best run first
  gptscratch runs rm book book-2        delete two runs, after a question
  cd $(gptscratch runs path book)       the folder of a run"""
app = typer.Typer(help="List, delete and rename runs.", epilog=EXAMPLES, invoke_without_command=True)

YES = setting(False, RUN, "Delete without a question.", flag="-y,--yes")
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.", autocompletion=o.run_names)]


@app.callback()
@o.command()
def runs(context: typer.Context, sort: str = o.SORT, json: bool = o.JSON) -> None:
    """List the runs with their results and sizes, or change them: rm, rename, path."""
    if context.invoked_subcommand is None:
        from gptscratch.runs import summary

        render.runs(summary.list_runs(sort=sort), json=json)


@app.command("rm")
@o.command()
def rm(
    names: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Names of runs.", autocompletion=o.run_names)
    ],
    yes: bool = YES,
) -> None:
    """Delete runs with all their checkpoints, after a question."""
    from gptscratch.runs import manage, summary

    folders = list(dict.fromkeys(manage.find_in_cache(name) for name in names))
    found = [summary.summarize(folder) for folder in folders]
    for run in found:
        loss = "no result" if run.best_val_loss is None else f"val loss {run.best_val_loss:.4f}"
        err.print(
            f"{Path(run.folder).name}: {size(run.size_bytes)}, {loss}, {timestamp(run.changed)}", markup=False
        )
    total = size(sum(run.size_bytes for run in found))
    confirm(f"Delete {plural(len(found), 'run')} ({total})?", yes=yes)
    for folder in folders:
        manage.delete_run(folder)
    notice(f"{plural(len(found), 'run')} deleted, {total}.")


@app.command("rename")
def rename(run: RunName, name: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")]) -> None:
    """Give a run another name."""
    from gptscratch.runs import manage

    out.print(str(manage.rename_run(manage.find_in_cache(run), name)), markup=False)


@app.command("path")
def path(run: Annotated[str | None, o.Run] = None) -> None:
    """Print the folder of a run, for scripts: cd "$(gptscratch runs path my-run)"."""
    from gptscratch import paths

    out.print(str(paths.find_run(run).resolve()), markup=False)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is deleted; ends the command without a yes.

    Raises:
        ConfigError: there is no terminal to ask on.
    """
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError("A question comes before a deletion, and stdin is not a terminal.", "Add --yes.")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)
