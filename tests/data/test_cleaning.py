"""Cleaning: each step by its name, in the order given, and the count of what it removed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gptscratch.config import CLEAN, DataConfig
from gptscratch.data.chunks import END, ReadCounts, Removed, texts_of
from gptscratch.data.cleaning import DROPPING, STEPS, clean, steps_named
from gptscratch.data.corpus import Corpus, survey
from gptscratch.errors import ConfigError, MissingExtraError


def cleaned(texts: list[str], *names: str) -> tuple[list[str], tuple[Removed, ...]]:
    counts = ReadCounts()
    parts = clean((text.encode() + END for text in texts), steps_named(names), counts.cleaning, 99_999)
    return texts_of(b"".join(parts))[0], counts.removed


def test_every_step_of_the_config_is_here() -> None:
    assert list(STEPS) == [name.removesuffix(":N") for name in CLEAN]
    assert set(DROPPING) < set(STEPS)


@pytest.mark.parametrize(
    ("step", "text", "expected"),
    [
        (
            "html",
            "A <b class='x'>film</b>.<br /><br />It&#39;s 3 < 4 &amp; 5 > 2",
            "A film.\n\nIt's 3 < 4 & 5 > 2",
        ),
        ("html", "<!-- no --><p>a</p><script>x < y</script>b<!DOCTYPE html>", "\na\nb"),
        ("html", "<|endoftext|> <3 <- <<>>", "<|endoftext|> <3 <- <<>>"),
        ("lowercase", "ÄB Σ", "äb σ"),
        ("punctuation", "Don't, well-known (5 €)… 『猫』 a+b", "Dont  well known  5 €    猫  a b"),
        ("nfc", "e\u0301 ﬁ", "é ﬁ"),
        ("nfkc", "e\u0301 ﬁ", "é fi"),
        ("whitespace", "  a \t\xa0 b  \n  c\n\n\n\n d ", "a b\nc\n\nd"),
    ],
)
def test_text_steps(step: str, text: str, expected: str) -> None:
    assert cleaned([text], step)[0] == [expected]


def test_steps_run_in_their_order_and_are_counted() -> None:
    texts = ["<i>Same</i>", "same", "other text", "x", "<br>"]
    found, removed = cleaned(texts, "html", "lowercase", "dedup", "min-length:4")
    assert found == ["same", "other text"]
    assert list(removed) == [
        Removed(step="html", characters=7 + 3, changed=2),
        Removed(step="lowercase", changed=1),
        Removed(step="dedup", documents=1, characters=4),
        Removed(step="min-length:4", documents=2, characters=2),
    ]


def test_near_duplicates_go_and_the_first_stays() -> None:
    pytest.importorskip("datasketch")
    words = [f"word{i}" for i in range(200)]
    text = " ".join(words)
    near = " ".join([*words[:150], "changed", *words[151:]])
    far = " ".join(reversed(words))
    assert cleaned([text, near, far, text], "neardup")[0] == [text, far]


def test_a_document_that_is_too_large_is_cleaned_in_parts() -> None:
    parts = [b"ABCD", b" EF\xff", b"x\xff"]
    found = clean(parts, steps_named(("lowercase", "min-length:6")), {}, whole=3)
    assert b"".join(found) == b"abcd ef\xff"


def test_words_stay_apart_between_the_parts_of_a_large_document() -> None:
    parts = [b" one  two", b" three", b"\n\nfour \xff"]
    found = clean(parts, steps_named(("whitespace",)), {}, whole=3)
    assert b"".join(found) == b"one two three\nfour\xff"


def test_a_corpus_is_cleaned_equally_in_every_pass(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A b<|endoftext|>a B<|endoftext|>c", encoding="utf-8")
    corpus = Corpus(DataConfig(corpus=(str(tmp_path / "a.txt"),), clean=("lowercase", "dedup")))
    passes = [b"".join(chunk.data for chunk in corpus.chunks(ReadCounts())) for _ in range(2)]
    assert passes == [b"a b\xffc\xff"] * 2
    found = survey(corpus)
    assert (found.documents, found.alphabet, found.counts.removed[1].documents) == (2, " abc", 1)


@pytest.mark.parametrize("step", ["htlm", "min-length", "min-length:x", "html:3"])
def test_a_wrong_step_is_named(step: str) -> None:
    with pytest.raises(ConfigError, match=step.partition(":")[0]):
        DataConfig(clean=(step,))


def test_near_duplicates_without_the_package_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(MissingExtraError, match=r"extra \[clean\]"):
        cleaned(["a"], "neardup")
