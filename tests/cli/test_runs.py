"""``gptscratch runs``: list, delete and rename runs."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptscratch.runs.checkpoint import load_model
from gptscratch.runs.folder import held
from gptscratch.runs.run import read_run

Command = Callable[..., Any]


@pytest.fixture
def three(tale: Path) -> list[Path]:
    """Runs whose order by name, time, loss and size is different."""
    found = [
        tale,
        shutil.copytree(tale, tale.with_name("best")),
        shutil.copytree(tale, tale.with_name("old")),
    ]
    (found[1] / "best.json").write_text('{"checkpoint": "step-00000024", "step": 24, "val_loss": 0.01}')
    (found[0] / "large.bin").write_bytes(bytes(10**6))
    for file in found[2].rglob("*"):
        os.utime(file, (time.time() - 9999, time.time() - 9999))
    return found


@pytest.mark.parametrize(
    ("order", "first"), [("name", "best"), ("loss", "best"), ("size", "tale"), ("when", "tale")]
)
@pytest.mark.usefixtures("three")
def test_runs_are_listed_in_the_order_that_was_asked_for(gptscratch: Command, order: str, first: str) -> None:
    for command in ("runs", "info"):
        listed = [run["name"] for run in json.loads(gptscratch(command, "--sort", order, "--json").out)]
        assert sorted(listed) == ["best", "old", "tale"]
        assert listed[-1 if order == "when" else 0] == ("old" if order == "when" else first)


def test_an_unknown_order_is_an_error(gptscratch: Command) -> None:
    ended = gptscratch("runs", "--sort", "nam")
    assert ended.code == 2
    assert "Did you mean name?" in ended.err


def test_rm_with_yes_deletes_runs_and_nothing_else(gptscratch: Command, three: list[Path]) -> None:
    tale, best, _ = three
    assert gptscratch("runs", "rm", "tale", "old", "--yes").code == 0
    assert [run for run in three if run.exists()] == [best]
    assert [file.name for file in tale.parent.iterdir()] == ["best"]


def test_rm_spares_what_an_import_writes(gptscratch: Command, tale: Path) -> None:
    writing, left = tale.with_name(".other.123.tmp"), tale.with_name(".tale.removed.123.tmp")
    writing.mkdir()
    left.mkdir()
    assert gptscratch("runs", "rm", "tale", "--yes").code == 0
    assert (tale.exists(), writing.is_dir(), left.exists()) == (False, True, False)


def test_rm_without_a_terminal_asks_for_yes_and_deletes_nothing(gptscratch: Command, tale: Path) -> None:
    ended = gptscratch("runs", "rm", "tale")
    assert ended.code == 2
    assert "--yes" in ended.err
    assert (tale / "config.json").is_file()


@pytest.mark.parametrize(("answer", "is_left"), [(False, True), (True, False)])
def test_rm_deletes_after_a_yes(
    gptscratch: Command, tale: Path, monkeypatch: pytest.MonkeyPatch, answer: bool, is_left: bool
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: answer)
    gptscratch("runs", "rm", "tale")
    assert tale.exists() is is_left


@pytest.mark.parametrize("name", ["tal", "..", "."])
def test_rm_deletes_nothing_where_a_name_is_not_a_run(gptscratch: Command, tale: Path, name: str) -> None:
    assert gptscratch("runs", "rm", "tale", name, "--yes").code == 2
    assert tale.exists()


def test_rm_and_rename_refuse_a_run_outside_the_cache_directory(
    gptscratch: Command, tale: Path, tmp_path: Path
) -> None:
    moved = tale.rename(tmp_path / "moved")
    for arguments in (("rm", moved, "--yes"), ("rename", moved, "other")):
        ended = gptscratch("runs", *arguments)
        assert ended.code == 2
        assert "cache directory" in ended.err
    assert (moved / "config.json").is_file()


def test_rm_of_a_link_deletes_the_link_alone(gptscratch: Command, tale: Path) -> None:
    link = tale.with_name("link")
    link.symlink_to(tale, target_is_directory=True)
    assert gptscratch("runs", "rm", "link", "--yes").code == 0
    assert not link.is_symlink()
    assert (tale / "config.json").is_file()


def test_rm_deletes_a_damaged_run(gptscratch: Command, tale: Path) -> None:
    (tale / "config.json").write_text("{")
    assert gptscratch("runs", "rm", "tale", "--yes").code == 0
    assert not tale.exists()


def test_a_run_that_is_being_trained_is_neither_deleted_nor_renamed(gptscratch: Command, tale: Path) -> None:
    with held(tale):
        for arguments in (("rm", "tale", "--yes"), ("rename", "tale", "other")):
            ended = gptscratch("runs", *arguments)
            assert ended.code == 2
            assert "is being trained" in ended.err
    assert tale.exists()


def test_rename_changes_the_folder_and_the_config(gptscratch: Command, tale: Path) -> None:
    renamed = Path(gptscratch("runs", "rename", "tale", "story").out.strip())
    assert renamed == tale.with_name("story")
    assert not tale.exists()
    assert read_run(renamed).config.name == "story"
    load_model(renamed, renamed / "checkpoints" / "step-00000024", device="cpu", dtype="float32")


@pytest.mark.parametrize("name", ["best", "a/b", "-x", ""])
def test_rename_refuses_a_name_that_is_taken_or_unusable(
    gptscratch: Command, three: list[Path], name: str
) -> None:
    assert gptscratch("runs", "rename", "tale", "--", name).code == 2
    assert all(run.exists() for run in three)


def test_path_prints_the_folder_alone(gptscratch: Command, tale: Path) -> None:
    assert gptscratch("runs", "path", "tale").out == f"{tale.resolve()}\n"
    assert gptscratch("runs", "path").out == f"{tale.resolve()}\n"
