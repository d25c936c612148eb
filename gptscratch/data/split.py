"""The split of a corpus into training and validation text: by whole documents, or the tail of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gptscratch.data.chunks import END, Chunk

VAL_FRACTION = 0.1
MOST_VAL_BYTES = 20_000_000
LEAST_VAL_DOCUMENTS = 30
SPLIT_BY_DOCUMENT = 20  # documents, from which on whole ones are held out
SPLIT = 2  # version of the rules below: token files that were made under an older one are made again


@dataclass(frozen=True)
class SplitPlan:
    """Which text is held out.

    "documents": those whose hash is below ``threshold``, so that equal documents are on the same side.
    "tail": of each component the characters from ``train_ends`` on. "file": the last component.
    """

    kind: Literal["documents", "tail", "file"]
    threshold: int = 0
    train_ends: tuple[int, ...] = ()  # by component

    def parts(self, chunk: Chunk) -> tuple[bytes, bytes]:
        """The training and the validation text of a chunk. A document of both is ended between them."""
        if self.kind == "documents":
            held_out = chunk.hashes < self.threshold
            *texts, rest = chunk.data.split(END)
            texts = [*(text + END for text in texts), rest]
            return b"".join(compress(texts, ~held_out)), b"".join(compress(texts, held_out))
        border = self.train_ends[chunk.component] - chunk.start
        if border <= 0:
            return b"", chunk.data
        if chunk.end - chunk.start <= border:
            ends = chunk.end - chunk.start == border and not chunk.data.endswith(END)
            return chunk.data + END * ends, b""
        text = chunk.data.decode(errors="surrogateescape")
        characters = (at for at, letter in enumerate(text) if letter != "\udcff")
        at = next(islice(characters, border, None))
        train, val = (part.encode(errors="surrogateescape") for part in (text[:at], text[at:]))
        return train if train.endswith(END) else train + END, val


def plan_split(
    known: Sequence[tuple[NDArray[np.uint64], NDArray[np.int64]]],
    n_documents: int,
    lengths: list[int],
    val_fraction: float,
    *,
    val_file: bool,
) -> SplitPlan:
    """How a corpus is split.

    Whole documents are held out where there are enough. Their hashes give a random order: the first ones,
    which have about ``val_fraction`` of the text, are validation text. Where that is less than half or more
    than double of ``val_fraction`` of some component, the tail of each component is.

    Args:
        known: of each component, (hashes, bytes) of the documents of its first chunks.
        lengths: characters of each component; with a validation file it is the last one.
    """
    if val_file:
        return SplitPlan("file", train_ends=(*lengths[:-1], 0))
    hashes, sizes = map(np.concatenate, zip(*known, strict=True))
    distinct, inverse = np.unique(hashes, return_inverse=True)
    if len(distinct) > 1 and n_documents >= SPLIT_BY_DOCUMENT:
        until = np.cumsum(np.bincount(inverse, sizes))
        last = int(np.abs(until[:-1] - val_fraction * until[-1]).argmin())  # of the documents held out
        threshold = int(distinct[last]) + 1
        shares = [own_sizes[own < threshold].sum() / own_sizes.sum() for own, own_sizes in known]
        most = min(2 * val_fraction, (1 + val_fraction) / 2)  # some of each component is training text
        if val_fraction / 2 <= min(shares) and max(shares) <= most:
            return SplitPlan("documents", threshold)
    ends = (min(max(int(length * (1 - val_fraction)), 1), max(length - 1, 1)) for length in lengths)
    return SplitPlan("tail", train_ends=tuple(ends))


def chosen_fraction(n_bytes: int, n_documents: int) -> float:
    """The validation share if none is given: a tenth, but not more of a large corpus than is useful.

    It is never so small that no document could be held out.
    """
    enough = MOST_VAL_BYTES / max(1, n_bytes)
    if n_documents >= SPLIT_BY_DOCUMENT:
        enough = max(enough, LEAST_VAL_DOCUMENTS / n_documents)
    return min(VAL_FRACTION, enough)
