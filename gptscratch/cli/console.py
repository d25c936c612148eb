"""The terminal: results on stdout, everything else on stderr, each line wrapped between words."""

from __future__ import annotations

import contextlib
import dataclasses
import json as json_
import math
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console
from rich.markup import escape

from gptscratch.errors import UserError

NO_BREAK = "\u00a0"
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


def drop_output() -> None:
    """Python flushes stdout once more when it exits: let that succeed."""
    with contextlib.suppress(OSError, ValueError, AttributeError), Path(os.devnull).open("wb") as null:
        os.dup2(null.fileno(), sys.stdout.fileno())


def show(value: Any, lines: Iterable[tuple[str, str]], *, json: bool) -> None:
    """The result of a command: a value as JSON, or the same for people, a label and a text on each line."""
    if json:
        print_json(value)
    else:
        facts(out, lines)


def print_json(value: Any) -> None:
    """Any mix of dataclasses, paths and what JSON knows; a number that is not finite becomes null."""

    def plain(part: Any) -> Any:
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            part = dataclasses.asdict(part)
        if isinstance(part, Mapping):
            return {key: plain(each) for key, each in part.items()}
        if isinstance(part, list | tuple):
            return [plain(each) for each in part]
        if isinstance(part, float):
            return part if math.isfinite(part) else None
        return part if part is None or isinstance(part, str | int) else str(part)

    print(json_.dumps(plain(value), indent=2))


def error(problem: UserError) -> None:
    err.print(f"[bold red]error:[/] {escape(wrapped(err, sentence(problem.message), indent=7))}")
    if problem.hint:
        err.print(f"       {escape(wrapped(err, sentence(problem.hint), indent=7))}", style="dim")


def notice(text: str) -> None:
    err.print(f"[yellow]note:[/] {escape(wrapped(err, sentence(text), indent=6))}")


def no_effect(where: str, options: Mapping[str, object]) -> None:
    """Name the given options that have no effect there."""
    idle = [option for option, given in options.items() if given]
    if idle:
        notice(f"{', '.join(idle)}: no effect {where}.")


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
    """On a terminal, broken between words into lines that fit after ``indent`` columns; else as it is.

    Words that are joined by a no-break space stay on one line.
    """
    room = console.width - indent
    if console.is_terminal and room >= 20:
        lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
        text = ("\n" + " " * indent).join(lines)
    return text.replace(NO_BREAK, " ")
