"""Making tokenizers: how much text a BPE is trained on, and how long that takes."""

from __future__ import annotations

import random
import time

import pytest
from tokenizers import Tokenizer, models, trainers

from gptscratch.tokenizer import build_tokenizer, choose_tokenizer
from gptscratch.tokenizer.train import (
    SAMPLE,
    SPACELESS_SAMPLE,
    bpe_vocab_size,
    sample_limit,
    without_long_runs,
    word_splitter,
)

ENGLISH = "Everyone saw that the cat sat on the mat. " * 50


def test_choice_follows_size_and_alphabet() -> None:
    assert choose_tokenizer(100_000, 65) == ("char", None)
    assert choose_tokenizer(100_000, 3000)[0] == "bpe"
    assert choose_tokenizer(1_000_000, 65) == ("char", None)
    assert choose_tokenizer(3_000_000, 65) == ("bpe", 1024)
    sizes = [bpe_vocab_size(10**n) for n in range(4, 11)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (1024, 16_384)


def test_text_with_spaces_is_not_cut() -> None:
    assert list(without_long_runs(ENGLISH)) == [ENGLISH]


@pytest.mark.parametrize("run", ["x" * 1000, "猫が好き" * 300, "-=" * 500, "ab" * 500 + " " + "cd" * 500])
def test_long_runs_are_cut_and_nothing_is_lost(run: str) -> None:
    parts = list(without_long_runs(ENGLISH + run + "\n"))
    assert "".join(parts) == ENGLISH + run + "\n"
    assert max(len(word) for part in parts[1:] for word in part.split()) <= 256


def test_less_of_a_text_without_spaces_is_learned_from() -> None:
    assert sample_limit([ENGLISH]) == SAMPLE
    assert sample_limit(["吾輩は猫である。名前はまだ無い。\n" * 9]) == SPACELESS_SAMPLE


def test_a_bpe_of_one_endless_word_is_trained_in_a_moment() -> None:
    """Without cuts, a word of 200,000 letters takes the trainer 100 times as long."""
    text = "".join(random.Random(0).choices("abcdefghij", k=200_000))
    start = time.process_time()
    library = build_tokenizer("bpe", [text], alphabet="", vocab_size=1500)
    assert library.get_vocab_size() == 1500
    assert time.process_time() - start < 10


def test_words_are_ordered_as_by_the_trainer_of_the_library() -> None:
    texts = ["It's 吾輩は猫 - a well-known cat; the cat's hat. Größe!", ENGLISH, "猫 猫 the hat\n\n"]
    library = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    library.pre_tokenizer = word_splitter()
    special = ["<|endoftext|>", "<unk>"]
    trainer = trainers.WordLevelTrainer(vocab_size=9, special_tokens=special, show_progress=False)
    library.train_from_iterator(texts, trainer)
    found = build_tokenizer("word", texts, alphabet="", vocab_size=9, min_frequency=1)
    assert found.get_vocab() == library.get_vocab()
