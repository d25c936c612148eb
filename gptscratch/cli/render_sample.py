"""What ``sample`` and its conversation show: text on stdout as it comes, notes on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from gptscratch.cli import render
from gptscratch.errors import RunError

if TYPE_CHECKING:
    from gptscratch.generation import CopiedText, TrainedGPT


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


def stream(prompt: str, pieces: Iterable[str]) -> str:
    """Write the prompt and its continuation, each piece at once; give the continuation."""
    sys.stdout.write(prompt)
    sys.stdout.flush()
    new = ""
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
        new += piece
    sys.stdout.write("\n")
    sys.stdout.flush()
    return new


def samples(
    prompt: str, texts: Sequence[str], *, run: Path, copied: Sequence[CopiedText] | None, json: bool
) -> None:
    if json:
        values: dict[str, Any] = {"run": run.name, "prompt": prompt, "samples": list(texts)}
        render.print_json(values | ({} if copied is None else {"copied": list(copied)}))
    else:
        print("\n---\n".join(prompt + text for text in texts))


def copied(found: Sequence[CopiedText]) -> None:
    for number, span in enumerate(found, 1):
        which = f" {number}" if len(found) > 1 else ""
        say(f"copied{which}: {span.tokens} of {span.of_tokens} tokens in a row stand in the training tokens")
        if span.text.strip():
            say(f"  {span.text!r}")


def warn_of_unknown(gpt: TrainedGPT, text: str) -> None:
    if unknown := gpt.tokenizer.unknown(text):
        shown = " ".join(repr(piece) for piece in unknown[:10])
        render.notice(f"The model never saw {shown}: left out of the prompt.")


def progress(done: Iterable[int]) -> None:
    """How many prompts have their line: a note for what stood there before, and one at the end."""
    counts = list(done)
    if counts[0]:
        render.notice(f"{counts[0]:,} prompts had their line already.")
    say(f"{counts[-1] - counts[0]:,} lines written")


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


def shaded(pieces: Iterable[tuple[str, float]]) -> None:
    """Text by bits of surprise: plain up to one bit, then ever redder up to eight."""
    shown = Text()
    for piece, bits in pieces:
        heat = min(max(bits - 1.0, 0.0) / 7.0, 1.0)
        cool = round(255 * (1 - heat))
        shown.append(piece, style=f"black on rgb(255,{cool},{cool})" if heat > 0 else "")
    Console(highlight=False, soft_wrap=True, force_terminal=True, color_system="truecolor").print(shown)


def say(text: str) -> None:
    """For whoever sits at the terminal: beside the model's text, not in it."""
    render.err.print(text, style="dim", markup=False, highlight=False)
