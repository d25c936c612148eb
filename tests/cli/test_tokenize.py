"""``gptscratch tokenize``: token files, the tokens of one text, statistics of a corpus."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


def test_text_with_a_run_shows_tokens_and_ids(gptscratch: Command, tale: Path) -> None:
    shown = json.loads(gptscratch("tokenize", "--text", "the fox", "--with", tale.name, "--json").out)
    assert [t["token"] for t in shown["tokens"]] == list("the fox")
    assert "tokens for 7 characters" in gptscratch("tokenize", "--text", "the fox", "--with", tale).out


def test_stats_shows_the_corpus_and_writes_nothing(gptscratch: Command, corpus: Path, home: Path) -> None:
    stats = json.loads(gptscratch("tokenize", corpus, "--stats", "--json").out)
    assert stats["characters"] == len(corpus.read_text())
    assert "suggestion" in gptscratch("tokenize", corpus, "--stats").out
    assert not home.exists()


def test_unknown_characters_are_marked_and_the_tokenizer_is_named(gptscratch: Command, tale: Path) -> None:
    ended = gptscratch("tokenize", "--text", "aé😀")
    rows = [line.split() for line in ended.out.splitlines()]
    assert [row[-1] == "unknown" for row in rows[1:4]] == [False, True, True]
    assert "3 tokens for 3 characters, 2 unknown, by the tokenizer of" in ended.out
    assert tale.name in ended.out.replace("\n", "")
    shown = json.loads(gptscratch("tokenize", "--text", "aé", "--json").out)
    assert [token["unknown"] for token in shown["tokens"]] == [False, True]


def test_text_is_cut_by_the_tokenizer_of_a_corpus_or_by_bytes(gptscratch: Command, corpus: Path) -> None:
    ended = gptscratch("tokenize", corpus, "--tokenizer", "word", "--text", "the fox", "--json")
    assert [token["token"] for token in json.loads(ended.out)["tokens"]] == ["the", "fox"]
    shown = json.loads(gptscratch("tokenize", "--tokenizer", "byte", "--text", "fox", "--json").out)
    assert [token["id"] for token in shown["tokens"]] == list(b"fox")
    ended = gptscratch("tokenize", "--tokenizer", "word", "--text", "fox")
    assert ended.code == 2
    assert "A word tokenizer is made from a text." in ended.err


@pytest.mark.parametrize(
    "idle", [("--out", "x"), ("--vocab-size", 300), ("--tokenizer", "char"), ("--text", "x")]
)
def test_stats_refuses_what_has_no_effect(idle: tuple[str, Any], gptscratch: Command, corpus: Path) -> None:
    ended = gptscratch("tokenize", corpus, "--stats", *idle)
    assert ended.code == 2
    assert f"{idle[0]}: no effect with --stats" in ended.err


def test_what_has_no_effect_on_the_tokenizer_is_reported(
    gptscratch: Command, corpus: Path, tale: Path
) -> None:
    ended = gptscratch(
        "tokenize", corpus, "--tokenizer", "bpe", "--vocab-size", 100_000, "--min-frequency", 3
    )
    assert "--min-frequency has no effect with a bpe tokenizer" in ended.err
    assert "entries, not 100,000" in ended.err
    ended = gptscratch("tokenize", corpus, "--tokenizer", tale, "--vocab-size", 5)
    assert "--vocab-size has no effect" in ended.err
    assert "note" not in gptscratch("tokenize", corpus, "--tokenizer", "char").err


def test_options_for_a_corpus_are_reported_where_there_is_none(gptscratch: Command) -> None:
    ended = gptscratch("tokenize", "--text", "Hello", "--tokenizer", "byte", "--lowercase", "--out", "x")
    assert ended.code == 0
    assert "--lowercase, --out: no effect without a corpus." in ended.err


def test_a_corpus_that_is_too_short_leaves_nothing(gptscratch: Command, tmp_path: Path, home: Path) -> None:
    (tmp_path / "two.txt").write_text("ab")
    ended = gptscratch("train", tmp_path / "two.txt", "--steps", 3)
    assert ended.code == 2
    assert (
        "corpus is too short: at least 2 tokens are needed to train and 2 to validate; it has 1 and 1."
        in ended.err
    )
    assert not list((home / "tokens").glob("*/*"))


def test_with_and_tokenizer_together_are_refused(gptscratch: Command, corpus: Path) -> None:
    ended = gptscratch("tokenize", corpus, "--with", "a", "--tokenizer", "char")
    assert ended.code == 2


def test_shards_are_joined_for_train(gptscratch: Command, corpus: Path, tmp_path: Path) -> None:
    def shard(part: str, *more: Any) -> Any:
        return gptscratch("tokenize", corpus, "--shard", part, *more)

    assert "still to be made: 1" in shard("2/2", "--out", tmp_path / "all").out
    ended = gptscratch("train", tmp_path / "all", "--steps", 3, "--dry-run")
    assert ended.code == 2
    assert "lacks 1 of 2 shards: 1." in ended.err.replace("\n", " ")
    facts = json.loads(shard("1/2", "--out", tmp_path / "all", "--json").out)
    assert (facts["missing_shards"], facts["characters"]) == ([], len(corpus.read_text()))
    assert gptscratch("train", tmp_path / "all", "--steps", 3, "--dry-run").code == 0
    for ended, fault in (
        (shard("1/2"), "--shard needs a folder"),
        (shard("3/2", "--out", tmp_path / "b"), "it must be I/N"),
        (shard("1/2", "--out", tmp_path / "b", "--stats"), "no effect with --stats"),
        (shard("1/2", "--out", tmp_path / "b", "--text", "x"), "--shard and --text"),
    ):
        assert (ended.code, fault in ended.err) == (2, True)
