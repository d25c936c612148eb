"""Batches as a pure function of the step: a resume needs nothing but the number of the step.

N tokens form a ring of N - 1 pairs (token, next token). Each epoch starts the ring at an offset of its own,
cuts it into rows of T pairs and shuffles the rows. Offset and order come from the seed and the epoch alone.

Corpora with weights, ``a.txt=0.7 b.jsonl=0.3``, have a ring and epochs each: a small corpus with a large
weight is repeated more often. A weight is the share of the training tokens that come from a corpus.

Shapes: B batch size, T context length.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from gptscratch.data.document_batches import Batch, DocumentRows, document_lengths
from gptscratch.data.permutation import Permutation
from gptscratch.data.token_files import TokenArray, Tokens
from gptscratch.errors import CorpusError

ORDER_IN_MEMORY = 1 << 22  # rows, 34 MB: the order of more is computed row by row
CYCLE = 1000  # rows, after which the order of the corpora repeats; ten times as many for small weights
_LEAST = 10  # rows of a cycle that each corpus has at least, so that its weight is kept
_LONGEST = 1_000_000


class Batches:
    """``batch(step)``: the rows of a step, each from one corpus.

    Attributes:
        parts: the rows of each corpus.
        tokens_per_row: targets in a row, on average.
    """

    def __init__(
        self,
        corpora: TokenArray | Sequence[tuple[float, TokenArray]],
        context_length: int,
        batch_size: int,
        seed: int,
        *,
        pad_with: int | None = None,
        order_in_memory: int = ORDER_IN_MEMORY,
    ) -> None:
        """``corpora``: tokens, or (weight, tokens) of each corpus.

        ``pad_with``: the end-of-text token, for one document per row; None: the ring.
        ``order_in_memory``: rows; the order of a larger epoch is a function that takes no memory.

        Raises:
            CorpusError: fewer than ``context_length + 1`` tokens, or no document.
        """
        self.batch_size = batch_size
        weighted = [(1.0, corpora)] if isinstance(corpora, np.ndarray) else corpora
        names = ["the corpus"]
        if len(weighted) > 1:
            names = [f"corpus {number + 1} of {len(weighted)}" for number in range(len(weighted))]
        self.parts = [
            CorpusRows(tokens, context_length, seed + number, pad_with, order_in_memory, names[number])
            for number, (_, tokens) in enumerate(weighted)
        ]
        # Weights count tokens: the shorter the rows of a corpus, the more of them are needed.
        lengths = np.array([part.tokens_per_row for part in self.parts])
        rows = np.array([weight for weight, _ in weighted]) / lengths
        shares = rows / rows.sum()
        self.tokens_per_row = float(shares @ lengths)
        self._order, self._turn, self._counts = _cycle(shares)

    def batch(self, step: int) -> Batch:
        """Inputs and targets of a step, (B, T) each."""
        numbers = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        cycles, places = np.divmod(numbers, len(self._order))
        inputs = np.empty((len(numbers), self.parts[0].context_length), np.int64)
        targets = np.empty_like(inputs)
        for number, part in enumerate(self.parts):
            own = self._order[places] == number
            if own.any():
                at = cycles[own] * self._counts[number] + self._turn[places[own]]
                inputs[own], targets[own] = part.rows(at)
        return inputs, targets


class CorpusRows:
    """The rows of one corpus. Every row of an epoch comes once, in shuffled order; ``len`` counts them."""

    def __init__(
        self,
        tokens: TokenArray,
        context_length: int,
        seed: int,
        pad_with: int | None,
        order_in_memory: int = ORDER_IN_MEMORY,
        name: str = "the corpus",
    ) -> None:
        self.tokens = tokens
        self.context_length = context_length
        self.documents: DocumentRows | None = None
        if pad_with is None:
            _require_tokens(tokens, context_length, name)
            self._n_rows = (len(tokens) - 1) // context_length
            self.tokens_per_row = float(context_length)
        else:
            self.documents = DocumentRows(tokens, context_length, pad_with)
            self._n_rows = len(self.documents)
            self.tokens_per_row = len(tokens) / self._n_rows
        _expect_random_places(tokens)
        self._seed, self._in_memory = seed, self._n_rows <= order_in_memory
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return self._n_rows

    def rows(self, numbers: NDArray[np.int64]) -> Batch:
        """The rows with these numbers, counted from the first of the first epoch."""
        epochs, places = np.divmod(numbers, self._n_rows)
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

    def _shuffled(self, epoch: int) -> tuple[NDArray[np.int64] | Permutation, int]:
        """The order of an epoch's rows, and where in the ring it begins."""
        generator = np.random.default_rng([self._seed, epoch])
        offset = int(generator.integers(max(1, len(self.tokens) - 1)))
        order = generator.permutation if self._in_memory else partial(Permutation, generator=generator)
        return order(self._n_rows), offset


def weighted_parts(tokens: Tokens, split: str) -> list[tuple[float, TokenArray]]:
    """(weight, tokens) of each corpus in a split, "train" or "val"; one part where there are no weights."""
    array = tokens.train if split == "train" else tokens.val
    shares = tokens.manifest.corpora
    sizes = [share.tokens if split == "train" else share.val_tokens for share in shares]
    if not any(sizes):
        return [(1.0, array)]
    ends = np.cumsum(sizes)
    parts = zip(shares, sizes, ends, strict=True)
    least = 2 if split == "val" else 0  # tokens
    return [(share.weight, array[end - n : end]) for share, n, end in parts if n >= least]


def tokens_per_padded_row(tokens: Tokens, end_of_text: int) -> Callable[[int], float]:
    """A function of the context length: targets in a row of one document, on average.

    The token file is read once, however many contexts are asked for.
    """
    parts = [(w, document_lengths(part, end_of_text)) for w, part in weighted_parts(tokens, "train")]

    def average(context_length: int) -> float:
        rows = [w * int((-(-lengths // context_length)).sum()) / lengths.sum() for w, lengths in parts]
        return float(sum(weight for weight, _ in parts) / sum(rows))

    return average


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


def _cycle(
    shares: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """For each row of a cycle, evenly spread, the number of its corpus and the number of the row among
    those of its corpus; and the rows of each corpus.
    """
    cycle = CYCLE
    while cycle < _LONGEST and shares.min() * cycle < _LEAST:
        cycle *= 10
    exact = shares * cycle
    counts = np.maximum(exact.astype(np.int64), 1)
    while (short := cycle - int(counts.sum())) != 0:
        counts[np.argmax((exact - counts) * np.sign(short))] += np.sign(short)
    whose = np.repeat(np.arange(len(counts)), counts)
    turn = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort((turn + 0.5) / counts[whose], kind="stable")
    return whose[order], turn[order], counts


def _expect_random_places(tokens: TokenArray) -> None:
    """Read single pages of a file that is large for the memory: their neighbors would be gone before use."""
    mapped = getattr(tokens, "_mmap", None)
    if mapped is None or not hasattr(mmap, "MADV_RANDOM"):
        return
    if tokens.nbytes > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2:
        mapped.madvise(mmap.MADV_RANDOM)


def _require_tokens(tokens: TokenArray, context_length: int, name: str) -> None:
    if len(tokens) <= context_length:
        longest = len(tokens) - 1
        raise CorpusError(
            f"{name} is shorter than a context: {len(tokens):,} tokens, and "
            f"{context_length + 1:,} are needed.",
            f"Choose --context-length {longest} or less." if longest > 0 else "Add more text.",
        )
