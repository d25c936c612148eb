"""One document a row: what is shorter than the context is padded, what is longer goes on in further rows.

The rows tile the tokens, so an epoch has every token as a target once. A row's first input is the token
before its first target: the end-of-text token, where it begins a document. Memory: 8 bytes a row.

Shapes: B rows, T context length, or less where no row of a batch is so long.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gptscratch.data.token_files import Manifest, TokenArray
from gptscratch.errors import ConfigError, CorpusError

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]  # inputs, targets: (B, T) each

PAD_TARGET = -100  # what the loss leaves out; equal to training.loss.IGNORE
_CHUNK = 1 << 22  # tokens looked through at once


class DocumentRows:
    """The rows of a token file, any of them by number; ``len`` counts them."""

    def __init__(self, tokens: TokenArray, context_length: int, end_of_text: int) -> None:
        """Raises CorpusError where there are no tokens."""
        if not len(tokens):
            raise CorpusError("a corpus, or its part for validation, has no documents.", "Give it more text.")
        self.tokens = tokens
        self.context_length = context_length
        self.end_of_text = end_of_text
        self.bounds = row_bounds(tokens, context_length, end_of_text)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Targets in each row."""
        return np.diff(self.bounds)

    def take(self, numbers: NDArray[np.int64], width: int) -> Batch:
        """Inputs and targets of these rows, (B, width) each; pads stand on the right."""
        inputs = np.full((len(numbers), width), self.end_of_text, np.int64)
        targets = np.full_like(inputs, PAD_TARGET)
        for row, number in enumerate(numbers):
            start, end = int(self.bounds[number]), int(self.bounds[number + 1])
            targets[row, : end - start] = self.tokens[start:end]
            if start:
                inputs[row, 0] = self.tokens[start - 1]
            inputs[row, 1 : end - start] = self.tokens[start : end - 1]
        return inputs, targets


def padded_windows(rows: DocumentRows, positions: int, limit: int | None = None) -> Iterator[Batch]:
    """All rows, for evaluation, or about ``limit`` targets of them, evenly spread.

    The longest come first and up to ``positions`` tokens at a time, pads included: the rows of a batch
    are about as long, and few pads are computed.
    """
    count = len(rows)
    if limit is not None:
        count = min(count, max(1, limit * len(rows) // len(rows.tokens)))
    chosen = np.arange(count, dtype=np.int64) * len(rows) // count
    chosen = chosen[np.argsort(-rows.lengths[chosen], kind="stable")]
    first = 0
    while first < count:
        width = int(rows.lengths[chosen[first]])
        numbers = chosen[first : first + max(1, positions // width)]
        yield rows.take(numbers, width)
        first += len(numbers)


def row_bounds(tokens: TokenArray, context_length: int, end_of_text: int) -> NDArray[np.int64]:
    """Where rows begin, and behind them the number of tokens: (rows + 1,)."""
    ends = document_ends(tokens, end_of_text)
    begins = np.append(0, ends[:-1])
    counts = -(-(ends - begins) // context_length)  # rows of each document
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.append(np.repeat(begins, counts) + within * context_length, len(tokens))


def document_ends(tokens: TokenArray, end_of_text: int) -> NDArray[np.int64]:
    """The place behind each document's end-of-text token, found chunk by chunk: (documents,)."""
    found = [
        np.flatnonzero(tokens[start : start + _CHUNK] == end_of_text) + (start + 1)
        for start in range(0, len(tokens), _CHUNK)
    ]
    ends = np.concatenate(found) if found else np.zeros(0, np.int64)
    return ends if len(ends) and ends[-1] == len(tokens) else np.append(ends, len(tokens))


def require_documents(manifest: Manifest, eot_id: int | None) -> int:
    """The token between documents; ``eot_id`` is the one that the tokenizer has for it.

    Raises:
        ConfigError: there is none.
    """
    if manifest.end_of_text is not None:
        return manifest.end_of_text
    if eot_id is None:
        raise ConfigError(
            "Documents cannot be told apart: the tokenizer has no end-of-text token.",
            "Leave out --tokenizer, or --mask-documents or --pad-documents.",
        )
    raise ConfigError(
        "The corpus is a single document: there is nothing to mask or to pad.",
        "Give several files, rows of a table, or what stands between documents: --separator TEXT.",
    )
