"""Runs the Python blocks of a page and compares what they print: ``python docs/outputs.py PAGE...``.

A ``text`` block directly under a ``python`` block is its output; ``--update`` rewrites it. Numbers may differ
by 2 percent, because processors round differently; everything else has to be the same.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


class Block(NamedTuple):
    """A fenced block of a page; ``output`` is the text block directly under a Python block."""

    language: str
    text: str
    line: int
    output: str | None
    span: tuple[int, int]  # of the output's text in the page


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    for i, match in enumerate(found):
        output, span = None, (0, 0)
        if match[1] == "python" and i + 1 < len(found) and found[i + 1][1] == "text":
            below = found[i + 1]
            if text[match.end() : below.start()].isspace():
                output, span = below[2], below.span(2)
        yield Block(match[1], match[2], text[: match.start()].count("\n") + 1, output, span)


def is_excerpt(block: Block) -> bool:
    """A quotation of a file of the package, whose path is in the first line."""
    return block.language == "python" and block.text.startswith("# gptscratch/")


def run_block(block: Block, page: Path, session: dict[str, Any], change: Callable[[str], str] = str) -> str:
    """Execute a block in ``session``; returns what it prints. ``change`` may edit code without output."""
    code = block.text if block.output is not None else change(block.text)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile("\n" * block.line + code, page, "exec"), session)
    return shown.getvalue()


def same_output(shown: str, expected: str) -> bool:
    """Equal text, and numbers that agree within 2 percent or one unit of the last digit."""
    if NUMBER.sub("#", shown) != NUMBER.sub("#", expected):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(expected), strict=True)
    return all(abs(float(a) - float(b)) <= _tolerance(b) for a, b in pairs)


def _tolerance(number: str) -> float:
    """0 for integers: they are shapes and counts."""
    _, point, decimals = number.partition("e")[0].partition(".")
    return max(0.02 * abs(float(number)), 1.01 * 10 ** -len(decimals)) if point else 0.0


def main(arguments: list[str]) -> int:
    pages = [Path(word).resolve() for word in arguments if word != "--update"]
    stale = 0
    for page in pages:
        text, session = page.read_text(encoding="utf-8"), {"__name__": "page"}
        changes = []
        with tempfile.TemporaryDirectory() as folder:
            os.environ["GPTSCRATCH_HOME"] = folder
            for block in blocks_of(page):
                if block.language != "python" or is_excerpt(block):
                    continue
                shown = run_block(block, page, session)
                if block.output is not None and not same_output(shown, block.output):
                    changes.append((block.span, shown))
                    print(f"{page.name}:{block.line}: the output is different:\n{shown}", file=sys.stderr)
        stale += len(changes)
        for (start, end), shown in reversed(changes):
            text = text[:start] + shown + text[end:]
        if "--update" in arguments:
            page.write_text(text, encoding="utf-8", newline="\n")
    return int(stale > 0 and "--update" not in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
