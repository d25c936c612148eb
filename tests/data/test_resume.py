"""An interrupted tokenizing goes on where it stopped, and ends with the files of an uninterrupted one."""

from __future__ import annotations

import gzip
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gptscratch import paths
from gptscratch.config import DataConfig
from gptscratch.data import encode, tokens, writer
from gptscratch.data.lock import one_at_a_time
from gptscratch.data.prepare import Prepared, prepare
from gptscratch.errors import CorpusError, RunError

STORIES = [f"Story number {i}: the cat sat on {'a mat ' * (i % 50)}\n" for i in range(300)]
TEXT = "".join(STORIES)


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_BATCH", 1000)
    monkeypatch.setattr("gptscratch.data.readers.PIECE", 2000)
    monkeypatch.setattr("gptscratch.data.corpus._KEPT", 1000)
    monkeypatch.setattr("gptscratch.data.remember._STAMPED", 10)


def config(path: Path, **settings: object) -> DataConfig:
    return DataConfig(corpus=(str(path),), tokenizer="bpe", vocab_size=300, **settings)  # type: ignore[arg-type]


def old(file: Path, data: str | bytes) -> Path:
    """A file that was written a while ago."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    os.utime(file, (1e9, 1e9))
    return file


def interrupted(asked: DataConfig, share: float = 0.5) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "tokenizing" and done > share * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(asked, on_progress=stop)


def contents(prepared: Prepared) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in prepared.folder.iterdir()}


def unfinished() -> list[Path]:
    return list(paths.tokens_dir().glob(f"*/{writer.UNFINISHED}"))


def straight(asked: DataConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Prepared:
    with monkeypatch.context() as patch:
        patch.setenv("GPTSCRATCH_HOME", str(tmp_path / "elsewhere"))
        return prepare(asked)


CORPORA = {
    "plain": lambda folder: old(folder / "a.txt", TEXT),
    "documents": lambda folder: old(folder / "a.txt", "<|endoftext|>".join(STORIES)),
    "files": lambda folder: max(old(folder / f"{i}.txt", TEXT[i::3]) for i in range(3)).parent,
    "gzip": lambda folder: old(folder / "a.txt.gz", gzip.compress(TEXT.encode())),
}


@pytest.mark.parametrize("kind", CORPORA)
def test_an_interrupted_call_is_gone_on_with(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(CORPORA[kind](tmp_path / "corpus"))
    whole = straight(asked, monkeypatch, tmp_path)
    for share in (0.3, 0.6):
        interrupted(asked, share)
        assert len(unfinished()) == 1
    seen: dict[str, int] = {}
    found = prepare(asked, on_progress=lambda stage, done, _: seen.setdefault(stage, done) and None)
    assert seen["tokenizing"] > 0.5 * found.manifest.train.bytes
    assert "reading" not in seen  # the first pass is remembered
    assert contents(found) == contents(whole)


def test_what_was_written_behind_the_saved_state_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(old(tmp_path / "a.txt", TEXT))
    whole = straight(asked, monkeypatch, tmp_path)
    interrupted(asked)
    with (unfinished()[0].parent / "train.bin.part").open("ab") as file:
        file.write(b"half a batch")
    assert contents(prepare(asked)) == contents(whole)


def test_a_killed_process_leaves_what_can_be_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(old(tmp_path / "a.txt", TEXT))
    whole = straight(asked, monkeypatch, tmp_path)
    script = f"""
import os, signal
from gptscratch.config import DataConfig
from gptscratch.data import prepare, readers as reading, remember, tokens, writer
tokens._BATCH, reading.PIECE, remember._STAMPED, writer._SAVED = 1000, 2000, 10, 0.0
def die(stage, done, total):
    if stage == "tokenizing" and done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)
prepare.prepare(DataConfig(corpus=({asked.corpus[0]!r},), tokenizer="bpe", vocab_size=300), on_progress=die)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode == -signal.SIGKILL
    seen: dict[str, int] = {}
    found = prepare(asked, on_progress=lambda stage, done, _: seen.setdefault(stage, done) and None)
    assert seen["tokenizing"] > len(TEXT) / 2
    assert contents(found) == contents(whole)


