"""One document per row: a shorter one is padded, a longer one takes several rows.

The rows cover the tokens, so that every token is a target once an epoch. A row's first input is the token
before its first target: the end-of-text token where the row begins a document. Memory: 8 bytes per row.

Shapes: B rows, T context length, or less where no row of a batch is so long.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gptscratch.data.token_files import Manifest, TokenArray
from gptscratch.errors import ConfigError, CorpusError

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]  # inputs, targets: (B, T) each

PAD_TARGET = -100  # left out of the loss; torch's default ``ignore_index``


class DocumentRows:
    """The rows of a token file, any of them by number; ``len`` counts them."""

    def __init__(self, tokens: TokenArray, context_length: int, end_of_text: int) -> None:
        """Raises CorpusError where there are no tokens."""
        if not len(tokens):
            raise CorpusError("a corpus, or its validation part, has no documents.", "Add more text.")
        self.tokens = tokens
        self.end_of_text = end_of_text
        lengths = document_lengths(tokens, end_of_text)
        starts = np.cumsum(lengths) - lengths
        rows = -(-lengths // context_length)  # of each document
        within = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
        self._bounds = np.append(np.repeat(starts, rows) + within * context_length, len(tokens))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Targets in each row."""
        return np.diff(self._bounds)

    def take(self, numbers: NDArray[np.int64], width: int) -> Batch:
        """Inputs and targets of these rows, (B, width) each, padded on the right."""
        inputs = np.full((len(numbers), width), self.end_of_text, np.int64)
        targets = np.full_like(inputs, PAD_TARGET)
        for row, number in enumerate(numbers):
            start, end = int(self._bounds[number]), int(self._bounds[number + 1])
            targets[row, : end - start] = self.tokens[start:end]
            if start:
                inputs[row, 0] = self.tokens[start - 1]
            inputs[row, 1 : end - start] = self.tokens[start : end - 1]
        return inputs, targets


def padded_windows(rows: DocumentRows, positions: int, limit: int | None = None) -> Iterator[Batch]:
    """All rows, for evaluation, or about ``limit`` targets of them, evenly spread.

    The longest rows come first, up to ``positions`` tokens at a time with their padding: the rows of a batch
    have about the same length, so that little padding is computed.
    """
    count = len(rows)
    if limit is not None:
        count = min(count, max(1, limit * len(rows) // len(rows.tokens)))
    chosen = np.arange(count) * len(rows) // count
    chosen = chosen[np.argsort(-rows.lengths[chosen], kind="stable")]
    first = 0
    while first < count:
        width = int(rows.lengths[chosen[first]])
        numbers = chosen[first : first + max(1, positions // width)]
        yield rows.take(numbers, width)
        first += len(numbers)


def document_lengths(tokens: TokenArray, end_of_text: int, *, chunk: int = 1 << 22) -> NDArray[np.int64]:
    """Tokens of each document with its end-of-text token, found ``chunk`` tokens at a time: (documents,)."""
    found = [
        np.flatnonzero(tokens[start : start + chunk] == end_of_text) + (start + 1)
        for start in range(0, len(tokens), chunk)
    ]
    ends = np.concatenate(found) if found else np.zeros(0, np.int64)
    if not len(ends) or ends[-1] != len(tokens):
        ends = np.append(ends, len(tokens))
    return np.diff(ends, prepend=0)


def require_documents(manifest: Manifest, eot_id: int | None) -> int:
    """The token between documents; ``eot_id`` is the tokenizer's token for it.

    Raises:
        ConfigError: there is none.
    """
    if manifest.end_of_text is not None:
        return manifest.end_of_text
    if eot_id is None:
        raise ConfigError(
            "Documents cannot be separated: the tokenizer has no end-of-text token.",
            "Leave out --tokenizer, or --documents.",
        )
    raise ConfigError(
        "The corpus is a single document: there is nothing to mask or to pad.",
        "Give several files, rows of a table, or the text between documents: --separator TEXT.",
    )
