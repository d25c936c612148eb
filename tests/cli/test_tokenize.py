"""``gptscratch tokenize``: token files, one text's pieces, a corpus's X-ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptscratch.data.writer import ShardWriter

Command = Callable[..., Any]


def test_tokenize_writes_token_files_that_train_reads(
    gptscratch: Command, corpus: Path, tmp_path: Path
) -> None:
    ended = gptscratch("tokenize", corpus, "--tokenizer", "byte", "--out", tmp_path / "tokens", "--json")
    facts = json.loads(ended.out)
    assert facts["characters"] == facts["tokens"] == len(corpus.read_text())
    assert facts["unknown_rate"] == 0
    plan = gptscratch("train", tmp_path / "tokens", "--steps", 3, "--dry-run", "--json").out
    assert json.loads(plan)["config"]["model"]["vocab_size"] == facts["vocab_size"]


def test_tokenize_prints_what_a_person_wants_to_know(gptscratch: Command, corpus: Path) -> None:
    ended = gptscratch("tokenize", corpus)
    for label in ("documents", "characters", "tokens", "per token", "unknown", "folder"):
        assert label in ended.out


def test_text_with_a_run_shows_pieces_and_ids(gptscratch: Command, tale: Path) -> None:
    shown = json.loads(gptscratch("tokenize", "--text", "the fox", "--with", tale.name, "--json").out)
    assert [p["piece"] for p in shown["pieces"]] == list("the fox")
    assert "tokens for 7 characters" in gptscratch("tokenize", "--text", "the fox", "--with", tale).out


def test_stats_shows_the_corpus_and_writes_nothing(gptscratch: Command, corpus: Path, home: Path) -> None:
    stats = json.loads(gptscratch("tokenize", corpus, "--stats", "--json").out)
    assert stats["characters"] == len(corpus.read_text())
    assert "suggestion" in gptscratch("tokenize", corpus, "--stats").out
    assert not home.exists()


def test_with_and_tokenizer_together_are_refused(gptscratch: Command, corpus: Path) -> None:
    ended = gptscratch("tokenize", corpus, "--with", "a", "--tokenizer", "char")
    assert ended.code == 2


def test_ctrl_c_says_that_the_same_command_goes_on(
    gptscratch: Command, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted while the state is saved, after the first batch."""
    with monkeypatch.context() as patch:
        patch.setattr("gptscratch.data.tokens._BATCH", 1000)
        patch.setattr("gptscratch.data.reading.PIECE", 500)
        patch.setattr(ShardWriter, "save", interrupt_once(ShardWriter.save))
        ended = gptscratch("tokenize", corpus, "--tokenizer", "byte")
        assert ended.code == 130
        assert "The same command goes on from there." in ended.err
        again = gptscratch("tokenize", corpus, "--tokenizer", "byte", "--json")
    assert json.loads(again.out)["characters"] == len(corpus.read_text())


def interrupt_once(save: Callable[..., None]) -> Callable[..., None]:
    calls = []

    def interrupted(writer: ShardWriter, **when: bool) -> None:
        calls.append(when)
        if len(calls) == 1:
            raise KeyboardInterrupt
        save(writer, **when)

    return interrupted
