"""The characters of a corpus: which there are, their alphabets, and the odd ones."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Character:
    """A character that seldom belongs into text: control, unassigned, private, invisible, U+FFFD."""

    code: str  # U+0085
    name: str
    count: int


class Alphabet:
    """The distinct characters of a stream of text, which comes as UTF-8."""

    def __init__(self) -> None:
        self._known = np.zeros(0x110000, dtype=bool)
        self._ascii = b""  # those already seen: they are deleted, and what is left is looked at
        self._waiting: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        self._waiting.append(data)  # joined, since a corpus may be millions of short texts
        self._size += len(data)
        if self._size > 1 << 18:
            self._flush()

    def sorted(self) -> str:
        self._flush()
        return "".join(map(chr, np.flatnonzero(self._known)))

    def _flush(self) -> None:
        rest = b"".join(self._waiting).translate(None, self._ascii)
        self._waiting, self._size = [], 0
        self._known[np.frombuffer(rest.decode().encode("utf-32-le"), np.uint32)] = True
        self._ascii = bytes(np.flatnonzero(self._known[:128]).tolist())


def script_shares(counts: NDArray[np.int64], most: int) -> dict[str, float]:
    """The share of the letters by alphabet; ``counts`` by code point.

    The first word of a letter's Unicode name tells its alphabet, where it is no variant of another (º).
    """
    found: Counter[str] = Counter()
    for code in np.flatnonzero(counts):
        letter = chr(int(code))
        if letter.isalpha():
            plain = unicodedata.normalize("NFKC", letter)[0]
            found[unicodedata.name(plain, "unknown").split()[0].capitalize()] += int(counts[code])
    return {name: count / found.total() for name, count in found.most_common(most)}


def odd_characters(counts: NDArray[np.int64], most: int) -> tuple[Character, ...]:
    """Those of ``counts`` by code point, most frequent first."""
    found = []
    for code in np.flatnonzero(counts):
        letter = chr(int(code))
        if letter == "\ufffd" or (unicodedata.category(letter)[0] == "C" and letter not in "\n\t"):
            name = unicodedata.name(letter, "control character" if code < 0xA0 else "no name")
            found.append(Character(code=f"U+{code:04X}", name=name.lower(), count=int(counts[code])))
    return tuple(sorted(found, key=lambda character: -character.count)[:most])
