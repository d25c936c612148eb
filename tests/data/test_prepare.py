"""From a corpus to token files: the split, the files on disk, and finding them again."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from gptscratch.config import DataConfig
from gptscratch.data.chunks import Removed, Sizes
from gptscratch.data.corpus import Corpus
from gptscratch.data.prepare import Prepared, prepare
from gptscratch.data.token_files import open_tokens, read_manifest
from gptscratch.errors import CorpusError
from gptscratch.tokenizer import KINDS, Tokenizer

TEXT = "The cat sat on the mat, and the dog didn't.\nNo one minded at all!\n" * 40


def prepared(tmp_path: Path, text: str = TEXT, **settings: object) -> Prepared:
    file = tmp_path / "corpus.txt"
    file.write_text(text, encoding="utf-8", newline="")
    return prepare(DataConfig(corpus=(str(file),), **settings))  # type: ignore[arg-type]


def test_one_text_is_split_as_nanogpt_splits_it(tmp_path: Path) -> None:
    found = prepared(tmp_path, tokenizer="char")
    cut = int(len(TEXT) * 0.9)
    assert found.tokenizer.decode(found.tokens.train) == TEXT[:cut]
    assert found.tokenizer.decode(found.tokens.val) == TEXT[cut:]


@pytest.mark.parametrize("kind", KINDS)
def test_token_files_are_the_encoded_text(kind: str, tmp_path: Path) -> None:
    size = 300 if kind == "bpe" else None
    found = prepared(tmp_path, tokenizer=kind, vocab_size=size)
    cut = int(len(TEXT) * 0.9)
    assert found.tokens.train.tolist() == found.tokenizer.encode(TEXT[:cut])
    assert found.tokens.val.tolist() == found.tokenizer.encode(TEXT[cut:])
    assert Tokenizer.load(found.folder).hash == found.manifest.tokenizer_hash


def test_counts_are_those_of_the_text(tmp_path: Path) -> None:
    found = prepared(tmp_path, "é" + TEXT, tokenizer="byte")
    train, val = found.manifest.train, found.manifest.val
    assert (found.manifest.documents, train.documents, val.documents) == (1, 1, 1)  # cut by the split
    assert train.characters + val.characters == len(TEXT) + 1
    assert train.bytes + val.bytes == train.tokens + val.tokens == len(TEXT) + 2
    assert found.manifest.characters_per_token == (len(TEXT) + 1) / (len(TEXT) + 2)


def test_unknown_words_are_counted(tmp_path: Path) -> None:
    found = prepared(tmp_path, TEXT + "It is unheard of.", tokenizer="word")
    unknown = found.tokenizer.unk_id
    assert found.manifest.val.unknown == found.tokens.val.tolist().count(unknown) >= 4
    assert found.manifest.train.unknown == found.tokens.train.tolist().count(unknown)


def test_each_of_several_documents_ends_with_the_end_token(tmp_path: Path) -> None:
    found = prepared(tmp_path, "one\n<|endoftext|>\ntwo\n<|endoftext|>\n", tokenizer="char")
    end = found.tokenizer.eot_id
    shown = found.tokenizer.decode([*found.tokens.train, *found.tokens.val], skip_special=False)
    assert shown == "one<|endoftext|>tw<|endoftext|>o<|endoftext|>"  # the tail begins inside of "two"
    assert found.manifest.end_of_text == end


def test_one_document_has_no_end_token(tmp_path: Path) -> None:
    found = prepared(tmp_path, tokenizer="char")
    assert found.tokenizer.eot_id not in found.tokens.train
    assert found.manifest.end_of_text is None


def test_equal_documents_are_on_one_side(tmp_path: Path) -> None:
    texts = [f"story number {i % 50} " * 3 for i in range(200)]
    found = prepared(tmp_path, "<|endoftext|>".join(texts), tokenizer="char")
    sides = []
    for ids in (found.tokens.train, found.tokens.val):
        shown = found.tokenizer.decode(ids, skip_special=False)
        sides.append(set(shown.split("<|endoftext|>")) - {""})
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(texts)
    assert 0.05 < found.manifest.val.characters / found.manifest.train.characters < 0.2
    assert found.manifest.split == "documents"


def test_second_call_finds_the_files_and_a_change_is_noticed(tmp_path: Path) -> None:
    first, again = prepared(tmp_path), prepared(tmp_path)
    assert (first.reused, again.reused) == (False, True)
    assert first.folder == again.folder
    changed = prepared(tmp_path, TEXT.replace("cat", "cow"))
    assert not changed.reused
    assert changed.folder != first.folder


def test_a_large_corpus_is_known_by_the_sizes_and_times_of_its_files(tmp_path: Path) -> None:
    file = tmp_path / "corpus.txt"
    file.write_text(TEXT, encoding="utf-8")
    os.utime(file, (1e9, 1e9))

    def fingerprint() -> str:
        return Corpus(DataConfig(corpus=(str(file),)), sizes=Sizes(small=100)).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    os.utime(file, (1e9, 1e9 + 5))
    assert fingerprint() != first
    file.touch()  # it may change again without another time: never the same
    assert fingerprint() != fingerprint()


@pytest.mark.parametrize("damage", ["cut", "missing", "manifest"])
def test_damaged_files_are_noticed_and_made_again(damage: str, tmp_path: Path) -> None:
    first = prepared(tmp_path, tokenizer="char")
    whole = first.tokens.train.tolist()
    file = first.folder / ("manifest.json" if damage == "manifest" else "train.bin")
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(CorpusError, match="damaged"):
        open_tokens(first.folder)
    again = prepared(tmp_path, tokenizer="char")
    assert not again.reused
    assert again.tokens.train.tolist() == whole


def test_ids_outside_the_vocabulary_are_noticed(tmp_path: Path) -> None:
    found = prepared(tmp_path, tokenizer="char")
    ids = np.fromfile(found.folder / "val.bin", np.uint16)
    ids[7] = found.manifest.vocab_size
    ids.tofile(found.folder / "val.bin")
    with pytest.raises(CorpusError, match=rf"val\.bin is damaged: it holds the id {ids[7]}"):
        open_tokens(found.folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dtype", "1e5"), ("dtype", "float64"), ("vocab_size", "x"), ("vocab_size", -1), ("skipped", []),
        ("train", {"tokens": "7"}), ("train", 5), ("end_of_text", 1.5), ("end_of_text", 1 << 40),
        ("removed", [5]), ("corpora", [{"name": "a", "weight": float("nan"), "tokens": 1}]), ("format", "1"),
        ("lossy", 1), ("unheard", 1), ("files", None),
    ],
)  # fmt: skip
def test_a_manifest_of_wrong_values_is_damaged(name: str, value: Any, tmp_path: Path) -> None:
    folder = prepared(tmp_path, tokenizer="char").folder
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**values, name: value}))
    with pytest.raises(CorpusError, match=r"manifest\.json is damaged"):
        read_manifest(folder)


def test_nothing_is_left_of_a_run_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gptscratch.data.prepare.write_tokens", fails)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path, tokenizer="char")
    assert [path.suffix for path in (tmp_path / "home" / "tokens").iterdir()] == [".lock"]


def test_out_takes_an_empty_folder_and_spares_a_full_one(tmp_path: Path) -> None:
    file = tmp_path / "corpus.txt"
    file.write_text(TEXT, encoding="utf-8")
    config = DataConfig(corpus=(str(file),))
    assert prepare(config, out=tmp_path / "made").folder == tmp_path / "made"
    (tmp_path / "made" / "train.suffixes").touch()  # where a sample was looked up in them
    assert prepare(config, out=tmp_path / "made").reused
    with pytest.raises(CorpusError, match="other files"):
        prepare(config, out=tmp_path)


def test_an_existing_folder_is_filled_and_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a mounted volume, which cannot be renamed, or the current folder of a shell."""
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    (tmp_path / "out" / ".new.123.tmp").mkdir()  # of a killed process
    for text in ("one two three four five six", "seven eight nine ten eleven"):
        (tmp_path / "corpus.txt").write_text(text, encoding="utf-8")
        found = prepare(DataConfig(corpus=(f"{tmp_path}/corpus.txt",), tokenizer="byte"), out=Path())
        assert bytes([*found.tokens.train, *found.tokens.val]).decode() == text
        assert sorted(file.name for file in Path().iterdir()) == [
            ".new.123.tmp", "manifest.json", "tokenizer.json", "train.bin", "val.bin"
        ]  # fmt: skip


