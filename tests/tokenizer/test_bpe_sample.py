"""What part of a corpus a BPE learns from."""

from __future__ import annotations

import random
import time

import pytest

from gptscratch.tokenizer import build_tokenizer, sample
from gptscratch.tokenizer.build import bpe_seconds

ENGLISH = "Nobody minded that the cat sat on the mat. " * 50


def test_text_with_spaces_is_not_cut() -> None:
    assert list(sample.spread_sample([ENGLISH, ENGLISH], 1.0)) == [ENGLISH, ENGLISH]


@pytest.mark.parametrize("run", ["x" * 1000, "猫が好き" * 300, "-=" * 500, "ab" * 500 + " " + "cd" * 500])
def test_long_runs_are_cut_and_nothing_is_lost(run: str) -> None:
    parts = list(sample.spread_sample([ENGLISH + run + "\n"], 1.0))
    assert "".join(parts) == ENGLISH + run + "\n"
    assert max(len(word) for part in parts[1:] for word in part.split()) <= 256


def test_a_share_is_spread_over_the_whole() -> None:
    texts = [f"piece {i:03d} " for i in range(100)]
    assert list(sample.spread_sample(texts, 0.25)) == texts[3::4]


def test_text_without_spaces_is_sampled_less() -> None:
    assert sample.sample_size([ENGLISH]) == sample.SAMPLE
    assert sample.sample_size(["吾輩は猫である。名前はまだ無い。\n" * 9]) == sample.SPACELESS_SAMPLE


def test_the_head_is_the_beginning() -> None:
    pieces = [chr(97 + i) * 100 + " " + "z " * 150_000 for i in range(9)]
    assert sample.head_of(pieces) == pieces[:4]


def test_a_bpe_of_one_endless_word_is_trained_in_no_time() -> None:
    """Uncut, a word of 200,000 letters takes the trainer 100 times as long."""
    chance = random.Random(0)
    text = "".join(chance.choices("abcdefghij", k=200_000))
    start = time.perf_counter()
    library = build_tokenizer("bpe", lambda: [text], alphabet="", n_characters=len(text), vocab_size=1500)
    assert library.get_vocab_size() == 1500
    assert time.perf_counter() - start < 10


def test_the_time_is_told_from_a_small_training() -> None:
    seconds = bpe_seconds([ENGLISH], len(ENGLISH), 300)
    assert 0 < seconds < bpe_seconds([ENGLISH], 1000 * len(ENGLISH), 300)