def test_a_stream_is_gone_on_with_where_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def piped() -> DataConfig:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
        return config(Path("-"))

    whole = straight(piped(), monkeypatch, tmp_path)
    interrupted(piped())
    seen: dict[str, int] = {}
    found = prepare(piped(), on_progress=lambda stage, done, _: seen.setdefault(stage, done) and None)
    assert seen["tokenizing"] > len(TEXT) / 2
    assert contents(found) == contents(whole)


def test_of_a_text_that_changed_nothing_unfinished_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = old(tmp_path / "a.txt", TEXT)
    interrupted(config(file))
    old(file, TEXT.replace("cat", "cow") + "And on.")
    whole = straight(config(file), monkeypatch, tmp_path)
    stages: list[str] = []
    found = prepare(config(file), on_progress=lambda stage, *_: stages.append(stage))
    assert "the text has changed: token files that were not finished are made anew" in stages
    assert contents(found) == contents(whole)
    assert [entry for entry in paths.tokens_dir().iterdir() if entry.is_dir()] == [found.folder]


def test_unfinished_files_are_swept_away_after_a_week(tmp_path: Path) -> None:
    interrupted(config(old(tmp_path / "a.txt", TEXT)))
    os.utime(unfinished()[0], (time.time() - 8 * 86_400,) * 2)
    prepare(config(old(tmp_path / "b.txt", TEXT[::-1])))
    assert not unfinished()


def test_another_version_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config(old(tmp_path / "a.txt", TEXT))
    whole = straight(asked, monkeypatch, tmp_path)
    interrupted(asked)
    state = unfinished()[0]
    state.write_text(state.read_text().replace('"version": "', '"version": "0.0.'))
    assert contents(prepare(asked)) == contents(whole)


def test_a_text_that_changes_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    file = old(tmp_path / "a.txt", TEXT)

    def change(stage: str, done: int, total: int) -> None:
        if stage == "tokenizing" and done > total / 2:
            os.utime(file, (5, 5))

    with pytest.raises(CorpusError, match="changed while"):
        prepare(config(file), on_progress=change)
    assert [entry for entry in paths.tokens_dir().iterdir() if entry.is_dir()] == []


def test_workers_write_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config(old(tmp_path / "a.txt", "<|endoftext|>".join(STORIES)))
    whole = straight(asked, monkeypatch, tmp_path)
    monkeypatch.setattr(tokens, "worker_count", lambda *_: 2)
    interrupted(asked)
    assert contents(prepare(asked)) == contents(whole)


def test_a_worker_that_is_killed_is_told_of_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(old(tmp_path / "a.txt", TEXT))
    made: list[encode._Worker] = []
    monkeypatch.setattr(tokens, "worker_count", lambda *_: 1)

    class Watched(encode._Worker):
        def __init__(self, *parts: object) -> None:
            super().__init__(*parts)  # type: ignore[arg-type]
            made.append(self)

    def kill(stage: str, done: int, total: int) -> None:
        if stage == "tokenizing" and done > total / 2:
            made[0]._process.kill()

    monkeypatch.setattr(encode, "_Worker", Watched)
    with pytest.raises(RunError, match=r"ended too early .* goes on from here"):
        prepare(asked, on_progress=kill)
    assert len(unfinished()) == 1


def test_a_second_process_waits_and_takes_what_the_first_has_made(tmp_path: Path) -> None:
    asked = config(old(tmp_path / "a.txt", TEXT))
    stages: list[str] = []
    second: list[Prepared] = []
    other = threading.Thread(
        target=lambda: second.append(prepare(asked, on_progress=lambda stage, *_: stages.append(stage)))
    )

    def start_the_other(stage: str, *_: int) -> None:
        if stage == "tokenizing" and not other.ident:
            other.start()
        while other.ident and not any("waiting" in stage for stage in stages):
            time.sleep(0.001)

    first = prepare(asked, on_progress=start_the_other)
    other.join()
    assert (first.reused, second[0].reused, second[0].folder) == (False, True, first.folder)


def test_a_lock_is_free_when_its_holder_is_done(tmp_path: Path) -> None:
    def wait() -> None:
        raise AssertionError("somebody holds the lock")

    for _ in range(2):
        with one_at_a_time(tmp_path / "lock", wait):
            assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()
