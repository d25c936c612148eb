"""Leakage: how much of the validation text stands in the training text too, so that it may be known by heart.

Runs of ``WINDOW`` words are compared by their hashes. Of a large corpus only those are kept whose hash is
small: a run is then kept on both sides or on neither, so the share that both have comes out right (the
"modulo" sketch of Broder 1997, On the resemblance and containment of documents).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptscratch.data.split import Side
from gptscratch.tokenizer.cut import BORDER, LETTER, NUMBER, character_classes

Hashes = NDArray[np.uint64]

WINDOW = 13  # words: as GPT-3's authors looked for leakage (Brown et al. 2020, appendix C)
_BATCH = 1 << 20  # characters hashed at once
_BASE = 0x9E3779B97F4A7C15  # odd: it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Validation text that training text holds too."""

    documents: float  # the share of validation documents that stand in the training text as they are
    windows: float  # the share of the validation text's runs of 13 words that occur in the training text


class Windows:
    """The runs of words of both sides, as hashes."""

    def __init__(self, share: float) -> None:
        """``share`` of the distinct runs are kept: memory is 8 bytes for each of these."""
        self._limit = np.uint64(min(share * 2**64, 2**64 - 1))
        self._kept: dict[Side, array[int]] = {"train": array("Q"), "val": array("Q")}
        self._waiting: dict[Side, list[bytes]] = {"train": [], "val": []}
        self._size = 0

    def add(self, side: Side, text: str) -> None:
        """A document, or a piece of one: no run reaches over its end."""
        self._waiting[side].append(text.lower().encode())
        self._size += len(text)
        if self._size > _BATCH:
            self._flush()

    def shared(self) -> float:
        """The share of the validation side's runs that the training side has."""
        self._flush()
        train, val = (np.frombuffer(self._kept[side], np.uint64) for side in ("train", "val"))
        return float(np.isin(val, train).mean()) if len(val) else 0.0

    def _flush(self) -> None:
        for side, texts in self._waiting.items():
            hashes = windows(texts)
            self._kept[side].frombytes(hashes[hashes <= self._limit].tobytes())
            texts.clear()
        self._size = 0


def windows(texts: list[bytes]) -> Hashes:
    """A hash of each run of ``WINDOW`` words in texts of UTF-8."""
    border = bytes([BORDER])
    data = np.frombuffer(border + border.join(texts) + border, np.uint8)
    words, starts = _words(data)
    if len(words) < WINDOW:
        return np.zeros(0, np.uint64)
    found = np.zeros(len(words) - WINDOW + 1, np.uint64)
    for place in range(WINDOW):
        found = (found ^ words[place : place + len(found)]) * np.uint64(_BASE)
        found ^= found >> np.uint64(32)
    text = np.cumsum(data == BORDER)[starts]
    inside: Hashes = found[text[WINDOW - 1 :] == text[: len(found)]]
    return inside


def _words(data: NDArray[np.uint8]) -> tuple[Hashes, NDArray[np.int64]]:
    """A hash of each run of letters and digits, and where it begins: a polynomial of its bytes."""
    classes = character_classes(data)
    inside = (classes == LETTER) | (classes == NUMBER)
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    starts, ends = edges[::2], edges[1::2]
    powers = np.cumprod(np.full(len(data), _BASE, np.uint64))
    sums = np.cumsum(data * powers)  # wraps around, as does all that follows
    inverse = np.cumprod(np.full(len(data), _INVERSE, np.uint64))
    hashes = (sums[ends - 1] - sums[starts - 1]) * inverse[starts]
    return (hashes ^ (hashes >> np.uint64(29))) * _MIX, starts
