"""What of a text stands in the training tokens: an index of all their suffixes, kept beside them.

The suffixes are sorted by their first 64 tokens, by prefix doubling (Manber and Myers 1990), so that any
span is found by bisection. Four bytes a token on disk, mapped into memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptscratch.errors import CheckpointError, ConfigError, disk_errors
from gptscratch.files import new_file
from gptscratch.runs.run import read_run
from gptscratch.runs.run_tokens import tokens_of_run

if TYPE_CHECKING:
    from gptscratch.generation.generator import Generator

DEPTH = 64  # tokens that the order heeds
_NAME = "train.suffixes"
_MOST_TOKENS = (1 << 32) - 1  # places and ranks are numbered with 32 bits
Ids = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Copied:
    """The longest span of a text that stands in the training tokens."""

    start: int  # of the text's ids
    length: int  # tokens
    place: int  # in the training tokens


class CopyIndex:
    """Finds spans of ids in the training tokens."""

    def __init__(self, tokens: Ids, order: NDArray[np.uint32]) -> None:
        self.tokens = np.asarray(tokens)  # as plain arrays: of a memmap, each slice costs twice as much
        self.order = np.asarray(order)

    @classmethod
    def build(cls, tokens: Ids) -> CopyIndex:
        """Sort the suffixes of the tokens; takes about 40 bytes of memory a token meanwhile.

        Raises:
            ConfigError: there are more tokens than four bytes can number.
        """
        return cls(tokens, _sorted_suffixes(tokens))

    @classmethod
    def open(cls, folder: Path, tokens: Ids) -> CopyIndex:
        """The index beside a folder's token files; made at the first time.

        Raises:
            ConfigError: as ``build``.
            RunError: the disk is full or refuses.
        """
        file = folder / _NAME
        if not _is_current(file, len(tokens)):
            with disk_errors(f"writing {file}"), new_file(file) as temporary:
                _sorted_suffixes(tokens).tofile(temporary)
        return cls(tokens, np.memmap(file, np.uint32, "r") if len(tokens) else np.zeros(0, np.uint32))

    def following(self, span: Sequence[int]) -> list[int]:
        """The ids that follow a span of up to 64 ids anywhere in the training tokens."""
        behind = self.places(span) + len(span)
        return [int(i) for i in np.unique(self.tokens[behind[behind < len(self.tokens)]])]

    def places(self, span: Sequence[int]) -> NDArray[np.int64]:
        """Where a span stands in the training tokens, every time, in no order."""
        head, wanted = span[:DEPTH], np.asarray(span)
        low, high = self._range(head)
        found = self.order[low:high].astype(np.int64)
        if len(span) <= DEPTH:
            return found
        return found[[self._common(wanted, int(place)) == len(span) for place in found]]

    def longest(self, ids: Sequence[int]) -> Copied:
        """The longest span of ids that stands in the training tokens; the first of several."""
        best = Copied(0, 0, 0)
        for start in range(len(ids)):
            if len(ids) - start <= best.length:
                break
            found = self._match(ids[start:])
            if found[0] > best.length:
                best = Copied(start, *found)
        return best

    def _match(self, ids: Sequence[int]) -> tuple[int, int]:
        """How many of the first ids stand in the tokens together, and where."""
        head = ids[:DEPTH]
        low, high = self._range(head)
        # Where all 64 agree, each place may go on; else the longest is a neighbour in the order.
        places = self.order[low:high] if low < high else self.order[max(0, low - 1) : low + 1]
        wanted = np.asarray(ids)
        return max(((self._common(wanted, int(place)), int(place)) for place in places), default=(0, 0))

    def _common(self, ids: NDArray[Any], place: int) -> int:
        there = self.tokens[place : place + len(ids)]
        different = np.flatnonzero(there != ids[: len(there)])
        return int(different[0]) if len(different) else len(there)

    def _range(self, span: Sequence[int]) -> tuple[int, int]:
        """Where in the order the suffixes that begin with the span start and end."""
        low = self._bound(span, after=False, low=0)
        return low, self._bound(span, after=True, low=low)

    def _bound(self, span: Sequence[int], *, after: bool, low: int) -> int:
        """The first place in the order, from ``low`` on, of what is not before the span, or is after it."""
        wanted, high = list(span), len(self.order)
        step = 1 if after else high  # of what begins with the span there is little: look nearby first
        while low < high:
            middle = min((low + high) // 2, low + step)
            step *= 2
            place = int(self.order[middle])
            there = self.tokens[place : place + len(wanted)].tolist()
            if there < wanted or (after and there == wanted):
                low = middle + 1
            else:
                high = middle
        return low


class NoCopy:
    """A rule for ``decode``: never n tokens in a row that stand in the training tokens."""

    def __init__(self, n: int, index: CopyIndex, prompt: Sequence[int] = ()) -> None:
        self.n = n
        self.index = index
        self._recent = list(prompt)[-(n - 1) :] if n > 1 else []

    def take(self, token_id: int) -> None:
        if self.n > 1:
            self._recent = [*self._recent, token_id][-(self.n - 1) :]

    def forbidden(self) -> Iterable[int]:
        return self.index.following(self._recent) if len(self._recent) == self.n - 1 else ()


@dataclass(frozen=True, kw_only=True)
class CopiedText:
    """The longest span of a text that stands in the training tokens."""

    text: str
    start: int  # where in the text it begins and ends, in characters
    end: int
    tokens: int
    of_tokens: int  # the whole text
    place: int  # where in the training tokens it stands, for the first time
    times: int  # how often it stands there


def with_copies(gpt: Generator) -> Generator:
    """The same with the index of its training tokens, as ``no_copy_ngram`` and ``copied`` need it.

    The token files are made again from the corpus if they are gone, the index at the first time.

    Raises:
        UserError: the corpus is gone as well, or is another one now.
    """
    record = read_run(gpt.run)
    prepared = tokens_of_run(gpt.run, record)
    if prepared.manifest.corpus_hash != record.corpus_hash:
        raise CheckpointError(
            f"The token files of {gpt.run.name} are gone, and its corpus has changed since.",
            "What was copied can only be told beside the text that the model was trained on.",
        )
    return dataclasses.replace(gpt, copies=CopyIndex.open(prepared.folder, prepared.tokens.train))


def copied(gpt: Generator, text: str, *, after: str = "") -> CopiedText:
    """The longest span of a text, cut as the tokenizer cuts it behind ``after``, that stands in the training
    tokens.

    Raises:
        ValueError: the model came without their index.
    """
    if gpt.copies is None:
        raise ValueError("there is no index of the training tokens: see with_copies.")
    before = len(after)
    spans = [
        (i, max(0, start - before), end - before)
        for i, start, end in gpt.tokenizer.spans(after + text)
        if end > before
    ]
    ids = [i for i, _, _ in spans]
    found = gpt.copies.longest(ids)
    span = spans[found.start : found.start + found.length]
    start, end = (span[0][1], span[-1][2]) if span else (0, 0)
    places = gpt.copies.places(ids[found.start : found.start + found.length])
    return CopiedText(
        text=text[start:end],
        start=start,
        end=end,
        tokens=found.length,
        of_tokens=len(ids),
        place=int(places.min(initial=found.place)),
        times=len(places) if span else 0,
    )


def _is_current(file: Path, n_tokens: int) -> bool:
    """Whether the index is there, whole, and not older than the token file."""
    if not file.is_file() or file.stat().st_size != 4 * n_tokens:
        return False
    tokens = file.with_name("train.bin")
    return not tokens.is_file() or tokens.stat().st_mtime <= file.stat().st_mtime


def _sorted_suffixes(tokens: Ids) -> NDArray[np.uint32]:
    """The order of all suffixes by their first 64 tokens."""
    if len(tokens) > _MOST_TOKENS:
        raise ConfigError(
            f"There are {len(tokens):,} training tokens; the index of copies holds {_MOST_TOKENS:,} at most.",
            "Leave out --novelty and --no-copy-ngram (in Python: no_copy_ngram).",
        )
    rank = np.asarray(tokens).astype(np.int64) + 1  # 0 stands for what is behind the end
    width, order = 1, np.argsort(rank, kind="stable")
    while width < DEPTH and len(rank):
        behind = np.zeros_like(rank)
        behind[:-width] = rank[width:] if width < len(rank) else 0
        key = _pair_keys(rank, behind)
        order = np.argsort(key, kind="stable")
        ranked = key[order]
        rank[order] = np.cumsum(np.concatenate(([True], ranked[1:] != ranked[:-1])))
        width *= 2
        if rank.max() == len(rank):
            break
    return order.astype(np.uint32)


def _pair_keys(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Numbers in the order of the pairs (first, second), all of which are from 0 to 2^32 - 1."""
    keys: NDArray[np.uint64] = (first.astype(np.uint64) << np.uint64(32)) | second.astype(np.uint64)
    return keys
