"""The split of a corpus into training and validation text: by whole documents, or the tail of the text."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gptscratch.data.chunks import TextChunk
from gptscratch.data.token_files import Split

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
    "tail": of each component the characters from ``train_ends`` on. "file": the last component.
    """

    kind: Literal["documents", "tail", "file"]
    threshold: int = 0
    train_ends: tuple[int, ...] = ()  # by component

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

    def add(self, document_hash: int, characters: int) -> None:
        self.count += 1
        if len(self._hashes) < _FIRST:
            self._hashes.append(document_hash)
            self._sizes.append(characters)

    def threshold(self, fraction: float) -> int | None:
        """The hash below which documents have about this fraction of the characters: the documents are
        sorted by their hashes, which is a random order. None: there are too few to have some on each side.
        """
        hashes, inverse = np.unique(np.frombuffer(self._hashes, np.uint64), return_inverse=True)
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


def split_chunks(
    chunks: Iterable[tuple[int, TextChunk]], plan: SplitPlan
) -> Iterator[tuple[Split, int, TextChunk]]:
    """(split, component, chunk): a chunk that spans both sides becomes two, and the document ends between."""
    position, previous, document_hash, begins = 0, 0, 0, True
    for component, chunk in chunks:
        position = position if component == previous else 0
        previous = component
        if begins and plan.kind == "documents":
            document_hash = hash_of(chunk)
        begins = chunk.ends_document
        left = len(chunk.text)  # characters before the validation text begins
        if plan.kind != "documents":
            left = plan.train_ends[component] - position
        side = plan.side(component, position, document_hash)
        position += len(chunk.text)
        if 0 < left < len(chunk.text):
            yield "train", component, TextChunk(chunk.text[:left], True)
            yield "val", component, TextChunk(chunk.text[left:], chunk.ends_document)
        else:
            ends = chunk.ends_document or (plan.kind == "tail" and left == len(chunk.text))
            yield side, component, TextChunk(chunk.text, ends)


def hash_of(chunk: TextChunk) -> int:
    """The hash of a document, from its first chunk."""
    digest = hashlib.blake2b(chunk.text[:_HASHED].encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