def test_a_loaded_tokenizer_is_applied(tmp_path: Path) -> None:
    made = prepared(tmp_path, tokenizer="bpe", vocab_size=300)
    found = prepared(tmp_path, "No one sat.", tokenizer=str(made.folder))
    assert found.tokenizer.hash == made.tokenizer.hash
    assert found.tokenizer.decode([*found.tokens.train, *found.tokens.val]) == "No one sat."


def test_a_validation_corpus_is_the_whole_validation_side(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("No one sat.<|endoftext|>Zoo", encoding="utf-8")
    found = prepared(tmp_path, "one<|endoftext|>two", tokenizer="char", val_file=str(tmp_path / "val.txt"))
    sides = [
        found.tokenizer.decode(side, skip_special=False) for side in (found.tokens.train, found.tokens.val)
    ]
    assert sides == ["one<|endoftext|>two<|endoftext|>", "No one sat.<|endoftext|>Zoo<|endoftext|>"]
    assert not prepared(tmp_path, "one", tokenizer="char", val_file=str(tmp_path / "corpus.txt")).reused
    (tmp_path / "val.txt").write_text(" ", encoding="utf-8")
    with pytest.raises(CorpusError, match="validation corpus is empty"):
        prepared(tmp_path, val_file=str(tmp_path / "val.txt"))


def test_the_manifest_keeps_what_cleaning_removed_and_what_was_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"<b>one</b>\xff<|endoftext|>two<|endoftext|>two")
    config = DataConfig(
        corpus=(str(tmp_path / "a.txt"),),
        clean=("html", "dedup"),
        encoding_errors="replace",
        tokenizer="char",
    )
    manifest = prepare(config).manifest
    assert manifest.removed == (
        Removed(step="html", characters=7, changed=1),
        Removed(step="dedup", documents=1, characters=3),
    )
    assert manifest.replaced == 1
    again = prepare(config)
    assert (again.reused, again.manifest) == (True, manifest)


