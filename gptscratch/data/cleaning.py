"""Cleaning: named steps over whole documents, each a line of ``STEPS``. What they remove is counted.

A step takes the text of a document and returns it changed, or None to drop the document.
"""

from __future__ import annotations

import functools
import hashlib
import html
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any

from gptscratch.data.chunks import END
from gptscratch.errors import MissingExtraError

Step = Callable[[str], str | None]

_SHINGLE = 5  # words by which near duplicates are compared
_SIMILAR = 0.8  # Jaccard similarity of near duplicates
_HASHES = 128  # of a document's MinHash

_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_BREAK = re.compile(r"</?(?:br|p|div|li|ul|ol|tr|table|h[1-6]|hr|blockquote)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<![a-zA-Z][^<>]*>")


def clean(
    documents: Iterable[bytes], steps: Mapping[str, Step], counts: dict[str, Counter[str]], whole: int
) -> Iterator[bytes]:
    """The documents after the steps, in their order; empty ones are left out.

    Args:
        documents: each in one part or more.
        counts: filled with what each step removed, in the fields of ``Removed``.
        whole: bytes; a longer document is cleaned in parts, and never dropped.
    """
    for name in steps:
        counts.setdefault(name, Counter())
    parts: list[bytes] = []
    begins = True  # the parts begin a document
    for part in documents:
        parts.append(part)
        ends = part.endswith(END)
        if not ends and sum(map(len, parts)) <= whole:
            continue
        before = b"".join(parts).removesuffix(END).decode()
        text = _cleaned(before, steps, counts, droppable=begins and ends)
        if not begins and before[:1].isspace() and not text[:1].isspace():
            text = before[0] + text  # between two parts of a document no step may join words
        if text.strip() or not (begins and ends):
            yield text.encode() + END * ends
        parts, begins = [], ends


def steps_named(names: Sequence[str]) -> dict[str, Step]:
    """The steps by their names, for one pass over a corpus.

    Raises:
        MissingExtraError: a step needs a package that is not installed.
    """
    return {name: STEPS[name.partition(":")[0]](name.partition(":")[2]) for name in names}


def _cleaned(
    text: str, steps: Mapping[str, Step], counts: dict[str, Counter[str]], *, droppable: bool
) -> str:
    for name, step in steps.items():
        if not droppable and name.partition(":")[0] in DROPPING:
            continue
        after = step(text)
        counts[name]["characters"] += len(text) - len(after or "")
        if after is None:
            counts[name]["documents"] += 1
            return ""
        counts[name]["changed"] += after != text
        text = after
    return text


def strip_html(text: str) -> str:
    """Tags, comments, scripts and styles go, line-breaking tags become line ends, entities characters."""
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub("\n", _HIDDEN.sub("", text)))
    return html.unescape(text) if "&" in text else text


def strip_punctuation(text: str) -> str:
    """Apostrophes go (don't: dont); every other sign becomes a space (well-known: well known)."""
    return text.translate(_signs())


def tidy_space(text: str) -> str:
    """One space between words, none at the ends of lines, at most one empty line."""
    text = re.sub(r"[^\S\n]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


@functools.cache
def _signs() -> dict[int, str]:
    """Unicode's punctuation, and the signs of ASCII that Unicode counts as symbols."""
    signs = {
        code: " "
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code))[0] == "P" or chr(code) in "$+<=>^`|~"
    }
    return {**signs, ord("'"): "", ord("’"): ""}


def _exact_duplicates() -> Step:
    seen: set[bytes] = set()

    def step(text: str) -> str | None:
        digest = hashlib.blake2b(text.encode(), digest_size=12).digest()
        if digest in seen:
            return None
        seen.add(digest)
        return text

    return step


def _near_duplicates() -> Step:
    """MinHash over five-word shingles (Broder 1997); the first of similar ones stays."""
    try:
        datasketch = import_module("datasketch")
    except ImportError:
        raise MissingExtraError("datasketch", "clean") from None
    index = datasketch.MinHashLSH(threshold=_SIMILAR, num_perm=_HASHES)
    kept: dict[int, Any] = {}

    def step(text: str) -> str | None:
        words = text.lower().split()
        shingles = {" ".join(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1))}
        sketch = datasketch.MinHash(num_perm=_HASHES, seed=1)
        sketch.update_batch([shingle.encode() for shingle in shingles])
        if any(sketch.jaccard(found) >= _SIMILAR for found in map(kept.__getitem__, index.query(sketch))):
            return None
        index.insert(len(kept), sketch)
        kept[len(kept)] = sketch
        return text

    return step


def _longer_than(least: str) -> Step:
    return lambda text: text if len(text) >= int(least) else None


STEPS: Mapping[str, Callable[[str], Step]] = MappingProxyType(
    {
        "html": lambda _: strip_html,
        "lowercase": lambda _: str.lower,
        "punctuation": lambda _: strip_punctuation,
        "nfc": lambda _: lambda text: unicodedata.normalize("NFC", text),
        "nfkc": lambda _: lambda text: unicodedata.normalize("NFKC", text),
        "whitespace": lambda _: tidy_space,
        "dedup": lambda _: _exact_duplicates(),
        "neardup": lambda _: _near_duplicates(),
        "min-length": _longer_than,
    }
)
DROPPING = ("dedup", "neardup", "min-length")
