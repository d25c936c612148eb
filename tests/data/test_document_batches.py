"""One document per row: every token a target once an epoch, pads on the right, nothing held in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptscratch.config import DataConfig
from gptscratch.data.batches import Batches, tokens_per_padded_row, weighted_parts
from gptscratch.data.document_batches import (
    PAD_TARGET,
    DocumentRows,
    document_lengths,
    padded_windows,
    require_documents,
)
from gptscratch.data.prepare import prepare
from gptscratch.errors import ConfigError, CorpusError
from gptscratch.training.loss import IGNORE

END = 0
LENGTHS = (3, 1, 9, 4, 5, 17, 2, 8)  # of the documents' own tokens; 4 and 8 fill rows of 5 and 9 to the brim


def tokens_of(lengths: tuple[int, ...] = LENGTHS, *, ended: bool = True) -> np.ndarray:
    """Documents of tokens that occur once in all, each with an end."""
    numbers = iter(range(1, 1000))
    documents = [[next(numbers) for _ in range(length)] + [END] for length in lengths]
    joined = np.array([i for document in documents for i in document], dtype=np.uint16)
    return joined if ended else joined[:-1]


def naive_rows(tokens: np.ndarray, context_length: int) -> list[tuple[list[int], list[int]]]:
    """(inputs, targets) of each row without its pads."""
    rows, document = [], [END]
    for token in [*tokens.tolist(), None]:
        if token is not None:
            document.append(token)
        if token in (END, None) and len(document) > 1:
            for start in range(0, len(document) - 1, context_length):
                part = document[start : start + context_length + 1]
                rows.append((part[:-1], part[1:]))
            document = [END]
    return rows


def real(inputs: np.ndarray, targets: np.ndarray) -> list[tuple[list[int], list[int]]]:
    kept = []
    for x, y in zip(inputs, targets, strict=True):
        length = int((y != PAD_TARGET).sum())
        assert (y[:length] != PAD_TARGET).all()
        assert (x[length:] == END).all()
        kept.append((x[:length].tolist(), y[:length].tolist()))
    return kept


@pytest.mark.parametrize("context", [1, 4, 5, 9, 100])
@pytest.mark.parametrize("ended", [True, False])
def test_rows_are_those_of_a_plain_loop_over_the_documents(context: int, ended: bool) -> None:
    tokens = tokens_of(ended=ended)
    rows = DocumentRows(tokens, context, END)
    found = real(*rows.take(np.arange(len(rows)), context))
    assert found == naive_rows(tokens, context)
    assert rows.lengths.tolist() == [len(targets) for _, targets in found]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("epoch", [0, 5])
def test_every_token_is_a_target_once_an_epoch(batch_size: int, epoch: int) -> None:
    tokens = tokens_of()
    batches = Batches(tokens, 6, batch_size, seed=1, pad_with=END)
    part = batches.parts[0]
    rows = real(*part.rows(np.arange(epoch * len(part), (epoch + 1) * len(part))))
    assert sorted(rows) == sorted(naive_rows(tokens, 6))
    assert rows != naive_rows(tokens, 6)
    assert batches.tokens_per_row == pytest.approx(np.mean([len(targets) for _, targets in rows]))


def test_a_padded_batch_depends_on_the_step_alone() -> None:
    ahead = Batches(tokens_of(), 6, 4, seed=5, pad_with=END)
    for step in range(20):
        ahead.batch(step)
    fresh = Batches(tokens_of(), 6, 4, seed=5, pad_with=END)
    np.testing.assert_array_equal(ahead.batch(7), fresh.batch(7))
    other = Batches(tokens_of(), 6, 4, seed=6, pad_with=END)
    assert not np.array_equal(fresh.batch(7), other.batch(7))


@pytest.mark.parametrize("chunk", [1, 3, 4, 1000])
def test_documents_are_found_chunk_by_chunk(chunk: int) -> None:
    def lengths(tokens: np.ndarray) -> list[int]:
        return document_lengths(tokens, END, chunk=chunk).tolist()

    assert lengths(tokens_of((3, 0, 1))) == [4, 1, 2]
    assert lengths(tokens_of((3, 2), ended=False)) == [4, 2]
    assert lengths(np.arange(1, 4)) == [3]


def test_padded_windows_have_every_target_once_and_few_pads() -> None:
    tokens = tokens_of()
    rows = DocumentRows(tokens, 6, END)
    found = list(padded_windows(rows, positions=12))
    assert sorted(row for batch in found for row in real(*batch)) == sorted(naive_rows(tokens, 6))
    assert all(targets.size <= 12 for _, targets in found)
    assert sum(targets.size for _, targets in found) < 6 * len(rows)


def test_limited_padded_windows_are_about_the_limit_of_targets_and_always_the_same() -> None:
    rows = DocumentRows(tokens_of(LENGTHS * 10), 6, END)
    some = [targets for _, targets in padded_windows(rows, 12, limit=200)]
    assert sum(int((t != PAD_TARGET).sum()) for t in some) == pytest.approx(200, rel=0.15)
    again = [targets for _, targets in padded_windows(rows, 12, limit=200)]
    assert all(np.array_equal(a, b) for a, b in zip(some, again, strict=True))


def test_an_empty_side_is_one_clear_line() -> None:
    with pytest.raises(CorpusError, match="has no documents"):
        Batches(tokens_of(())[:0], 6, 4, seed=5, pad_with=END)


def test_the_loss_leaves_out_what_is_padded() -> None:
    assert PAD_TARGET == IGNORE


@pytest.mark.parametrize("share", [1, 3])
def test_weights_are_shares_of_the_tokens_not_of_the_rows(tmp_path: Path, share: int) -> None:
    for name, length in (("a", 3), ("b", 15)):
        text = "<|endoftext|>".join(name * (length - 1) + chr(i) for i in range(0x21, 0x7F))
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    corpus = (f"{tmp_path}/a.txt={share}", f"{tmp_path}/b.txt=1")
    tokens = prepare(DataConfig(corpus=corpus, tokenizer="byte")).tokens
    end = tokens.manifest.end_of_text
    batches = Batches(weighted_parts(tokens, "train"), 16, 10, seed=0, pad_with=end)
    rows = np.concatenate([batches.batch(step)[1] for step in range(100)])
    of_a = (rows[:, :2] == ord("a")).any(axis=1)
    counted = (rows != PAD_TARGET).sum(axis=1)
    assert counted[of_a].sum() / counted.sum() == pytest.approx(share / (share + 1), abs=0.01)
    assert batches.tokens_per_row == pytest.approx(counted.mean(), rel=0.01)
    assert tokens_per_padded_row(tokens, end)(16) == pytest.approx(batches.tokens_per_row)


def test_one_document_cannot_be_masked_or_padded(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one text" * 100, encoding="utf-8")
    found = prepare(DataConfig(corpus=(str(tmp_path / "a.txt"),), tokenizer="byte"))
    with pytest.raises(ConfigError, match="a single document"):
        require_documents(found.manifest, found.tokenizer.eot_id)
    with pytest.raises(ConfigError, match="no end-of-text token"):
        require_documents(found.manifest, None)
