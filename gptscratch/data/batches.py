"""Batches as a pure function of the step: no iterator, no state, nothing to save for a resume.

N tokens make a ring of N - 1 pairs (token, next token). Each epoch turns the ring by an offset, cuts it
into blocks of T pairs and takes the blocks in an order of its own. Both come from the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gptscratch.data.document_batches import Batch, DocumentRows
from gptscratch.data.token_files import TokenArray
from gptscratch.errors import ConfigError, CorpusError

_Words = NDArray[np.uint64]

_ROUNDS = 6
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of splitmix64 (Steele, Lea & Flood 2014)
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


class Batches:
    """``batch(step)``: this rank's rows of a step. Every row of an epoch once, in shuffled order.

    Attributes:
        n_blocks: rows in an epoch.
        steps_per_epoch: a real number; a batch may span two epochs.
        tokens_per_row: targets in a row, on average.
    """

    def __init__(
        self,
        tokens: TokenArray,
        context_length: int,
        batch_size: int,
        seed: int,
        *,
        pad_with: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """``batch_size`` counts the rows of all ranks.

        ``pad_with``: the end-of-text token, for one document a row (documents.py); None: blocks of the ring.

        Raises:
            CorpusError: fewer than ``context_length + 1`` tokens, or no document.
            ConfigError: ``world_size`` does not divide ``batch_size``.
        """
        self.tokens = tokens
        self.context_length = context_length
        self.batch_size = batch_size
        self.documents: DocumentRows | None = None
        if pad_with is None:
            require_tokens(tokens, context_length)
            self.n_blocks = (len(tokens) - 1) // context_length
            self.tokens_per_row = float(context_length)
        else:
            self.documents = DocumentRows(tokens, context_length, pad_with)
            self.n_blocks = len(self.documents)
            self.tokens_per_row = len(tokens) / self.n_blocks
        self.steps_per_epoch = self.n_blocks / batch_size
        self._seed = seed
        self._rows = rank_rows(batch_size, rank, world_size)

    def batch(self, step: int) -> Batch:
        """Inputs and targets of a step, each (batch_size / world_size, context_length)."""
        return self.rows(rows_of(step, self.batch_size, self._rows))

    def rows(self, at: NDArray[np.int64]) -> Batch:
        """The rows with these numbers, counted from the first of step 0."""
        epochs, places = np.divmod(at, self.n_blocks)
        numbers = np.empty_like(at)
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            key = key_of(self._seed, int(epoch))
            blocks = permuted(places[rows], self.n_blocks, key)
            numbers[rows] = blocks if self.documents is not None else self._starts(blocks, key)
        if self.documents is not None:
            return self.documents.take(numbers, self.context_length)
        inputs = np.empty((len(at), self.context_length), np.int64)
        targets = np.empty_like(inputs)
        for row, start in enumerate(numbers):
            self._copy(int(start), inputs[row], targets[row])
        return inputs, targets

    def _starts(self, blocks: NDArray[np.int64], key: int) -> NDArray[np.int64]:
        """Where blocks of the ring begin, turned by the epoch's offset."""
        n_pairs = len(self.tokens) - 1
        return (blocks * self.context_length + key_of(key, 0) % n_pairs) % n_pairs

    def _copy(self, start: int, inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        """One block; where it passes the ring's end it goes on at the text's beginning."""
        length = min(self.context_length, len(self.tokens) - 1 - start)
        rest = self.context_length - length
        inputs[:length] = self.tokens[start : start + length]
        targets[:length] = self.tokens[start + 1 : start + length + 1]
        inputs[length:] = self.tokens[:rest]
        targets[length:] = self.tokens[1 : rest + 1] if rest else 0


def rows_of(step: int, batch_size: int, mine: range) -> NDArray[np.int64]:
    """The numbers of a step's rows that are this rank's."""
    first = step * batch_size
    return np.arange(first + mine.start, first + mine.stop, dtype=np.int64)


def rank_rows(batch_size: int, rank: int, world_size: int) -> range:
    """Which rows of every batch are a rank's.

    Raises:
        ConfigError: ``world_size`` does not divide ``batch_size``.
    """
    if batch_size % world_size:
        raise ConfigError(f"batch_size = {batch_size} is no multiple of the {world_size} processes.")
    return range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)


def windows(
    tokens: TokenArray, context_length: int, batch_size: int, limit: int | None = None
) -> Iterator[Batch]:
    """Windows side by side, for evaluation: every target once, or about ``limit`` of them, evenly spread.

    The last batch of full windows may have fewer rows; what is left over comes as one shorter row.
    Weigh each batch's mean by ``targets.size``.

    Raises:
        CorpusError: fewer than two tokens.
    """
    n_pairs = len(tokens) - 1
    if n_pairs < 1:
        raise CorpusError("the validation text is too short to evaluate: two tokens are needed.")
    n_full, rest = divmod(n_pairs, context_length)
    whole = limit is None or limit >= n_pairs
    count = n_full if whole or limit is None else min(n_full, max(1, limit // context_length))
    chosen = np.arange(count, dtype=np.int64) * n_full // max(1, count) * context_length
    span = np.arange(context_length, dtype=np.int64)
    for first in range(0, count, batch_size):
        at = chosen[first : first + batch_size, None] + span  # (B, T)
        yield tokens[at].astype(np.int64), tokens[at + 1].astype(np.int64)
    if rest and (whole or not n_full):
        tail = tokens[n_pairs - rest :].astype(np.int64)[None]
        yield tail[:, :-1], tail[:, 1:]


def require_tokens(tokens: TokenArray, context_length: int) -> None:
    """Raises CorpusError where the tokens do not fill one context."""
    if len(tokens) <= context_length:
        longest = len(tokens) - 1
        hint = f"Take --context-length {longest} or less." if longest > 0 else "Give it more text."
        raise CorpusError(
            f"the corpus is shorter than a context: {len(tokens):,} tokens, and "
            f"{context_length + 1:,} are needed.",
            hint,
        )


def permuted(index: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Where a keyed permutation of range(size) takes each index; no table is made.

    A Feistel network permutes the next power of four; what lands outside goes through it again until
    it is inside, which keeps it a permutation (cycle walking, Black & Rogaway 2002).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = [key_of(key, i + 1) for i in range(_ROUNDS)]
    found = _feistel(index.astype(np.uint64), half, keys)
    outside = np.flatnonzero(found >= size)
    while len(outside):
        found[outside] = _feistel(found[outside], half, keys)
        outside = outside[found[outside] >= size]
    return found.astype(np.int64)


def _feistel(values: _Words, half: int, keys: list[int]) -> _Words:
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ np.uint64(key)) & mask)
    joined: _Words = (left << shift) | right
    return joined


def _mixed(values: _Words) -> _Words:
    """splitmix64's finaliser; unsigned arrays wrap around as it wants."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_MIX[0])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_MIX[1])
    mixed: _Words = values ^ (values >> np.uint64(31))
    return mixed


def key_of(seed: int, index: int) -> int:
    """64 bits from two numbers: the key of an epoch's order, from the seed and the epoch."""
    state = np.array([(_absorbed(seed) + (index + 1) * _GOLDEN) & _MASK], dtype=np.uint64)
    return int(_mixed(state)[0])


def _absorbed(seed: int) -> int:
    return int(_mixed(np.array([seed & _MASK], dtype=np.uint64))[0])
