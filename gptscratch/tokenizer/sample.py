"""What a BPE learns from: an evenly spread, bounded part of a corpus, in which no run is endless.

The trainer holds each distinct word and goes through it at every merge. English has few of them; a script
without spaces has about as many as it has clauses, and base64 is one word. So such text is taken in smaller
samples, and its runs are cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

SAMPLE = 32_000_000  # characters at most: more changes few merges
SPACELESS_SAMPLE = 4_000_000  # where words are not told apart by spaces
_SPACELESS = 0.06  # of the characters are spaces: below it; English has 0.18, German 0.14
_HEAD = 1_000_000  # characters that are looked at before
_LONGEST = 256  # characters of a run
_RUN = re.compile(rf"\w{{{_LONGEST}}}(?=\w)|[^\w\s]{{{_LONGEST}}}(?=[^\w\s])")


def head_of(texts: Iterable[str]) -> list[str]:
    """The first pieces, of about a million characters, with their runs cut."""
    found: list[str] = []
    size = 0
    for text in texts:
        found += _without_long_runs(text)
        size += len(text)
        if size >= _HEAD:
            break
    return found


def sample_size(head: Iterable[str]) -> int:
    """How many characters of a corpus that begins so a BPE is trained on at most."""
    spaces = characters = 0
    for text in head:
        spaces += text.count(" ") + text.count("\n")
        characters += len(text)
    return SAMPLE if spaces >= _SPACELESS * characters else SPACELESS_SAMPLE


def spread_sample(texts: Iterable[str], share: float) -> Iterator[str]:
    """An evenly spread share of the pieces, with their runs cut."""
    credit = 0.0
    for text in texts:
        credit += share * len(text)
        if credit >= len(text):
            credit -= len(text)
            yield from _without_long_runs(text)


def _without_long_runs(text: str) -> Iterator[str]:
    start = 0
    if max(map(len, text.split()), default=0) > _LONGEST:
        for run in _RUN.finditer(text):
            yield text[start : run.end()]
            start = run.end()
    yield text[start:]
