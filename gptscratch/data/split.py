"""The split of a corpus into training and validation text: by whole documents, or the tail of the text."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gptscratch.data.chunks import Documents
from gptscratch.data.token_files import SPLITS, Split

VAL_FRACTION = 0.1
MOST_VAL_BYTES = 20_000_000
LEAST_VAL_DOCUMENTS = 30
SPLIT_BY_DOCUMENT = 20  # documents, from which on whole ones are held out
_HASHED = 1 << 16  # characters at the beginning of a document, at most a chunk, which decide its side
_FIRST = 1 << 20  # documents that the threshold is chosen from: 16 bytes each


@dataclass(frozen=True)
class SplitPlan:
    """Which text is held out.

    "documents": those whose hash is below ``threshold``, so that equal documents are on the same side.
    ``hashes``: those of the first documents, so that they are not computed again.
    "tail": of each component the characters from ``train_ends`` on. "file": the last component.
    """

    kind: Literal["documents", "tail", "file"]
    threshold: int = 0
    train_ends: tuple[int, ...] = ()  # by component
    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64), compare=False)

    def side(self, component: int, position: int, document_hash: int) -> Split:
        """The side of a chunk that begins at ``position`` in its component."""
        if self.kind == "documents":
            return "val" if document_hash < self.threshold else "train"
        return "train" if position < self.train_ends[component] else "val"


class DocumentSizes:
    """Hash and size of the first documents of a corpus, from which the threshold is chosen."""

    def __init__(self) -> None:
        self.count = 0  # of all documents
        self._hashes, self._sizes = array("Q"), array("q")

    def add(self, hashes: NDArray[np.uint64], sizes: list[int]) -> None:
        """Add documents in order; with one size more than hashes, the first belongs to the last document."""
        if len(sizes) > len(hashes):
            first, *sizes = sizes
            if self.count <= _FIRST:
                self._sizes[-1] += first
        room = max(0, _FIRST - self.count)
        self._hashes.frombytes(hashes[:room].tobytes())
        self._sizes.extend(sizes[:room])
        self.count += len(hashes)

    @property
    def hashes(self) -> NDArray[np.uint64]:
        return np.frombuffer(self._hashes, np.uint64)

    def threshold(self, fraction: float) -> int | None:
        """The hash below which documents have about this fraction of the characters: the documents are
        sorted by their hashes, which is a random order. None: there are too few to have some on each side.
        """
        hashes, inverse = np.unique(self.hashes, return_inverse=True)
        if self.count < SPLIT_BY_DOCUMENT or len(hashes) < 2:
            return None
        sizes = np.cumsum(np.bincount(inverse, np.frombuffer(self._sizes, np.int64)))
        last = int(np.abs(sizes[:-1] - fraction * sizes[-1]).argmin())  # of the documents held out
        return int(hashes[last]) + 1


def plan_split(
    documents: DocumentSizes, lengths: list[int], val_fraction: float | None, n_bytes: int, *, val_file: bool
) -> SplitPlan:
    """How a corpus is split.

    Args:
        lengths: characters of each component; with a validation file it is the last one.
        val_fraction: None: a tenth, but of a large corpus not more than ``MOST_VAL_BYTES``.
    """
    if val_file:
        return SplitPlan("file", train_ends=(*lengths[:-1], 0))
    if val_fraction is None:
        val_fraction = chosen_fraction(n_bytes, documents.count)
    threshold = documents.threshold(val_fraction)
    if threshold is not None:
        return SplitPlan("documents", threshold, hashes=documents.hashes)
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


def split_chunks(
    chunks: Iterable[tuple[int, Documents]], plan: SplitPlan
) -> Iterator[tuple[Split, int, Documents]]:
    """(split, component, documents): a document of both sides ends between them."""
    position, previous, is_val, begins, count = 0, 0, False, True, 0
    for component, (texts, complete) in chunks:
        position = position if component == previous else 0
        previous = component
        if plan.kind == "documents":
            new = texts if begins else texts[1:]
            hashes = plan.hashes[count : count + len(new)]
            count += len(new)
            held_out = ((hashes if len(hashes) == len(new) else hashes_of(new)) < plan.threshold).tolist()
            held_out = held_out if begins else [is_val, *held_out]
            is_val, begins = held_out[-1], complete
            for side, wanted in zip(SPLITS, (False, True), strict=True):
                own = [text for text, val in zip(texts, held_out, strict=True) if val == wanted]
                if own:
                    yield side, component, Documents(own, complete or is_val != wanted)
            continue
        ends = list(accumulate(map(len, texts), initial=position))
        border, position = plan.train_ends[component], ends[-1]
        if border < position:
            at = max(0, bisect_right(ends, border) - 1)  # the text with the first character held out
            left = max(0, border - ends[at])
            train, val = texts[:at], texts[at:]
            if left:
                train, val[0] = [*train, val[0][:left]], val[0][left:]
            yield "val", component, Documents(val, complete)
            texts, complete = train, True
        if texts:
            yield "train", component, Documents(texts, complete or border == position)


def hashes_of(documents: list[str]) -> NDArray[np.uint64]:
    """The hashes of documents, from their first texts."""
    blake2b = hashlib.blake2b
    digests = [blake2b(text[:_HASHED].encode(), digest_size=8).digest() for text in documents]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64, copy=False)
