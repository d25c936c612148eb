"""The terminal: results on stdout, everything else on stderr, each line wrapped between words."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
from collections.abc import Iterable
from typing import IO, Any, cast

from rich.console import Console
from rich.markup import escape

from gptscratch.errors import RunError, UserError

_LABEL = 12  # columns of a label and the space after it
_ARTICLES = ("a", "an", "the", "no", "more", "there")


class _Stderr:
    """The current stderr. A reader who has gone, or a full disk, must not end what is being reported."""

    @property
    def stream(self) -> IO[str] | None:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self.stream.write(text) if self.stream else 0
        return 0

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self.stream:
                self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, file=cast("IO[str]", _Stderr()))


def prepare_streams() -> None:
    """Write characters that the terminal's encoding lacks as escapes, instead of failing at them."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush_output() -> None:
    """Write what is still buffered, while an error can still be reported.

    Raises:
        OSError: stdout does not take it.
    """
    if sys.stdout is not None:
        sys.stdout.flush()


def drop_output() -> None:
    """Python flushes stdout once more when it exits: let that succeed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def output_error(problem: OSError) -> RunError:
    if problem.filename is not None:
        return RunError(f"{problem.filename}: {problem.strerror or problem}.")
    return RunError(f"The output cannot be written: {problem.strerror or problem}.")


def error(problem: UserError) -> None:
    err.print(f"[bold red]error:[/] {escape(wrapped(err, sentence(problem.message), indent=7))}")
    if problem.hint:
        err.print(f"       {escape(wrapped(err, sentence(problem.hint), indent=7))}", style="dim")


def notice(text: str) -> None:
    err.print(f"[yellow]note:[/] {escape(wrapped(err, sentence(text), indent=6))}")


def facts(console: Console, lines: Iterable[tuple[str, str]]) -> None:
    """A label and a text on each line."""
    for label, text in lines:
        console.print(f"[bold]{label:<{_LABEL - 1}}[/] {escape(wrapped(console, text, indent=_LABEL))}")


def plain(help: str) -> str:
    """A help text whose brackets are shown: rich takes ``[utf-8]`` for markup and drops it."""
    return help.replace("[", r"\[")


def sentence(text: str) -> str:
    """The text with a capital letter, unless it begins with a name, which stays as it is written."""
    return text[0].upper() + text[1:] if text.split(" ", 1)[0] in _ARTICLES else text


def wrapped(console: Console, text: str, *, indent: int) -> str:
    """On a terminal, broken between words into lines that fit after ``indent`` columns; else as it is."""
    room = console.width - indent
    if not console.is_terminal or room < 20:
        return text
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * indent).join(lines)
