"""``gptscratch cache``: show and delete token files."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from gptscratch.cli import options as o
from gptscratch.cli import runs
from gptscratch.cli.console import notice, out, print_json
from gptscratch.config.setting import RUN, setting
from gptscratch.errors import ConfigError, listed
from gptscratch.units import count, plural, size

EXAMPLES = """Examples:
  gptscratch cache                      token files, and the runs that use them
  gptscratch cache clear                delete those that no run uses"""
app = typer.Typer(help="Show and delete token files.", epilog=EXAMPLES, invoke_without_command=True)

_SHOWN = 8  # characters of a folder's name, which is a hash


@app.callback()
@o.command()
def cache(context: typer.Context, json: bool = o.JSON) -> None:
    """Show the token files in the cache directory: their size, and the runs that were trained on them."""
    if context.invoked_subcommand is not None:
        return
    from gptscratch import paths
    from gptscratch.runs import manage

    found = manage.list_token_folders()
    if json:
        print_json(found)
        return
    table = Table("folder", "size", "tokenizer", "tokens", "runs", box=None, pad_edge=False)
    for each in found:
        kind, tokens = "damaged", "-"
        if (manifest := each.manifest) is not None:
            kind = f"{manifest.tokenizer_kind} {manifest.vocab_size:,}"
            tokens = count(manifest.train.tokens + manifest.val.tokens)
        used = escape(listed(each.runs, most=3)) or "-"
        table.add_row(each.name[:_SHOWN], size(each.size_bytes), kind, tokens, used)
    if found:
        out.print(table)
    total = size(sum(each.size_bytes for each in found))
    notice(f"{plural(len(found), 'folder')} in {paths.tokens_dir()}, {total}.")


@app.command("clear")
@o.command()
def clear(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]",
            help="Names of folders, or their first characters (default: all that no run was trained on, "
            "except for those whose text came from stdin).",
        ),
    ] = None,
    everything: bool = setting(False, RUN, "Delete those of runs as well.", flag="--all"),
    yes: bool = runs.YES,
) -> None:
    """Delete token files, after a question. They are made again from the corpus when they are needed."""
    from gptscratch.runs import manage

    if names and everything:
        raise ConfigError("Names and --all are both given.", "Give one of them.")
    found = manage.list_token_folders()
    for name in names or ():
        if sum(each.name.startswith(name) for each in found) != 1:
            raise ConfigError(f"{name!r} names no folder, or more than one.", "gptscratch cache lists them.")
    if names:
        chosen = [each for each in found if each.name.startswith(tuple(names))]
    else:
        chosen = [each for each in found if everything or not (each.runs or each.from_stdin)]
    if not found:
        notice("There are no token files.")
        return
    if not chosen:
        why = "a run was trained on each of them, or they cannot be made again"
        notice(f"There is nothing to delete: {why}. Add --all to delete all.")
        return
    if stuck := [name for each in chosen if each.from_stdin for name in each.runs or [each.name[:_SHOWN]]]:
        notice(f"The corpus of {listed(stuck)} came from stdin: the token files cannot be made again.")
    total = size(sum(each.size_bytes for each in chosen))
    runs.confirm(f"Delete {plural(len(chosen), 'folder')} of token files ({total})?", yes=yes)
    manage.delete_token_folders(chosen)
    notice(f"{plural(len(chosen), 'folder')} deleted, {total}.")
