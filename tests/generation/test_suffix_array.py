"""Spans copied from the training tokens: found as by plain search, and never sampled if forbidden."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptscratch.errors import ConfigError
from gptscratch.generation.logits_processors import NoCopyNgram
from gptscratch.generation.memorization import SuffixArray


def longest_naive(tokens: list[int], ids: list[int]) -> int:
    spans = {
        tuple(tokens[i:j]) for i in range(len(tokens)) for j in range(i + 1, min(len(tokens), i + 90) + 1)
    }
    lengths = (j - i for i in range(len(ids)) for j in range(i + 1, len(ids) + 1) if tuple(ids[i:j]) in spans)
    return max(lengths, default=0)


@pytest.mark.parametrize("vocab", [2, 5, 200])
@pytest.mark.parametrize("length", [0, 1, 2, 30, 120])
def test_spans_are_found_as_by_plain_search(vocab: int, length: int) -> None:
    chance = np.random.default_rng(0)
    tokens = chance.integers(vocab, size=length).astype(np.uint16)
    index, plain = SuffixArray(tokens), tokens.tolist()
    for size in (1, 2, 3, 8):
        span = chance.integers(vocab, size=size).tolist()
        wanted = {plain[i + size] for i in range(length - size) if plain[i : i + size] == span}
        assert set(index.next_tokens(span)) == wanted
    ids = chance.integers(vocab, size=12).tolist() + plain[3:80] + [vocab + 1]
    start, span, position = index.longest(ids)
    assert span == longest_naive(plain, ids)
    assert ids[start : start + span] == plain[position : position + span]


def test_a_span_longer_than_the_order_heeds_is_found_whole() -> None:
    repeated = [1, 2] * 60
    tokens = np.array([*repeated, 3, *repeated, 4, 5, 6], np.uint16)
    assert SuffixArray(tokens).longest([*repeated, 4, 5, 7])[1] == 122


def test_a_short_span_is_matched_without_a_look_at_each_occurrence() -> None:
    class Counting(SuffixArray):
        compared = 0

        def _common(self, *arguments: Any) -> int:
            self.compared += 1
            return super()._common(*arguments)

    index = Counting(np.zeros(1000, np.uint16))
    assert index.match_lengths([0, 0, 0]) == [3, 2, 1]
    assert index.longest([0] * 64)[1] == 64
    assert index.compared == 0


def test_the_index_is_made_once_and_mapped(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(9, size=500).astype(np.uint16)
    first = SuffixArray.open(tmp_path, tokens)
    changed = (tmp_path / "train.suffixes").stat().st_mtime_ns
    again = SuffixArray.open(tmp_path, tokens)
    assert (tmp_path / "train.suffixes").stat().st_mtime_ns == changed
    assert np.array_equal(first.order, again.order)
    assert np.array_equal(first.order, SuffixArray(tokens).order)
    SuffixArray.open(tmp_path, tokens[:400])  # of other tokens: built again
    assert len(list(tmp_path.iterdir())) == 1


def test_the_index_of_token_files_that_were_written_again_is_built_again(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(9, size=500).astype(np.uint16)
    SuffixArray.open(tmp_path, tokens)
    tokens.tofile(tmp_path / "train.bin")
    os.utime(tmp_path / "train.suffixes", (1, 1))
    assert np.array_equal(SuffixArray.open(tmp_path, tokens[::-1]).order, SuffixArray(tokens[::-1]).order)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_what_would_copy_is_forbidden(n: int) -> None:
    tokens = np.array([1, 2, 3, 4, 1, 2, 3, 5], np.uint16)
    processor = NoCopyNgram(n, SuffixArray(tokens), [[1, 2]])

    def forbidden() -> list[int]:
        return processor(torch.zeros(1, 7))[0].isinf().nonzero()[:, 0].tolist()

    processor.append(torch.tensor([3]))
    assert forbidden() == {1: [1, 2, 3, 4, 5], 2: [4, 5], 4: [4, 5]}[n]
    processor.append(torch.tensor([6]))
    assert forbidden() == ([1, 2, 3, 4, 5] if n == 1 else [])


def test_more_tokens_than_the_index_can_number_are_refused() -> None:
    with pytest.raises(ConfigError, match="2,147,483,647 at most"):
        SuffixArray(np.broadcast_to(np.uint16(1), 2**31))
