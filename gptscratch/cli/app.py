"""The command line's frame: the commands, and how an error reaches the user.

Each command is a file of its own and one line here. None imports torch before it runs, so that
``--help`` is there at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import gptscratch
from gptscratch.cli import info, render, sample, score, tokenize, train
from gptscratch.errors import UserError

app = typer.Typer(
    name="gptscratch",
    help="Your own GPT from your own text: one command from a text file to a model that talks.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("train", cls=train.TrainCommand)(train.train)
app.command("sample")(sample.sample)
app.command("score")(score.score)
app.command("tokenize")(tokenize.tokenize)
app.command("info")(info.info)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gptscratch {gptscratch.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Your own GPT from your own text: one command from a text file to a model that talks."""


def main() -> None:
    """Run the command line. Exit code 0: fine, 1: failed, 2: the user's input, 130: interrupted."""
    try:
        app()
    except UserError as error:
        render.error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone: quiet, also when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
