"""What ``sample``, its interactive mode and ``score`` show: text on stdout as it comes, notes on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.color import Color, ColorSystem
from rich.console import COLOR_SYSTEMS, Console
from rich.progress import Progress
from rich.style import Style
from rich.text import Text

from gptscratch.cli.console import err, notice
from gptscratch.units import plural

if TYPE_CHECKING:
    from gptscratch.generation.generator import Generator
    from gptscratch.generation.logprobs import GeneratedToken
    from gptscratch.generation.memorization import CopiedSpan

_AROUND = 40  # characters shown on each side of a copied span


def stream(prompt: str, texts: Iterable[tuple[str, float]], *, colors: ColorSystem | None) -> str:
    """Write the prompt and the (text, bits of surprise) that follow, each at once; return what followed."""
    print(prompt, end="", flush=True)
    new = ""
    try:
        for text, bits in texts:
            print(_shaded(text, bits, colors) if colors else text, end="", flush=True)
            new += text
    finally:
        print(flush=True)  # after Ctrl-C, too: what is printed next begins a line
    return new


def characters(tokens: Iterable[GeneratedToken]) -> Iterator[tuple[str, float]]:
    """(text, bits of surprise) of tokens; the bits of a character are those of all its tokens."""
    bits = 0.0
    for token in tokens:
        bits += token.bits
        if token.text:
            yield token.text, bits
            bits = 0.0


def copied(text: str, span: CopiedSpan, *, name: str = "copied") -> None:
    """The longest copied span of a text, marked among the characters around it."""
    times = plural(span.times, "time")
    note(f"{name}: {span.tokens} of {span.of_tokens} tokens in a row are in the training tokens, {times}")
    if not span.text.strip():
        return
    before, after = _one_line(text[: span.start])[-_AROUND:], _one_line(text[span.end :])[:_AROUND]
    marked = _one_line(span.text)
    if err.is_terminal:
        err.print(Text.assemble(("  " + before, "dim"), (marked, "underline"), (after, "dim")))
    else:
        note(f"  {before}[{marked}]{after}")


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\t", "\\t")


def warn_of_unknown(generator: Generator, text: str) -> None:
    unknown = generator.tokenizer.unknown(text)
    if not unknown:
        return
    shown = " ".join(map(repr, unknown[:10])) + (
        f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
    )
    if generator.known(generator.tokenizer.encode(text, specials=True)):
        notice(f"These were not in the training text and are left out of the prompt: {shown}")
    else:
        notice(f"Nothing of the prompt was in the training text; the model begins a new one: {shown}")


def progress(done: Iterator[int], total: int) -> None:
    """Count the prompts that have their line: a note about earlier ones, a bar, and one line at the end."""
    before = last = next(done)
    if before:
        notice(f"{plural(before, 'prompt')} had a line already.")
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("prompts", total=total, completed=before)
        for last in done:
            bar.update(task, completed=last)
    note(f"{plural(last - before, 'line')} written")


def colors() -> ColorSystem | None:
    """The colors that stdout can show; None, and a note, where it shows none."""
    console = Console()  # reads NO_COLOR, FORCE_COLOR and TERM
    if console.color_system is None or console.no_color:
        notice("--color has no effect here: this is not a color terminal (FORCE_COLOR=1 overrides).")
        return None
    return COLOR_SYSTEMS[console.color_system]


def _shaded(text: str, bits: float, colors: ColorSystem) -> str:
    """Text by bits of surprise: plain up to one bit, then increasingly red up to eight."""
    heat = min(max(bits - 1.0, 0.0) / 7.0, 1.0)
    if heat == 0.0:
        return text
    other = round(255 * (1 - heat))
    style = Style(color="black", bgcolor=Color.from_rgb(255, other, other))
    # Line by line: a color that is on at the end of a line would fill the rest of the screen's line.
    return "\n".join(style.render(line, color_system=colors) for line in text.split("\n"))


def note(text: str) -> None:
    """For the user at the terminal: not part of the model's text."""
    err.print(text, style="dim", markup=False, highlight=False)
