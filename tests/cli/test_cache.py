"""``gptscratch cache``: show and delete token files."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from gptscratch.config import DataConfig
from gptscratch.data.prepare import prepare
from gptscratch.runs.run import read_run

Command = Callable[..., Any]


@pytest.fixture
def used(tale: Path) -> Path:
    return Path(read_run(tale).tokens)


@pytest.fixture
def unused(corpus: Path, used: Path) -> Path:
    del used
    return prepare(DataConfig(corpus=(str(corpus),), tokenizer="byte")).folder


def test_cache_shows_sizes_and_runs(gptscratch: Command, used: Path, unused: Path) -> None:
    found = {each["name"]: each for each in json.loads(gptscratch("cache", "--json").out)}
    assert found[used.name]["runs"] == ["tale"]
    assert found[unused.name]["runs"] == []
    assert found[unused.name]["size_bytes"] == sum(file.stat().st_size for file in unused.iterdir())
    shown = gptscratch("cache").out
    assert used.name[:8] in shown
    assert "byte" in shown


def test_clear_deletes_what_no_run_uses(gptscratch: Command, used: Path, unused: Path) -> None:
    assert gptscratch("cache", "clear", "--yes").code == 0
    assert used.is_dir()
    assert not unused.exists()


def test_clear_keeps_what_a_run_outside_of_the_cache_directory_uses(
    gptscratch: Command, fit: Callable[..., Any], tmp_path: Path
) -> None:
    run = fit(out=tmp_path / "else\nwhere" / "tale", steps=2).run
    folder = Path(read_run(run).tokens)
    for _ in range(2):
        found = {each["name"]: each for each in json.loads(gptscratch("cache", "--json").out)}
        assert found[folder.name]["runs"] == [str(run)]
        assert gptscratch("cache", "clear", "--yes").code == 0
        assert folder.is_dir()
        moved = run.rename(tmp_path / "moved")
        assert gptscratch("train", "--resume", moved, "--steps", 3, "-q").code == 0
        run = moved.rename(tmp_path / "moved again")
        assert gptscratch("train", "--resume", run, "--steps", 4, "-q").code == 0
    shutil.rmtree(run)
    assert gptscratch("cache", "clear", "--yes").code == 0
    assert not folder.exists()


def test_clear_all_deletes_everything_and_a_run_can_be_resumed(
    gptscratch: Command, used: Path, unused: Path
) -> None:
    assert gptscratch("cache", "clear", "--all", "--yes").code == 0
    assert not used.exists()
    assert not unused.exists()
    assert gptscratch("train", "--resume", "tale", "--steps", "26", "-q").code == 0


def test_clear_by_the_first_characters_of_a_name(gptscratch: Command, used: Path, unused: Path) -> None:
    assert gptscratch("cache", "clear", used.name[:8], "--yes").code == 0
    assert not used.exists()
    assert unused.is_dir()


@pytest.mark.parametrize("arguments", [("nothing",), ("",), ("..",)])
def test_clear_refuses_names_that_are_not_one_folder(
    gptscratch: Command, used: Path, unused: Path, arguments: tuple[str, ...]
) -> None:
    assert gptscratch("cache", "clear", *arguments, "--yes").code == 2
    assert used.is_dir()
    assert unused.is_dir()


def test_clear_names_the_runs_whose_corpus_came_from_stdin(
    gptscratch: Command, tale: Path, used: Path
) -> None:
    config = json.loads((tale / "config.json").read_text())
    config["data"]["corpus"] = ["-"]
    (tale / "config.json").write_text(json.dumps(config))
    ended = gptscratch("cache", "clear", used.name, "--yes")
    assert "The corpus of tale came from stdin" in ended.err


@pytest.mark.parametrize("corpus", [("-",), ("-", "b.txt"), ("-=1", "b.txt=2")])
def test_clear_keeps_what_came_from_stdin_unless_it_is_named(
    gptscratch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.txt").write_text("some text", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a text that comes once")))
    folder = prepare(DataConfig(corpus=corpus, tokenizer="byte")).folder
    assert gptscratch("cache", "clear", "--yes").code == 0
    assert folder.is_dir()
    ended = gptscratch("cache", "clear", folder.name, "--yes")
    assert f"The corpus of {folder.name[:8]} came from stdin" in ended.err
    assert not folder.exists()


def test_clear_spares_what_another_process_writes(gptscratch: Command, unused: Path) -> None:
    writing, left = unused.with_name(".busy.123.tmp"), unused.with_name(f".{unused.name}.123.tmp")
    writing.mkdir()
    left.mkdir()
    with FileLock(unused.with_name(".busy.lock")):
        assert gptscratch("cache", "clear", "--yes").code == 0
    assert (unused.exists(), writing.is_dir(), left.exists()) == (False, True, False)


def test_clear_without_a_terminal_asks_for_yes(gptscratch: Command, unused: Path) -> None:
    assert gptscratch("cache", "clear").code == 2
    assert unused.is_dir()