def test_a_folder_of_token_files_is_used_as_it_is(tmp_path: Path) -> None:
    made = prepared(tmp_path, tokenizer="bpe", vocab_size=300)
    found = prepare(DataConfig(corpus=(str(made.folder),)))
    assert (found.folder, found.reused) == (made.folder, True)
    assert found.tokenizer.hash == made.tokenizer.hash
    np.testing.assert_array_equal(found.tokens.train, made.tokens.train)
    same = DataConfig(corpus=(str(made.folder),), tokenizer=str(made.folder))
    assert prepare(same, out=made.folder).manifest == made.manifest


@pytest.mark.parametrize("asked", [{"tokenizer": "char"}, {"vocab_size": 99}, {"val_fraction": 0.5}])
def test_what_was_decided_with_the_tokens_cannot_be_asked_for(asked: dict[str, Any], tmp_path: Path) -> None:
    folder = str(prepared(tmp_path, tokenizer="byte").folder)
    with pytest.raises(CorpusError, match=f"{next(iter(asked))} = .* no effect"):
        prepare(DataConfig(corpus=(folder,), **asked))


def test_token_files_are_a_corpus_alone_and_whole(tmp_path: Path) -> None:
    folder = prepared(tmp_path, tokenizer="byte").folder
    with pytest.raises(CorpusError, match="cannot be joined"):
        prepare(DataConfig(corpus=(str(folder), str(tmp_path / "corpus.txt"))))
    for corpus in ((f"{folder}=1", f"{folder}=2"), (f"{folder}=1", f"{tmp_path}/corpus.txt=1")):
        with pytest.raises(CorpusError, match="cannot be joined"):
            prepare(DataConfig(corpus=corpus))
    with pytest.raises(CorpusError, match="holds token files"):
        prepare(DataConfig(corpus=(str(tmp_path / "corpus.txt"),), val_file=str(folder)))
    with pytest.raises(CorpusError, match="already"):
        prepare(DataConfig(corpus=(str(folder),)), out=tmp_path / "other")
    prepared(tmp_path, tokenizer="char").tokenizer.save(folder / "tokenizer.json")
    with pytest.raises(CorpusError, match="not the one"):
        prepare(DataConfig(corpus=(str(folder),)))


SMALL = Sizes(sample=1000, chunk=200)


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
@pytest.mark.parametrize("documents", [1, 60])
def test_a_corpus_larger_than_its_sample_gives_the_same_tokens(
    kind: str, documents: int, tmp_path: Path
) -> None:
    text = TEXT if documents == 1 else "<|endoftext|>".join(f"{i}: {TEXT[:100]}" for i in range(documents))
    (tmp_path / "corpus.txt").write_text(text, encoding="utf-8")
    config = DataConfig(corpus=(str(tmp_path / "corpus.txt"),), tokenizer=kind)
    first = prepare(config)
    config = dataclasses.replace(config, tokenizer=str(first.folder) if kind == "bpe" else kind)
    second = prepare(config, sizes=SMALL)
    assert second.manifest == dataclasses.replace(first.manifest, key=second.manifest.key)
    np.testing.assert_array_equal(first.tokens.train, second.tokens.train)
    np.testing.assert_array_equal(first.tokens.val, second.tokens.val)


