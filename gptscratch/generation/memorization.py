"""What a generated text has in common with the training tokens: a suffix array, saved next to them.

The suffixes are sorted by their first 64 tokens, by prefix doubling (Manber and Myers 1990), so that
bisection finds any span. The file takes four bytes per token and is mapped into memory.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptscratch.errors import ConfigError, disk_errors
from gptscratch.files import new_file
from gptscratch.runs.run import read_run

if TYPE_CHECKING:
    from gptscratch.generation.generator import Generator

PREFIX_TOKENS = 64  # of each suffix, by which it is sorted
_NAME = "train.suffixes"
_MOST_TOKENS = (1 << 31) - 1  # two ranks in 64 bits, with a sign
Ids = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, kw_only=True)
class CopiedSpan:
    """The longest span of a text that is also in the training tokens."""

    text: str
    start: int  # where in the text it begins and ends, in characters
    end: int
    tokens: int
    of_tokens: int  # in the whole text
    place: int  # position of its first occurrence in the training tokens
    times: int  # how often it occurs there


def with_training_tokens(generator: Generator) -> Generator:
    """The same generator with its training tokens, which ``no_copy_ngram`` and ``longest_copy`` need.

    The token files are made again from the corpus if they are gone, the suffix array at the first use.

    Raises:
        UserError: the corpus is gone as well, or has changed.
    """
    from gptscratch.runs.run_tokens import tokens_of_run  # loads what reads a corpus

    record = read_run(generator.run)
    prepared = tokens_of_run(generator.run, record)
    training = SuffixArray.open(prepared.folder, prepared.tokens.train)
    return dataclasses.replace(generator, training=training)


def longest_copy(generator: Generator, text: str, *, after: str = "") -> CopiedSpan:
    """The longest span of a text, tokenized as a continuation of ``after``, that is in the training tokens.

    Raises:
        ValueError: the generator has no training tokens.
    """
    if generator.training is None:
        raise ValueError("The generator has no training tokens: call with_training_tokens first.")
    before = len(after)
    spans = [
        (i, max(0, start - before), end - before)
        for i, start, end in generator.tokenizer.spans(after + text)
        if end > before
    ]
    ids = [i for i, _, _ in spans]
    first, length, position = generator.training.longest(ids)
    copied = spans[first : first + length]
    start, end = (copied[0][1], copied[-1][2]) if copied else (0, 0)
    positions = generator.training.positions(ids[first : first + length]) if copied else np.zeros(0, np.int64)
    return CopiedSpan(
        text=text[start:end],
        start=start,
        end=end,
        tokens=length,
        of_tokens=len(ids),
        place=int(positions.min(initial=position)),
        times=len(positions),
    )


class SuffixArray:
    """Finds spans of ids in the training tokens."""

    def __init__(self, tokens: Ids, order: NDArray[np.uint32] | None = None) -> None:
        """``order``: of the suffixes; None: they are sorted, with about 40 bytes of memory per token.

        Raises:
            ConfigError: there are more tokens than four bytes can number.
        """
        self.tokens = np.asarray(tokens)  # as plain arrays: a slice of a memmap costs twice as much
        self.order = _sorted_suffixes(tokens) if order is None else np.asarray(order)

    @classmethod
    def open(cls, folder: Path, tokens: Ids) -> SuffixArray:
        """The array in a folder of token files, built where it is missing or older than they are.

        Raises:
            ConfigError: there are too many tokens.
            RunError: the disk is full or refuses.
        """
        file = folder / _NAME
        if not _is_current(file, len(tokens)):
            with disk_errors(f"writing {file}"), new_file(file) as temporary:
                _sorted_suffixes(tokens).tofile(temporary)
        return cls(tokens, np.memmap(file, np.uint32, "r") if len(tokens) else np.zeros(0, np.uint32))

    def next_tokens(self, span: Sequence[int]) -> list[int]:
        """The ids that follow a span of up to 64 ids anywhere in the training tokens."""
        ends = self.positions(span) + len(span)
        return [int(i) for i in np.unique(self.tokens[ends[ends < len(self.tokens)]])]

    def positions(self, span: Sequence[int]) -> NDArray[np.int64]:
        """Every position of a span in the training tokens, in no order."""
        low, high = self._range(span[:PREFIX_TOKENS])
        found = self.order[low:high].astype(np.int64)
        if len(span) <= PREFIX_TOKENS:
            return found
        wanted = np.asarray(span)
        return found[[self._common(wanted, int(position)) == len(span) for position in found]]

    def longest(self, ids: Sequence[int]) -> tuple[int, int, int]:
        """(start, length, position) of the longest span of ids that is in the tokens."""
        best = (0, 0, 0)
        for start in range(len(ids)):
            if len(ids) - start <= best[1]:
                break
            length, position = self._match(ids[start:])
            if length > best[1]:
                best = (start, length, position)
        return best

    def match_lengths(self, ids: Sequence[int]) -> list[int]:
        """For each position, how many ids from there are in the tokens together."""
        return [self._match(ids[start:])[0] for start in range(len(ids))]

    def _match(self, ids: Sequence[int]) -> tuple[int, int]:
        """How many of the first ids are in the tokens together, and where."""
        low, high = self._range(ids[:PREFIX_TOKENS])
        if low < high and len(ids) <= PREFIX_TOKENS:
            return len(ids), int(self.order[low])
        # Where all 64 agree, any occurrence may be the longest; else a neighbor in the order is.
        positions = self.order[low:high] if low < high else self.order[max(0, low - 1) : low + 1]
        wanted = np.asarray(ids)
        found = [(self._common(wanted, int(position)), int(position)) for position in positions]
        return max(found, default=(0, 0))

    def _common(self, ids: NDArray[Any], position: int) -> int:
        there = self.tokens[position : position + len(ids)]
        different = np.flatnonzero(there != ids[: len(there)])
        return int(different[0]) if len(different) else len(there)

    def _range(self, span: Sequence[int]) -> tuple[int, int]:
        """Where in the order the suffixes that begin with the span start and end."""
        wanted = list(span)

        def prefix(position: int) -> list[int]:
            found: list[int] = self.tokens[position : position + len(wanted)].tolist()
            return found

        low = bisect_left(self.order, wanted, key=prefix)
        return low, bisect_right(self.order, wanted, lo=low, key=prefix)


def _is_current(file: Path, n_tokens: int) -> bool:
    """Whether the file exists, is complete, and is not older than the token file."""
    if not file.is_file() or file.stat().st_size != 4 * n_tokens:
        return False
    tokens = file.with_name("train.bin")
    return not tokens.is_file() or tokens.stat().st_mtime <= file.stat().st_mtime


def _sorted_suffixes(tokens: Ids) -> NDArray[np.uint32]:
    """The order of all suffixes by their first 64 tokens."""
    if len(tokens) > _MOST_TOKENS:
        raise ConfigError(
            f"There are {len(tokens):,} training tokens; a suffix array holds {_MOST_TOKENS:,} at most.",
            "Leave out --novelty and --no-copy-ngram (in Python: no_copy_ngram).",
        )
    rank = np.asarray(tokens).astype(np.int64) + 1  # 0 is what comes after the end
    width, order = 1, np.argsort(rank, kind="stable")
    while width < PREFIX_TOKENS and len(rank):
        following = np.zeros_like(rank)
        following[:-width] = rank[width:] if width < len(rank) else 0
        pairs = rank << 32 | following  # in the order of the pairs
        order = np.argsort(pairs, kind="stable")
        ranked = pairs[order]
        rank[order] = np.cumsum(np.concatenate(([True], ranked[1:] != ranked[:-1])))
        width *= 2
        if rank.max() == len(rank):
            break
    return order.astype(np.uint32)
