"""Encoding by memory: text repeats its pieces, so each distinct piece goes through the library once.

Pieces of up to 31 bytes are the keys of hash tables made of numpy arrays, and a batch is looked up whole.
Keys are the bytes themselves: no two pieces can be taken for one another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from threading import Lock
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from gptscratch.tokenizer.build import byte_letters
from gptscratch.tokenizer.cut import BORDER, Cutter, Places, cut_pieces
from gptscratch.tokenizer.reach import Reach, reach_of

Ids = NDArray[np.unsignedinteger[Any]]
Keys = NDArray[np.uint64]  # (words, pieces): bytes, padded with zeros, the length in the last one

SHORT, LONG = 7, 31  # bytes of a piece: one word or four
MOST = 1 << 19  # pieces, from which on a table starts afresh: less than 100 MB for both
_MULTIPLIERS = np.array(
    [0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93], np.uint64
)
_LETTERS = dict(enumerate(byte_letters()))
_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)  # keep the first n bytes of a word


class Memo:
    """Encodes batches of texts as ``library`` does, cut by ``cutter``; threads take turns."""

    def __init__(self, library: tokenizers.Tokenizer, cutter: Cutter, dtype: type) -> None:
        self._library = library
        self._cutter = cutter
        self._dtype = dtype
        self._exact = cutter is cut_pieces  # other cutters' pieces are cut further by the library
        self._model = library.model
        self._tables = (_Table(1, dtype), _Table(4, dtype))
        self._lock = Lock()

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Places]:
        """The ids of the texts, one behind the other, and how many each has."""
        border = bytes([BORDER])
        raw = border + border.join(text.encode() for text in texts)
        padded = np.frombuffer(raw + bytes(LONG + 1), np.uint8)
        data = padded[: len(raw)]
        starts = self._cutter(data)
        if self._reach is not None:
            begins = np.zeros(len(data), bool)
            begins[starts] = begins[self._reach.free(padded)] = True
            starts = np.flatnonzero(begins)
        lengths = np.diff(starts, append=len(raw))
        with self._lock:
            offsets, counts, store = self._found(padded, starts, lengths)
        firsts = np.cumsum(counts)
        ids = store[np.repeat(offsets - firsts + counts, counts) + np.arange(firsts[-1])]
        borders = np.flatnonzero(data[starts] == BORDER)
        return ids, np.diff(firsts[borders], append=firsts[-1])

    @cached_property
    def _reach(self) -> Reach | None:
        return reach_of(json.loads(self._library.to_str())["model"]) if self._exact else None

    def _found(
        self, padded: NDArray[np.uint8], starts: Places, lengths: Places
    ) -> tuple[Places, Places, Ids]:
        """Where in the third array the ids of each piece begin, and how many they are."""
        offsets, counts = np.zeros(len(starts), np.int64), np.zeros(len(starts), np.int64)
        short = lengths <= SHORT
        stores: list[Ids] = []
        base = 0  # of the next store in all of them, one behind the other
        for table, kind in zip(self._tables, (short, ~short & (lengths <= LONG)), strict=True):
            if table.words == 1:
                kind = kind & (padded[starts] != BORDER)
            if table.n_keys > MOST:
                table.clear()
            at = np.flatnonzero(kind)
            keys = _keys(padded, starts[at], lengths[at], table.words)
            slots = table.find(keys)
            missing = np.flatnonzero(slots < 0)
            if len(missing):
                new, pieces = _distinct(keys[:, missing])
                table.add(new, *self._of_library(pieces))
                slots = table.find(keys)
            offsets[at] = table.offsets[slots] + base
            counts[at] = table.counts[slots]
            stores.append(table.ids[: table.n_ids])
            base += table.n_ids
        at = np.flatnonzero(lengths > LONG)  # repeat too rarely to be kept
        if len(at):
            whole = padded.tobytes()
            spans = zip(starts[at].tolist(), lengths[at].tolist(), strict=True)
            ids, counts[at] = self._of_library([whole[s : s + n] for s, n in spans])
            offsets[at] = np.cumsum(counts[at]) - counts[at] + base
            stores.append(ids)
        return offsets, counts, np.concatenate(stores)

    def _of_library(self, pieces: list[bytes]) -> tuple[Ids, Places]:
        """The ids of some pieces, one behind the other, and how many each has."""
        if self._exact:  # past the pipeline, which takes longer than the model
            letters = [piece.decode("latin-1").translate(_LETTERS) for piece in pieces]
            found = [[token.id for token in self._model.tokenize(piece)] for piece in letters]
        else:
            texts = [piece.decode() for piece in pieces]
            encoded = self._library.encode_batch_fast(texts, add_special_tokens=False)
            found = [encoding.ids for encoding in encoded]
        counts = np.fromiter(map(len, found), np.int64, len(found))
        return np.fromiter(chain.from_iterable(found), self._dtype, counts.sum()), counts


class _Table:
    """Keys to ids: open addressing with linear probing, in arrays that grow."""

    def __init__(self, words: int, dtype: type) -> None:
        self.words = words
        self._dtype = dtype
        self.clear()

    def clear(self) -> None:
        self.n_ids = self.n_keys = 0
        self.ids: Ids = np.zeros(1 << 14, self._dtype)
        self._resize(1 << 14)

    def _resize(self, size: int) -> None:
        self._keys = np.zeros((self.words, size), np.uint64)  # a zero last word: free
        self.offsets = np.zeros(size, np.int64)  # of a key's first id
        self.counts = np.zeros(size, np.int64)  # of its ids

    def find(self, keys: Keys) -> Places:
        """The slot of each key, or -1."""
        mask = self._keys.shape[1] - 1
        slots = _hashed(keys) & mask
        found = np.full(keys.shape[1], -1, np.int64)
        same, last = self._compare(slots, keys)
        found[same] = slots[same]
        left = np.flatnonzero(~same & (last != 0))
        while len(left):
            slots[left] = (slots[left] + 1) & mask
            same, last = self._compare(slots[left], keys[:, left])
            found[left[same]] = slots[left[same]]
            left = left[~same & (last != 0)]
        return found

    def _compare(self, slots: Places, keys: Keys) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
        last = self._keys[-1][slots]
        same = last == keys[-1]
        for mine, theirs in zip(self._keys[:-1], keys[:-1], strict=True):
            same &= mine[slots] == theirs
        return same, last

    def add(self, keys: Keys, ids: Ids, counts: Places) -> None:
        """Keys that are not here yet, each once; their ids, one behind the other, and how many each has."""
        offsets = np.cumsum(counts) - counts + self.n_ids
        size = self._keys.shape[1]
        self.n_keys += keys.shape[1]
        if 2 * self.n_keys > size:
            used = np.flatnonzero(self._keys[-1])
            keys = np.concatenate((self._keys[:, used], keys), axis=1)
            offsets = np.concatenate((self.offsets[used], offsets))
            counts = np.concatenate((self.counts[used], counts))
            while size < 4 * self.n_keys:
                size *= 2
            self._resize(size)
        self._append(ids)
        self._place(keys, offsets, counts)

    def _append(self, ids: Ids) -> None:
        end = self.n_ids + len(ids)
        if end > len(self.ids):
            self.ids = np.concatenate((self.ids[: self.n_ids], np.zeros(2 * end, self._dtype)))
        self.ids[self.n_ids : end] = ids
        self.n_ids = end

    def _place(self, keys: Keys, offsets: Places, counts: Places) -> None:
        mask = self._keys.shape[1] - 1
        slots = _hashed(keys) & mask
        left = np.arange(keys.shape[1])
        winner = np.full(mask + 1, -1, np.int64)
        while len(left):
            free = left[self._keys[-1][slots[left]] == 0]
            winner[slots[free]] = free  # of several that want a slot, the last has it
            won = free[winner[slots[free]] == free]
            at = slots[won]
            self._keys[:, at] = keys[:, won]
            self.offsets[at], self.counts[at] = offsets[won], counts[won]
            placed = np.zeros(keys.shape[1], bool)
            placed[won] = True
            left = left[~placed[left]]
            slots[left] = (slots[left] + 1) & mask


def _keys(padded: NDArray[np.uint8], starts: Places, lengths: Places, words: int) -> Keys:
    windows = np.ndarray(
        (len(padded) - 7,), "<u8", padded.data, 0, (1,)
    )  # at each byte, it and the next seven
    keys = np.empty((words, len(starts)), np.uint64)
    for word in range(words):
        keys[word] = windows[starts + 8 * word] & _MASKS[np.clip(lengths - 8 * word, 0, 8)]
    keys[-1] |= lengths.astype(np.uint64) << np.uint64(56)
    return keys


def _hashed(keys: Keys) -> Places:
    mixed: NDArray[np.uint64] = keys[0] * _MULTIPLIERS[0]
    for word, multiplier in zip(keys[1:], _MULTIPLIERS[1:], strict=False):
        mixed = (mixed ^ (mixed >> np.uint64(29)) ^ word) * multiplier
    mixed ^= mixed >> np.uint64(32)
    slots: Places = (mixed & np.uint64(0x7FFFFFFF)).astype(np.int64)
    return slots


def _distinct(keys: Keys) -> tuple[Keys, list[bytes]]:
    """The keys, each once, and their pieces."""
    width = 8 * len(keys)
    rows = keys.T.astype("<u8").tobytes()
    once = list({rows[i : i + width] for i in range(0, len(rows), width)})
    found = np.frombuffer(b"".join(once), "<u8").reshape(len(once), -1).T.astype(np.uint64)
    return found, [row[: row[-1]] for row in once]