def test_a_bpe_learns_from_the_training_text_of_the_sample(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(TEXT + "zzzz" * 500, encoding="utf-8")
    config = DataConfig(
        corpus=(str(tmp_path / "corpus.txt"),), tokenizer="bpe", vocab_size=400, val_fraction=0.5
    )
    for sizes in (Sizes(), SMALL):
        vocabulary = prepare(config, sizes=sizes).tokenizer.library.get_vocab()
        assert "zz" not in vocabulary
        assert "Ġcat" in vocabulary


def test_a_text_that_changes_between_the_passes_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "corpus.txt"
    file.write_text(TEXT * 20, encoding="utf-8")

    def progress(stage: str, *_: int) -> None:
        if stage == "tokenizing":
            file.write_text(TEXT.replace("cat", "cow") * 20, encoding="utf-8")

    sizes = dataclasses.replace(SMALL, chunk=64)
    with pytest.raises(CorpusError, match="changed"):
        prepare(DataConfig(corpus=(str(file),), tokenizer="byte"), on_progress=progress, sizes=sizes)
    assert not list((tmp_path / "home" / "tokens").glob("*/*"))


def test_a_second_process_waits_and_takes_what_the_first_has_made(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(TEXT, encoding="utf-8")
    config = DataConfig(corpus=(str(tmp_path / "corpus.txt"),), tokenizer="byte")
    waits, writes = threading.Event(), threading.Event()
    found = []

    def first(stage: str, *_: int) -> None:
        if stage == "tokenizing" and not writes.is_set():
            writes.set()
            assert waits.wait(20)

    def second(stage: str, *_: int) -> None:
        if "waiting" in stage:
            waits.set()

    thread = threading.Thread(target=lambda: found.append(prepare(config, on_progress=first)))
    thread.start()
    assert writes.wait(20)
    found.append(prepare(config, on_progress=second))
    thread.join()
    assert sorted(prepared.reused for prepared in found) == [False, True]
    assert found[0].folder == found[1].folder


def test_what_a_killed_process_left_is_deleted(tmp_path: Path) -> None:
    first = prepared(tmp_path, tokenizer="char")
    shutil.rmtree(first.folder)
    tokens = first.folder.parent
    kept = [".busy.123.tmp", ".busy.removed.123.tmp", ".strange.123.tmp"]
    for name in (f".{first.folder.name}.123.tmp", ".free.123.tmp", ".free.removed.123.tmp", *kept):
        (tokens / name).mkdir()
        (tokens / name / "train.bin").touch()
    (tokens / ".free.lock").touch()
    with FileLock(tokens / ".busy.lock"):
        assert prepared(tmp_path, tokenizer="char").folder == first.folder
    assert sorted(path.name for path in tokens.glob(".*.tmp")) == kept


@pytest.mark.parametrize("number", [2, 4])
def test_token_files_of_another_format_are_made_again(number: int, tmp_path: Path) -> None:
    folder = prepared(tmp_path, tokenizer="char").folder
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**values, "format": number}))
    with pytest.raises(CorpusError, match=f"has format {number}"):
        read_manifest(folder)
    assert not prepared(tmp_path, tokenizer="char").reused


@pytest.mark.parametrize("rule", ["CHOICE", "SPLIT"])
def test_a_new_rule_for_tokenizers_or_the_split_makes_token_files_again(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(tmp_path)
    assert prepared(tmp_path).reused
    monkeypatch.setattr(f"gptscratch.data.prepare.{rule}", -1)
    assert not prepared(tmp_path).reused


def test_progress_names_its_stages(tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    file = tmp_path / "corpus.txt"
    file.write_text(TEXT, encoding="utf-8")
    config = DataConfig(corpus=(str(file),), tokenizer="bpe", vocab_size=300)
    prepare(config, on_progress=lambda stage, done, total: seen.update({stage: (done, total)}))
    whole = (len(TEXT), len(TEXT))
    assert seen == {"reading": whole, "tokenizing": whole, "writing to the disk": whole}


def test_no_torch_is_imported() -> None:
    code = "import sys, gptscratch.data.prepare, gptscratch.data.batches; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
