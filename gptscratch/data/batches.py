"""Batches as a pure function of the step: a resume needs nothing but the number of the step.

N tokens form a ring of N - 1 pairs (token, next token). Each epoch starts the ring at an offset of its own,
cuts it into rows of T pairs and shuffles the rows. Offset and order come from the seed and the epoch alone.

Shapes: B batch size, T context length.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gptscratch.data.document_batches import Batch, DocumentRows
from gptscratch.data.token_files import TokenArray
from gptscratch.errors import CorpusError


class Batches:
    """``batch(step)``: the rows of a step. Every row of an epoch comes once, in shuffled order.

    Attributes:
        n_rows: rows in an epoch; a batch may span two epochs.
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
    ) -> None:
        """``pad_with``: the end-of-text token, for one document per row; None: the ring.

        Raises:
            CorpusError: fewer than ``context_length + 1`` tokens, or no document.
        """
        self.tokens = tokens
        self.context_length = context_length
        self.batch_size = batch_size
        self.documents: DocumentRows | None = None
        if pad_with is None:
            _require_tokens(tokens, context_length)
            self.n_rows = (len(tokens) - 1) // context_length
            self.tokens_per_row = float(context_length)
        else:
            self.documents = DocumentRows(tokens, context_length, pad_with)
            self.n_rows = len(self.documents)
            self.tokens_per_row = len(tokens) / self.n_rows
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def batch(self, step: int) -> Batch:
        """Inputs and targets of a step, (B, T) each."""
        return self.rows(np.arange(step * self.batch_size, (step + 1) * self.batch_size))

    def rows(self, numbers: NDArray[np.int64]) -> Batch:
        """The rows with these numbers, counted from the first of step 0."""
        epochs, places = np.divmod(numbers, self.n_rows)
        chosen = np.empty(len(numbers), np.int64)  # rows of documents, or places in the ring
        for epoch in np.unique(epochs):
            own = epochs == epoch
            order, offset = self._epoch(int(epoch))
            chosen[own] = order[places[own]]
            if self.documents is None:
                chosen[own] = chosen[own] * self.context_length + offset
        if self.documents is not None:
            return self.documents.take(chosen, self.context_length)
        at = (chosen[:, None] + np.arange(self.context_length)) % (len(self.tokens) - 1)  # (B, T)
        return self.tokens[at].astype(np.int64), self.tokens[at + 1].astype(np.int64)

    def _shuffled(self, epoch: int) -> tuple[NDArray[np.int64], int]:
        """The order of an epoch's rows, and where in the ring it begins."""
        generator = np.random.default_rng([self._seed, epoch])
        offset = int(generator.integers(max(1, len(self.tokens) - 1)))
        return generator.permutation(self.n_rows), offset


def windows(
    tokens: TokenArray, context_length: int, batch_size: int, limit: int | None = None
) -> Iterator[Batch]:
    """Adjacent windows for evaluation: every target once, or about ``limit`` of them, evenly spread.

    The last batch of full windows may have fewer rows; the remaining targets come as one shorter row.

    Raises:
        CorpusError: fewer than two tokens.
    """
    n_pairs = len(tokens) - 1
    if n_pairs < 1:
        raise CorpusError("the validation text is too short to evaluate: two tokens are needed.")
    n_full, rest = divmod(n_pairs, context_length)
    count = n_full if limit is None else min(n_full, max(1, limit // context_length))
    starts = np.arange(count) * n_full // max(1, count) * context_length
    for first in range(0, count, batch_size):
        at = starts[first : first + batch_size, None] + np.arange(context_length)  # (B, T)
        yield tokens[at].astype(np.int64), tokens[at + 1].astype(np.int64)
    if rest and (limit is None or limit >= n_pairs or not n_full):
        tail = tokens[n_pairs - rest :].astype(np.int64)[None]
        yield tail[:, :-1], tail[:, 1:]


def _require_tokens(tokens: TokenArray, context_length: int) -> None:
    if len(tokens) <= context_length:
        longest = len(tokens) - 1
        raise CorpusError(
            f"the corpus is shorter than a context: {len(tokens):,} tokens, and "
            f"{context_length + 1:,} are needed.",
            f"Choose --context-length {longest} or less." if longest > 0 else "Add more text.",
        )
