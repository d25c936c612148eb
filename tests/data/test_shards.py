"""Token files that several processes make: in parts, which are joined."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gptscratch.config import DataConfig
from gptscratch.data.chunks import Sizes
from gptscratch.data.prepare import prepare, prepare_shard
from gptscratch.data.shards import Shard
from gptscratch.errors import ConfigError, CorpusError

TEXT = "The cat sat on the mat, and the dog didn't.\nNo one minded at all!\n" * 40
DOCUMENTS = "<|endoftext|>".join(f"{i % 50}: {TEXT[:100]}" for i in range(60))
SMALL = Sizes(sample=1000, chunk=200)


@pytest.fixture
def corpus(tmp_path: Path) -> DataConfig:
    for name, text in (("text.txt", TEXT), ("documents.txt", DOCUMENTS), ("val.txt", TEXT[:300])):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return DataConfig(corpus=(str(tmp_path / "text.txt"),), tokenizer="byte")


def make(config: DataConfig, out: Path, *numbers: int, count: int = 3) -> Any:
    return [prepare_shard(config, Shard(number, count), out, sizes=SMALL) for number in numbers][-1]


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")}


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer": "char", "corpus": "documents.txt", "val_file": "val.txt"},
        {"tokenizer": "word"},
        {"tokenizer": "bpe", "vocab_size": 300, "corpus": "text.txt=0.7 documents.txt=0.3"},
        {"tokenizer": "byte", "corpus": "documents.txt", "clean": ("dedup",), "val_fraction": 0.3},
    ],
)
def test_joined_shards_are_the_token_files_of_one_process(settings: dict[str, Any], tmp_path: Path) -> None:
    given = {"corpus": "text.txt", **settings}
    names = tuple(str(tmp_path / name) for name in given.pop("corpus").split())
    if "val_file" in given:
        given["val_file"] = str(tmp_path / given["val_file"])
    config = DataConfig(**given, corpus=names)
    first = make(config, tmp_path / "shards", 2, 3)
    assert first.missing == (1,)
    last = make(config, tmp_path / "shards", 1)
    assert (last.folder, last.missing, last.reused) == (tmp_path / "shards", (), False)
    whole = prepare(config, out=tmp_path / "whole", sizes=SMALL)
    assert content(tmp_path / "shards") == content(tmp_path / "whole")
    assert last.manifest == whole.manifest
    assert make(config, tmp_path / "shards", 2).reused  # a job of a cluster that is started again


def test_shards_that_were_copied_together_are_joined_when_they_are_used(
    corpus: DataConfig, tmp_path: Path
) -> None:
    for number in (1, 2):
        make(corpus, tmp_path / f"machine{number}", number, count=2)
        name = f"shard-{number}-of-2"
        shutil.copytree(tmp_path / f"machine{number}" / name, tmp_path / "all" / name)
    found = prepare(DataConfig(corpus=(str(tmp_path / "all"),)))
    assert (found.folder, found.reused) == (tmp_path / "all", True)
    prepare(corpus, out=tmp_path / "whole", sizes=SMALL)
    assert content(tmp_path / "all") == content(tmp_path / "whole")


def test_a_join_that_was_interrupted_is_made_again(corpus: DataConfig, tmp_path: Path) -> None:
    make(corpus, tmp_path / "all", 1, 2)
    (tmp_path / "all" / "joined").mkdir()
    (tmp_path / "all" / "train.bin").write_bytes(b"part")
    make(corpus, tmp_path / "all", 3)
    prepare(corpus, out=tmp_path / "whole", sizes=SMALL)
    assert content(tmp_path / "all") == content(tmp_path / "whole")


def test_more_shards_than_chunks_leave_some_empty(corpus: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abcde")
    found = make(corpus, tmp_path / "all", 1, 2, 3)
    assert (found.missing, found.manifest.characters) == ((), 5)


def test_a_missing_shard_is_named(corpus: DataConfig, tmp_path: Path) -> None:
    make(corpus, tmp_path / "all", 2)
    with pytest.raises(CorpusError, match="lacks 2 of 3 shards: 1, 3") as caught:
        prepare(DataConfig(corpus=(str(tmp_path / "all"),)))
    assert "--shard 1/3 --out" in caught.value.hint


def test_shards_that_do_not_belong_together_are_refused(corpus: DataConfig, tmp_path: Path) -> None:
    all_ = tmp_path / "all"
    make(corpus, all_, 1)

    def refused(fault: str) -> None:
        with pytest.raises(CorpusError, match=fault):
            prepare(DataConfig(corpus=(str(all_),)))
        shutil.rmtree(all_ / added)

    added = "shard-02-of-3"
    shutil.copytree(all_ / "shard-1-of-3", all_ / added)
    refused("shard-02-of-3 and shard-1-of-3 in .* are the same shard, 1")
    for other, fault in (
        (DataConfig(corpus=corpus.corpus, tokenizer="byte", val_fraction=0.4), "different settings"),
        (DataConfig(corpus=(str(tmp_path / "documents.txt"),), tokenizer="byte"), "different texts"),
    ):
        make(other, tmp_path / fault, 2)
        added = "shard-2-of-3"
        shutil.move(tmp_path / fault / added, all_ / added)
        refused(fault)
    make(corpus, tmp_path / "other", 1, count=2)
    added = "shard-1-of-2"
    shutil.move(tmp_path / "other" / added, all_ / added)
    refused("different numbers of shards")
    added = "shard-2-of-3"
    make(corpus, tmp_path / "cut", 2)
    shutil.move(tmp_path / "cut" / added, all_ / added)
    (all_ / added / "val.bin").write_bytes(b"1")
    refused("damaged")


def test_a_single_shard_is_not_a_corpus(corpus: DataConfig, tmp_path: Path) -> None:
    made = make(corpus, tmp_path / "all", 1)
    with pytest.raises(CorpusError, match="one of several shards") as caught:
        prepare(DataConfig(corpus=(str(made.folder),)))
    assert str(tmp_path / "all") in caught.value.hint


def test_a_folder_of_other_files_is_left_alone(corpus: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="other files"):
        make(corpus, tmp_path, 1)
    whole = prepare(corpus, out=tmp_path / "whole")
    with pytest.raises(CorpusError, match="token files already"):
        make(corpus, whole.folder, 1)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "1/3/5", "-1/3", "1/999999"])
def test_a_shard_is_a_number_of_a_count(text: str) -> None:
    with pytest.raises(ConfigError, match="must be I/N"):
        Shard.parse(text)
    assert Shard.parse("3/8") == Shard(3, 8)


def test_a_damaged_description_of_a_shard_is_reported(corpus: DataConfig, tmp_path: Path) -> None:
    made = make(corpus, tmp_path / "all", 1)
    for text in ("{", "[]", json.dumps({"number": 5, "count": 3, "settings": ""})):
        (made.folder / "shard.json").write_text(text)
        with pytest.raises(CorpusError, match=r"shard\.json is damaged"):
            prepare(DataConfig(corpus=(str(tmp_path / "all"),)))
