"""Several corpora with weights: the share of the training tokens that comes from each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptscratch.config import DataConfig
from gptscratch.data.batches import CYCLE, Batches, CorpusRows, tokens_per_padded_row, weighted_parts
from gptscratch.data.prepare import Prepared, prepare
from gptscratch.errors import ConfigError, CorpusError


def mixed(tmp_path: Path, weights: tuple[str, ...] = ("=3", "=1"), **settings: object) -> Prepared:
    names = []
    for name, size, weight in zip("ab", (1000, 5000), weights, strict=True):
        (tmp_path / f"{name}.txt").write_text(name * size, encoding="utf-8")
        names.append(f"{tmp_path / name}.txt{weight}")
    return prepare(DataConfig(corpus=tuple(names), tokenizer="byte", **settings))  # type: ignore[arg-type]


def test_each_corpus_is_whole_in_the_manifest_and_gives_its_own_tail(tmp_path: Path) -> None:
    found = mixed(tmp_path)
    end = found.manifest.end_of_text
    assert [(Path(s.name).name, s.weight, s.tokens) for s in found.manifest.corpora] == [
        ("a.txt", 0.75, 901),
        ("b.txt", 0.25, 4501),
    ]
    assert found.tokens.train.tolist() == [97] * 900 + [end] + [98] * 4500 + [end]
    assert found.tokens.val.tolist() == [97] * 100 + [end] + [98] * 500 + [end]
    again = mixed(tmp_path)
    assert (again.reused, again.manifest) == (True, found.manifest)
    assert not mixed(tmp_path, ("=1", "=1")).reused


def test_documents_keep_to_their_corpus(tmp_path: Path) -> None:
    for name in "ab":
        text = "<|endoftext|>".join(name * (i + 1) for i in range(60))
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    corpus = (f"{tmp_path}/a.txt=1", f"{tmp_path}/b.txt=1")
    found = prepare(DataConfig(corpus=corpus, tokenizer="byte"))
    first = found.manifest.corpora[0].tokens
    assert found.manifest.split == "documents"
    assert set(found.tokens.train[:first].tolist()) == {97, found.manifest.end_of_text}
    assert set(found.tokens.train[first:].tolist()) == {98, found.manifest.end_of_text}


def test_a_book_mixed_with_many_documents_has_training_and_validation_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The cat sat on the mat.\n" * 100, encoding="utf-8")
    (tmp_path / "b.txt").write_text("<|endoftext|>".join(f"text {i}" for i in range(60)), encoding="utf-8")
    found = prepare(DataConfig(corpus=(f"{tmp_path}/a.txt=1", f"{tmp_path}/b.txt=1"), tokenizer="byte"))
    assert found.manifest.split == "tail"
    assert all(share.tokens and share.val_tokens for share in found.manifest.corpora)
    assert len(weighted_parts(found.tokens, "val")) == 2
    end = found.manifest.end_of_text
    assert end is not None
    assert 0 < tokens_per_padded_row(found.tokens, end)(16) <= 16


def test_a_mixed_corpus_that_is_shorter_than_a_context_is_identified(tmp_path: Path) -> None:
    parts = weighted_parts(mixed(tmp_path).tokens, "train")
    with pytest.raises(CorpusError, match=r"corpus 1 of 2 is shorter than a context: 901 tokens"):
        Batches(parts, 1000, 4, seed=3)


@pytest.mark.parametrize("batch_size", [1, 8, 12])
def test_rows_are_chosen_by_weight(batch_size: int, tmp_path: Path) -> None:
    batches = Batches(weighted_parts(mixed(tmp_path).tokens, "train"), 16, batch_size, seed=3)
    steps = CYCLE // batch_size
    inputs = [batches.batch(step)[0] for step in range(steps)]
    share = np.mean([np.mean((rows == 97).any(axis=1)) for rows in inputs])
    assert abs(share - 0.75) < 0.01
    if batch_size == 8:  # in every batch, not only on average
        assert {int((rows == 97).any(axis=1).sum()) for rows in inputs} <= {5, 6, 7}


def test_a_small_weight_is_kept(tmp_path: Path) -> None:
    batches = Batches(weighted_parts(mixed(tmp_path, ("=0.0004", "=1")).tokens, "train"), 4, 10_000, seed=3)
    rows = sum(int((batches.batch(step)[0] == 97).any(axis=1).sum()) for step in range(10))
    assert rows == pytest.approx(40, abs=1)


def test_each_corpus_has_its_own_epochs(tmp_path: Path) -> None:
    tokens = mixed(tmp_path).tokens
    batches = Batches(weighted_parts(tokens, "train"), 16, 4, seed=3)
    naive = Batches(tokens.train[:901], 16, 1, seed=3)
    rows = [row for step in range(200) for row in batches.batch(step)[0] if (row == 97).any()]
    for number, row in enumerate(rows):
        np.testing.assert_array_equal(row, naive.batch(number)[0][0])


def test_one_corpus_has_the_rows_of_its_shuffled_ring() -> None:
    tokens = np.arange(101, dtype=np.uint16)
    batches, rows = Batches(tokens, 7, 30, seed=3), CorpusRows(tokens, 7, 3, None)
    for step in (0, 5, 50):
        np.testing.assert_array_equal(batches.batch(step), rows.rows(np.arange(step * 30, step * 30 + 30)))
    assert batches.tokens_per_row == 7


def test_a_validation_corpus_goes_with_weights(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("vvv", encoding="utf-8")
    found = mixed(tmp_path, val_file=str(tmp_path / "val.txt"))
    assert [share.tokens for share in found.manifest.corpora] == [1001, 5001]
    assert found.tokens.val.tolist() == [*b"vvv", found.manifest.end_of_text]


def test_weights_are_given_to_all_or_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"b\.txt has no weight"):
        mixed(tmp_path, ("=1", ""))
    with pytest.raises(ConfigError, match="above 0"):
        mixed(tmp_path, ("=1", "=0"))
    for weight in ("=-1", "=nan", "=1e-9"):
        with pytest.raises(ConfigError, match=r"number above 0|hundred-thousandth"):
            mixed(tmp_path, ("=1", weight))
    (tmp_path / "b.txt=2").write_text("", encoding="utf-8")  # a file's own name
    with pytest.raises(ConfigError, match="has no weight"):
        mixed(tmp_path, ("=1", "=2"))


def test_an_empty_corpus_among_others_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(" ", encoding="utf-8")
    (tmp_path / "d.txt").write_text("text", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"no text in .*c\.txt"):
        prepare(DataConfig(corpus=(f"{tmp_path}/d.txt=1", f"{tmp_path}/c.txt=1")))
