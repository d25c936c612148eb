"""Files and folders: complete or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gptscratch.files import new_file, new_files, new_folder, remove_folder, remove_leftovers, write_json


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_json_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"new": object()})
    assert names(tmp_path) == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}


def test_a_file_keeps_its_old_content_when_writing_fails(tmp_path: Path) -> None:
    def write_half() -> None:
        with new_file(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_folder_appears_with_all_of_its_files_or_not_at_all(tmp_path: Path) -> None:
    def write_half() -> None:
        with new_folder(tmp_path / "a") as temporary:
            (temporary / "file").write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert names(tmp_path) == []
    with new_folder(tmp_path / "in" / "a") as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "file").write_text("all")
        assert not (tmp_path / "in" / "a").exists()
    assert names(tmp_path / "in") == ["a"]
    assert (tmp_path / "in" / "a" / "sub" / "file").read_text() == "all"


def test_files_are_moved_into_a_folder_together_or_not_at_all(tmp_path: Path) -> None:
    def write_half() -> None:
        with new_files(tmp_path, last="a") as temporary:
            (temporary / "a").write_text("half")
            raise KeyboardInterrupt

    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [(tmp_path / name).read_text() for name in names(tmp_path)] == ["old"] * 3
    with new_files(tmp_path, last="a") as temporary:
        (temporary / "a").write_text("new")
        (temporary / "b").write_text("new")
    assert [(tmp_path / name).read_text() for name in names(tmp_path)] == ["new", "new", "old"]


def test_a_folder_is_removed_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # as if the process was killed here
        remove_folder(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert len(names(tmp_path)) == 1
    (tmp_path / ".last.json.77.tmp").touch()
    (tmp_path / ".mine.tmp").touch()
    remove_leftovers(tmp_path, "a")
    assert names(tmp_path) == [".last.json.77.tmp", ".mine.tmp"]
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".mine.tmp"]
