"""What ``sample`` and its conversation show: text on stdout as it comes, notes on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.color import Color, ColorSystem
from rich.console import COLOR_SYSTEMS, Console
from rich.progress import Progress
from rich.style import Style
from rich.text import Text

from gptscratch.cli import render
from gptscratch.cli.units import some
from gptscratch.errors import RunError

if TYPE_CHECKING:
    from gptscratch.generation.generator import Generator
    from gptscratch.generation.logprobs import GeneratedToken
    from gptscratch.generation.memorization import CopiedSpan

_AROUND = 40  # characters shown on each side of a copied span


@contextlib.contextmanager
def whoever_reads() -> Iterator[None]:
    """A reader who has gone (``| head -1``) or never was (``>&-``) ends the command quietly.

    Raises:
        RunError: the output cannot be written for another reason, such as a full disk.
    """
    if sys.stdout is None:
        raise typer.Exit
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its exit: that must find somebody who takes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None
    except OSError as error:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise RunError(f"The output cannot be written: {error}.") from None


def stream(prompt: str, pieces: Iterable[tuple[str, float]], *, colors: ColorSystem | None) -> str:
    """Write the prompt and (text, bits of surprise) that follow, each at once; give that text."""
    sys.stdout.write(prompt)
    sys.stdout.flush()
    new = ""
    try:
        for piece, bits in pieces:
            sys.stdout.write(_shaded(piece, bits, colors) if colors else piece)
            sys.stdout.flush()
            new += piece
    finally:
        sys.stdout.write("\n")  # also after Ctrl-C: what comes next begins a line
        sys.stdout.flush()
    return new


def pieces(tokens: Iterable[GeneratedToken]) -> Iterator[tuple[str, float]]:
    """(text, bits of surprise) of tokens; those that make up one character are one piece."""
    bits = 0.0
    for token in tokens:
        bits += token.bits
        if token.text:
            yield token.text, bits
            bits = 0.0


def separator() -> None:
    sys.stdout.write("---\n")


def copied(text: str, span: CopiedSpan, *, name: str = "copied") -> None:
    """The longest copied span of a text, and the span marked in what stands around it."""
    often = some(span.times, "time")
    say(f"{name}: {span.tokens} of {span.of_tokens} tokens in a row stand in the training tokens, {often}")
    if not span.text.strip():
        return
    before, after = _one_line(text[: span.start])[-_AROUND:], _one_line(text[span.end :])[:_AROUND]
    marked = _one_line(span.text)
    if not render.err.is_terminal:
        say(f"  {before}[{marked}]{after}")
        return
    render.err.print(Text.assemble(("  " + before, "dim"), (marked, "underline"), (after, "dim")))


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\t", "\\t")


def warn_of_unknown(gpt: Generator, text: str) -> None:
    if not (unknown := gpt.tokenizer.unknown(text)):
        return
    shown = " ".join(repr(piece) for piece in unknown[:10])
    if len(unknown) > 10:
        shown += f" and {len(unknown) - 10} more"
    if gpt.known(gpt.tokenizer.encode(text, specials=True)):
        render.notice(f"These were not in the training text and are left out of the prompt: {shown}")
    else:
        render.notice(f"Nothing of the prompt was in the training text; the model begins a new one: {shown}")


def progress(done: Iterator[int], total: int) -> None:
    """Count the prompts that have their line: those from before, a bar, and one line at the end."""
    before = last = next(done)
    if before:
        render.notice(f"{some(before, 'prompt')} had a line already.")
    with Progress(console=render.err, transient=True, disable=not render.err.is_terminal) as bar:
        task = bar.add_task("prompts", total=total, completed=before)
        for last in done:
            bar.update(task, completed=last)
    say(f"{some(last - before, 'line')} written")


def settings(lines: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in lines) + 2
    say("\n".join(f"{name:<{width}}{value}" for name, value in lines))


def score(values: Mapping[str, Any], *, json: bool) -> None:
    if json:
        render.print_json(dict(values))
        return
    lines = [
        ("bits a byte", f"{values['bits_per_byte']:.4f}"),
        ("perplexity", f"{values['perplexity']:.4g} a token, {values['nats_per_token']:.4f} nats"),
        ("text", f"{values['tokens']:,} tokens, {values['bytes']:,} bytes"),
        ("run", values["run"]),
    ]
    render.facts(render.out, lines)


def colors() -> ColorSystem | None:
    """The colors that stdout can show; None, and a note, where it shows none."""
    console = Console()  # heeds NO_COLOR, FORCE_COLOR and TERM
    if console.color_system is None or console.no_color:
        render.notice("--color has no effect here: no terminal with colors (FORCE_COLOR=1 insists).")
        return None
    return COLOR_SYSTEMS[console.color_system]


def _shaded(text: str, bits: float, colors: ColorSystem) -> str:
    """Text by bits of surprise: plain up to one bit, then ever redder up to eight."""
    heat = min(max(bits - 1.0, 0.0) / 7.0, 1.0)
    if heat == 0.0:
        return text
    cool = round(255 * (1 - heat))
    style = Style(color="black", bgcolor=Color.from_rgb(255, cool, cool))
    # Line by line: a color that is on at a line's end would fill the rest of the screen's.
    return "\n".join(style.render(line, color_system=colors) for line in text.split("\n"))


def no_effect(where: str, flags: Mapping[str, object]) -> None:
    """Say which of the given flags do nothing there."""
    idle = [flag for flag, given in flags.items() if given]
    if idle:
        render.notice(f"{', '.join(idle)}: no effect {where}.")


def say(text: str) -> None:
    """For whoever sits at the terminal: beside the model's text, not in it."""
    render.err.print(text, style="dim", markup=False, highlight=False)
