"""Batches from several corpora with weights: ``a.txt=0.7 b.jsonl=0.3``.

A weight is the share of the training tokens that come from a corpus. Each corpus has its own epochs: a small
one with a large weight is repeated more often.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gptscratch.data.batches import Batches
from gptscratch.data.document_batches import Batch, document_lengths
from gptscratch.data.token_files import TokenArray, Tokens

CYCLE = 1000  # rows, after which the order of the corpora repeats; ten times as many for small weights
_LEAST = 10  # rows of a cycle that each corpus has at least, so that its weight is kept
_LONGEST = 1_000_000


class MixedBatches:
    """``batch(step)`` as that of ``Batches``: pure, and each row from one corpus.

    Attributes:
        tokens_per_row: targets in a row, on average.
    """

    def __init__(
        self,
        tokens: Tokens,
        context_length: int,
        batch_size: int,
        seed: int,
        *,
        pad_with: int | None = None,
    ) -> None:
        """``tokens`` of a corpus with weights; everything else as for ``Batches``."""
        components = weighted_parts(tokens, "train")
        self.parts = [
            Batches(part, context_length, batch_size, seed + number, pad_with=pad_with)
            for number, (_, part) in enumerate(components)
        ]
        self.context_length = context_length
        self.batch_size = batch_size
        # Weights count tokens: the shorter the rows of a corpus, the more of them are needed.
        rows = [weight / b.tokens_per_row for (weight, _), b in zip(components, self.parts, strict=True)]
        self.tokens_per_row = sum(weight for weight, _ in components) / sum(rows)
        self._order, self._turn, self._counts = _cycle(rows)

    def batch(self, step: int) -> Batch:
        """Inputs and targets of a step, (B, T) each."""
        numbers = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        cycles, places = np.divmod(numbers, len(self._order))
        inputs = np.empty((len(numbers), self.context_length), np.int64)
        targets = np.empty_like(inputs)
        for number, part in enumerate(self.parts):
            own = self._order[places] == number
            if own.any():
                at = cycles[own] * self._counts[number] + self._turn[places[own]]
                inputs[own], targets[own] = part.rows(at)
        return inputs, targets


def make_batches(
    tokens: Tokens, context_length: int, batch_size: int, seed: int, *, pad_with: int | None = None
) -> Batches | MixedBatches:
    """The training batches: by the weights of the corpora where they have some.

    ``pad_with``: the end-of-text token, for one document per row; None: rows of adjacent tokens.
    """
    if tokens.manifest.corpora:
        return MixedBatches(tokens, context_length, batch_size, seed, pad_with=pad_with)
    return Batches(tokens.train, context_length, batch_size, seed, pad_with=pad_with)


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


def _cycle(weights: list[float]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """For each row of a cycle, evenly spread, the number of its corpus and the number of the row among
    those of its corpus; and the rows of each corpus.
    """
    cycle = CYCLE
    while cycle < _LONGEST and min(weights) / sum(weights) * cycle < _LEAST:
        cycle *= 10
    exact = np.array(weights) / sum(weights) * cycle
    counts = np.maximum(exact.astype(np.int64), 1)
    while (short := cycle - int(counts.sum())) != 0:
        counts[np.argmax((exact - counts) * np.sign(short))] += np.sign(short)
    whose = np.repeat(np.arange(len(counts)), counts)
    turn = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort((turn + 0.5) / counts[whose], kind="stable")
    return whose[order], turn[order], counts
