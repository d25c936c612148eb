"""What a sample copied: where in it, where in the training tokens, how often; and whence the index comes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from gptscratch.config import SampleConfig
from gptscratch.errors import CheckpointError, UserError
from gptscratch.generation.batch_file import complete_file
from gptscratch.generation.generator import Generator, load
from gptscratch.generation.memorization import SuffixArray, longest_copy, with_training_tokens
from gptscratch.tokenizer import Tokenizer


def test_the_span_is_found_with_its_characters_and_positions(tale: Path) -> None:
    gpt = with_training_tokens(load(tale, device="cpu"))
    assert gpt.training is not None
    training = gpt.tokenizer.decode(gpt.training.tokens)
    span = ".\n" + next(line for line in training.splitlines()[5:] if "sleeps" in line)
    found = longest_copy(gpt, f"ggg{span}ggg")
    assert found.text == f"ggg{span}ggg"[found.start : found.end]
    assert span in found.text
    assert (found.tokens, found.of_tokens) == (len(found.text), len(span) + 6)  # a character a token
    assert found.place == training.index(found.text)
    assert found.times == sum(training.startswith(found.text, i) for i in range(len(training)))


def test_a_span_longer_than_the_order_heeds_is_counted_whole(tale: Path) -> None:
    gpt = with_training_tokens(load(tale, device="cpu"))
    assert gpt.training is not None
    training = gpt.tokenizer.decode(gpt.training.tokens)
    found = longest_copy(gpt, training[100:300])
    assert (found.start, found.end, found.place, found.times) == (0, 200, 100, 1)


def test_a_reply_is_tokenized_as_after_its_prompt(reciter: Callable[..., Generator]) -> None:
    """Some tokenizers put a space before every text, and also before most replies."""
    vocab = {"▁the": 0, "▁fox": 1, "▁runs": 2, "▁": 3}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="▁"))
    library.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    library.pre_tokenizer = tokenizers.pre_tokenizers.Split("▁", "merged_with_next")
    index = SuffixArray(np.array([0, 1, 2], np.uint16))
    gpt = dataclasses.replace(reciter("abc"), tokenizer=Tokenizer(library), training=index)
    found = longest_copy(gpt, " fox runs", after="the")
    assert (found.tokens, found.of_tokens, found.text, found.start) == (2, 2, " fox runs", 0)
    assert longest_copy(gpt, " fox runs").of_tokens == 3


def test_where_nothing_was_copied_nothing_is_found(tale: Path) -> None:
    gpt = with_training_tokens(load(tale, device="cpu"))
    for text in ("", "☃"):
        found = longest_copy(gpt, text)
        assert (found.text, found.start, found.end, found.tokens, found.times) == ("", 0, 0, 0, 0)
    with pytest.raises(ValueError, match="with_training_tokens"):
        longest_copy(load(tale, device="cpu"), "a")


def test_token_files_that_are_gone_are_made_again_from_the_corpus(
    tale: Path, home: Path, tmp_path: Path, corpus: Path
) -> None:
    gpt = load(tale, device="cpu")
    before = longest_copy(with_training_tokens(gpt), "the fox runs home.\n")
    shutil.rmtree(home / "tokens")
    assert longest_copy(with_training_tokens(gpt), "the fox runs home.\n") == before
    shutil.rmtree(home / "tokens")
    other = tmp_path / "other.txt"
    config = tale / "config.json"
    config.write_text(config.read_text().replace(str(corpus), str(other)))
    with pytest.raises(UserError, match=r"other\.txt"):
        with_training_tokens(gpt)
    other.write_text(corpus.read_text()[:-100])
    with pytest.raises(CheckpointError, match="training text cannot be used"):
        with_training_tokens(gpt)


def test_results_of_a_file_of_prompts_have_what_was_copied_on_request(tale: Path, tmp_path: Path) -> None:
    gpt, out = with_training_tokens(load(tale, device="cpu")), tmp_path / "out.jsonl"
    list(complete_file(gpt, ["the fox"], SampleConfig(max_tokens=9, seed=1), out, novelty=True))
    (line,) = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert line["copied"]["text"] == line["text"][line["copied"]["start"] : line["copied"]["end"]]
