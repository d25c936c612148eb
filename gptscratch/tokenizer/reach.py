"""Where no token of a byte-level BPE reaches across: there merges never meet, and a piece may be cut.

A merge makes a token, so two characters can only be joined if some token holds both. Scripts without spaces
have long pieces that hardly ever come again; cut where no token reaches, they fall into short ones that do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptscratch.tokenizer.build import byte_letters
from gptscratch.tokenizer.cut import BORDER

_SIDE = 3  # bytes looked at on either side of a place: one character of most scripts
_BITS = 22  # of the table's index: 4 MB
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def reach_of(model: dict[str, Any]) -> Reach | None:
    """Of the model of a tokenizer.json whose pieces are bytes; None where it is no plain BPE."""
    marks = ("continuing_subword_prefix", "end_of_word_suffix", "dropout")
    if model["type"] != "BPE" or any(model.get(mark) for mark in marks):
        return None
    if not set(byte_letters()) <= model["vocab"].keys():
        return None
    values = {ord(letter): value for value, letter in enumerate(byte_letters())}
    tokens = (token.translate(values) for token in model["vocab"] if not token.isascii())
    return Reach(token.encode("latin-1") for token in tokens if max(token) <= "\xff")


class Reach:
    """Looks at places between two characters beyond ASCII; elsewhere it says nothing."""

    def __init__(self, tokens: Iterable[bytes]) -> None:
        self._crossed = np.zeros(1 << _BITS, bool)  # by hash: a collision only forgoes a cut
        self._masks: list[np.uint64] = []  # of the bytes that tokens have around such a place
        keys: dict[int, set[int]] = {}
        for token in tokens:
            for mask, key in _crossings(token):
                keys.setdefault(mask, set()).add(key)
        for mask, found in keys.items():
            self._masks.append(np.uint64(mask))
            self._crossed[_slots(np.array(list(found), np.uint64))] = True

    def free(self, padded: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The places that no token crosses.

        ``padded``: UTF-8 behind a border byte, with eight zeros at its end.
        """
        heads = np.flatnonzero((padded >= 0xC0) & (padded != BORDER))
        heads = heads[(padded[heads - 1] & 0xC0) == 0x80]
        windows = np.ndarray((len(padded) - 7,), "<u8", padded.data, 0, (1,))[heads - _SIDE]
        crossed = np.zeros(len(heads), bool)
        for mask in self._masks:
            crossed |= self._crossed[_slots(windows & mask)]
        free: NDArray[np.int64] = heads[~crossed]
        return free


def _crossings(token: bytes) -> Iterator[tuple[int, int]]:
    """(mask, key) of each place inside of a token: which bytes of a window it has there, and these bytes."""
    for at in range(1, len(token)):
        if token[at] < 0xC0 or token[at - 1] < 0x80:
            continue
        left, right = min(at, _SIDE), min(len(token) - at, _SIDE)
        before = bytes(_SIDE - left)
        key = int.from_bytes(before + token[at - left : at + right], "little")
        yield int.from_bytes(before + b"\xff" * (left + right), "little"), key


def _slots(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = (keys ^ (keys >> np.uint64(29))) * _MULTIPLIER
    slots: NDArray[np.uint64] = mixed >> np.uint64(64 - _BITS)
    return slots
