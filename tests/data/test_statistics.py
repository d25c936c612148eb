"""Statistics of a corpus, on texts whose contents are known."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

from gptscratch.config import DataConfig
from gptscratch.data.chunks import Sizes
from gptscratch.data.statistics import Character, CorpusStatistics, corpus_statistics


def found(
    tmp_path: Path, text: str | bytes, sizes: Sizes | None = None, **settings: object
) -> CorpusStatistics:
    file = tmp_path / "a.txt"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return corpus_statistics(DataConfig(corpus=(str(file),), **settings), sizes=sizes)  # type: ignore[arg-type]


def test_sizes_and_documents_are_counted(tmp_path: Path) -> None:
    seen = found(tmp_path, "one é\nline<|endoftext|>two<|endoftext|>two<|endoftext|>Two and a half")
    assert (seen.documents, seen.characters, seen.bytes, seen.lines) == (4, 30, 31, 1)
    assert seen.document_characters == {"shortest": 3, "median": 6, "mean": 7, "longest": 14}
    assert (seen.duplicate_documents, seen.duplicate_share) == (1, 0.25)
    assert seen.top_words[0] == ("two", 3)
    assert (seen.words, seen.distinct_words, seen.sample_share) == (10, 8, 1)  # the tail's split cuts one
    assert seen.encodings == {"utf-8": 1}


def test_alphabets_and_odd_characters_are_named(tmp_path: Path) -> None:
    seen = found(tmp_path, "abcдд猫 \x85\x85\u200b\ufffd\t\n")
    assert seen.scripts == {"Latin": 3 / 6, "Cyrillic": 2 / 6, "Cjk": 1 / 6}
    assert seen.odd_characters == (
        Character(code="U+0085", name="control character", count=2),
        Character(code="U+200B", name="zero width space", count=1),
        Character(code="U+FFFD", name="replacement character", count=1),
    )


def test_larger_vocabularies_need_fewer_tokens(tmp_path: Path) -> None:
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefgh", k=rng.randrange(2, 9))) for _ in range(800)]
    seen = found(tmp_path, " ".join(rng.choices(words, k=20_000)))
    assert list(seen.bytes_per_token)[:3] == ["characters", "512", "1024"]
    assert list(seen.bytes_per_token.values()) == sorted(seen.bytes_per_token.values())
    assert seen.suggested_tokenizer == "char"
    assert sum(count for _, count in seen.top_tokens) > 100


def test_leakage_is_found(tmp_path: Path) -> None:
    rng = random.Random(2)
    texts = [" ".join(str(rng.randrange(999)) for _ in range(40)) for _ in range(60)]
    (tmp_path / "val.txt").write_text("<|endoftext|>".join(texts[-10:]), encoding="utf-8")
    val_file = str(tmp_path / "val.txt")
    clean = found(tmp_path, "<|endoftext|>".join(texts[:50]), val_file=val_file)
    assert (clean.overlap.documents, clean.overlap.windows) == (0, 0)
    leaky = found(tmp_path, "<|endoftext|>".join(texts[:55]), val_file=val_file)
    assert (leaky.overlap.documents, leaky.overlap.windows) == (0.5, 0.5)
    assert (leaky.split, leaky.val_documents) == ("file", 10)


def test_leakage_is_separated_from_mere_words(tmp_path: Path) -> None:
    """12 words of each validation text are known, never 13; punctuation and case do not hide a run."""
    words = [f"w{i}" for i in range(300)]
    val = [" ".join([*words[i : i + 12], f"new{i}"]) for i in range(0, 300, 12)]
    (tmp_path / "val.txt").write_text("<|endoftext|>".join(val), encoding="utf-8")
    seen = found(tmp_path, " ".join(words), val_file=str(tmp_path / "val.txt"))
    assert seen.overlap.windows == 0
    (tmp_path / "val.txt").write_text(", ".join(words[20:80]).upper(), encoding="utf-8")
    assert found(tmp_path, " ".join(words), val_file=str(tmp_path / "val.txt")).overlap.windows == 1


def test_leakage_in_a_sample_is_that_of_the_whole(tmp_path: Path) -> None:
    rng = random.Random(3)
    texts = [" ".join(str(rng.randrange(9999)) for _ in range(100)) for _ in range(1000)]
    (tmp_path / "val.txt").write_text("<|endoftext|>".join(texts[800:]), encoding="utf-8")
    text = "<|endoftext|>".join(texts[:850])
    seen = found(tmp_path, text, sizes=Sizes(sample=100_000, chunk=2000), val_file=str(tmp_path / "val.txt"))
    assert seen.sample_share < 0.25
    assert seen.overlap.documents == 0.25
    assert 0.22 < seen.overlap.windows < 0.28


def test_a_large_corpus_is_sampled(tmp_path: Path) -> None:
    text = "<|endoftext|>".join(f"number {i} of them" for i in range(1000))
    seen = found(tmp_path, text, sizes=Sizes(sample=2000, chunk=200))
    assert seen.sample_share < 0.2
    assert seen.documents == 1000
    assert 200 < seen.words < 500


def test_it_can_be_written_as_json(tmp_path: Path) -> None:
    seen = dataclasses.asdict(found(tmp_path, "It is.", clean=("lowercase",)))
    assert json.loads(json.dumps(seen))["removed"][0]["step"] == "lowercase"
