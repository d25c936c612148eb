"""How often each token occurs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gptscratch.data.shards import TokenArray

_CHUNK = 1 << 22  # tokens read at once
_CHUNKS = 16  # of a long text: enough for a start


def token_counts(tokens: TokenArray, vocab_size: int) -> NDArray[np.int64]:
    """(vocab_size,) counts over the tokens, or over chunks spread evenly where they are many."""
    starts = np.arange(0, len(tokens), _CHUNK)
    if len(starts) > _CHUNKS:
        starts = starts[np.linspace(0, len(starts) - 1, _CHUNKS).astype(int)]
    counts = np.zeros(vocab_size, np.int64)
    for start in starts:
        counts += np.bincount(tokens[start : start + _CHUNK], minlength=vocab_size)
    return counts
