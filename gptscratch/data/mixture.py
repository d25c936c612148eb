"""Batches out of several corpora with weights: ``a.txt=0.7 b.jsonl=0.3``.

A weight is the share of the training tokens that are drawn from a corpus. Each corpus has epochs of its
own: a small one with a large weight comes round more often.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gptscratch.data.batches import Batches, rank_rows, rows_of
from gptscratch.data.document_batches import Batch
from gptscratch.data.token_files import Tokens

CYCLE = 1000  # rows, after which the order of the corpora repeats; ten times as many for small weights
_LEAST = 10  # rows of a cycle that each corpus has at least, so that its weight is kept
_LONGEST = 1_000_000


class MixedBatches:
    """``batch(step)`` as that of ``Batches``: pure, and each row from one corpus.

    Attributes:
        n_blocks: rows in an epoch of each corpus, all together.
        steps_per_epoch: steps that draw as many rows.
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
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """``tokens`` are of a corpus with weights; all else as of ``Batches``."""
        shares = tokens.manifest.corpora
        ends = np.cumsum([share.tokens for share in shares])
        self.parts = [
            Batches(
                tokens.train[end - share.tokens : end],
                context_length,
                batch_size,
                seed + number,
                pad_with=pad_with,
            )
            for number, (share, end) in enumerate(zip(shares, ends, strict=True))
        ]
        self.context_length = context_length
        self.batch_size = batch_size
        self.n_blocks = sum(part.n_blocks for part in self.parts)
        self.steps_per_epoch = self.n_blocks / batch_size
        self._rows = rank_rows(batch_size, rank, world_size)
        # Weights are of tokens: the shorter a corpus's rows, the more of them are drawn.
        rows = [s.weight * context_length / p.tokens_per_row for s, p in zip(shares, self.parts, strict=True)]
        self.tokens_per_row = context_length * sum(share.weight for share in shares) / sum(rows)
        self._order, self._turn, self._counts = _cycle(rows)

    def batch(self, step: int) -> Batch:
        """Inputs and targets of a step, each (batch_size / world_size, context_length)."""
        cycles, places = np.divmod(rows_of(step, self.batch_size, self._rows), len(self._order))
        inputs = np.empty((len(places), self.context_length), np.int64)
        targets = np.empty_like(inputs)
        for number, part in enumerate(self.parts):
            own = self._order[places] == number
            at = cycles[own] * self._counts[number] + self._turn[places[own]]
            inputs[own], targets[own] = part.rows(at)
        return inputs, targets


def make_batches(
    tokens: Tokens,
    context_length: int,
    batch_size: int,
    seed: int,
    *,
    pad_with: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Batches | MixedBatches:
    """The training side's batches: by the weights of its corpora, where they have some.

    ``pad_with``: the end-of-text token, for one document a row; None: tokens are cut without a gap.
    """
    if tokens.manifest.corpora:
        return MixedBatches(
            tokens, context_length, batch_size, seed, pad_with=pad_with, rank=rank, world_size=world_size
        )
    return Batches(
        tokens.train, context_length, batch_size, seed, pad_with=pad_with, rank=rank, world_size=world_size
    )


def tokens_per_padded_row(tokens: Tokens, end_of_text: int, context_length: int) -> float:
    """Targets in a row of one document, on average."""
    return make_batches(tokens, context_length, 1, 0, pad_with=end_of_text).tokens_per_row


def _cycle(weights: list[float]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Whose each row of a cycle is, evenly spread; which of its own rows it is; how many each has."""
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
