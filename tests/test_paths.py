"""Finding runs and checkpoints: by name, by folder, by checkpoint, or the newest."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest

from gptscratch import paths
from gptscratch.errors import CheckpointError, ConfigError


def make_run(run: Path, *steps: int, best: int | None = None, changed: float = 0.0) -> Path:
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    for step in steps:
        folder = paths.checkpoint_dir(run, step)
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}")
    for which, step in (("last", max(steps, default=None)), ("best", best)):
        if step is not None:
            (run / f"{which}.json").write_text(json.dumps({"checkpoint": f"step-{step:08d}"}))
    for file in run.glob("*.json"):
        os.utime(file, (changed, changed))
    return run


def test_the_home_is_the_variable_or_the_users_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.home() == home
    assert paths.run_dir("a") == home / "runs" / "a"
    assert paths.tokens_dir() == home / "tokens"
    monkeypatch.delenv("GPTSCRATCH_HOME")
    assert paths.home().name in ("gptscratch", "Cache")
    assert "~" not in str(paths.home())


def test_looking_makes_nothing(home: Path) -> None:
    paths.run_dir("a")
    assert paths.list_runs() == []
    assert not home.exists()


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "../a",
        "a\\b",
        "-x",
        "--name",
        ".hidden",
        "a\nb",
        "a\x1b[31m",
        "x" * 300,
        "ж" * 60,
    ],
)
def test_a_name_may_not_leave_the_runs_nor_be_impossible_to_type(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a run") as caught:
        paths.run_dir(name)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("file", "name"),
    [("tale", "tale"), ("-x", "x"), ("a\nb", "ab"), ("*", "run"), ("ж" * 80, "ж" * 50), ("Été 2", "Été 2")],
)
def test_the_name_of_a_file_becomes_the_usable_name_of_a_run(file: str, name: str) -> None:
    assert paths.usable_name(file) == name
    assert paths.run_dir(name).name == name


def test_the_next_names_of_a_long_one_are_usable_too() -> None:
    for text, first, tenth in (("book", "book", "book-10"), ("x" * 120, "x" * 100, "x" * 97 + "-10")):
        names = [paths.run_dir(name).name for name in itertools.islice(paths.names_from(text), 10)]
        assert (names[0], names[-1]) == (first, tenth)


def test_a_tilde_is_the_home_folder_of_a_known_user_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.expanded("~/a") == tmp_path / "a"
    for find in (paths.find_run, paths.find_checkpoint):
        with pytest.raises(CheckpointError, match="There is no run '~nothing'"):
            find("~nothing")


def test_runs_are_listed_newest_first() -> None:
    for name, changed in (("old", 1.0), ("new", 3.0), ("middle", 2.0)):
        make_run(paths.run_dir(name), 1, changed=changed)
    (paths.runs_dir() / "empty").mkdir()
    assert [run.name for run in paths.list_runs()] == ["new", "middle", "old"]
    assert paths.find_run().name == "new"


def test_a_run_is_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = make_run(paths.run_dir("a")), make_run(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert paths.find_run("a") == here
    assert paths.find_run("out").resolve() == there
    assert paths.find_run(there) == there


def test_without_a_run_the_error_says_how_to_make_one() -> None:
    with pytest.raises(CheckpointError, match="gptscratch train"):
        paths.find_run()


def test_an_unknown_run_lists_those_there_are(tmp_path: Path) -> None:
    make_run(paths.run_dir("a"))
    with pytest.raises(CheckpointError, match=r"no run 'b'.*Runs here: a"):
        paths.find_run("b")
    with pytest.raises(CheckpointError, match="not a run"):
        paths.find_run(tmp_path)


def test_an_unknown_run_gets_the_most_similar_name() -> None:
    for number in range(12):
        make_run(paths.run_dir(f"run-{number}"), changed=number)
    make_run(paths.run_dir("first"))
    with pytest.raises(CheckpointError, match=r"Did you mean first\?.*and 5 more"):
        paths.find_run("frist")


def test_a_name_too_long_for_the_file_system_is_an_unknown_run() -> None:
    for find in (paths.find_run, paths.find_checkpoint):
        with pytest.raises(CheckpointError, match="There is no run"):
            find("x" * 5000)


def test_the_best_or_the_last_checkpoint_is_found() -> None:
    run = make_run(paths.run_dir("a"), 5, 10, 15, best=10)
    assert paths.find_checkpoint("a") == (run, paths.checkpoint_dir(run, 10))
    assert paths.find_checkpoint("a", which="last") == (run, paths.checkpoint_dir(run, 15))
    assert paths.find_checkpoint() == paths.find_checkpoint("a")


def test_a_checkpoint_is_found_by_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(paths.run_dir("a"), 5, 10)
    folder = paths.checkpoint_dir(run, 5)
    assert paths.find_checkpoint(folder) == (run.resolve(), folder)
    monkeypatch.chdir(folder)
    assert paths.find_checkpoint(".")[0] == run.resolve()


def test_without_a_best_the_newest_checkpoint_counts() -> None:
    run = make_run(paths.run_dir("a"), 5, 123_456_789)
    assert paths.find_checkpoint("a")[1] == paths.checkpoint_dir(run, 123_456_789)
    (run / "best.json").write_text('{"checkpoint": "step-00000007"}')  # deleted by hand
    assert paths.find_checkpoint("a")[1] == paths.checkpoint_dir(run, 123_456_789)


def test_a_run_without_a_checkpoint_is_reported() -> None:
    run = make_run(paths.run_dir("a"))
    half = run / "checkpoints" / ".step-00000004.1.tmp"
    half.mkdir(parents=True)
    (run / "checkpoints" / "step-00000004").mkdir()  # without a state.json it is none
    with pytest.raises(CheckpointError, match=r"no checkpoint yet.*gptscratch train CORPUS --name a"):
        paths.find_checkpoint("a")


@pytest.mark.parametrize("name", ["../../other/checkpoints/step-00000005", "/etc", "..", "step-5/../.."])
def test_a_pointer_never_leads_out_of_the_run(name: str) -> None:
    make_run(paths.run_dir("other"), 5)
    run = make_run(paths.run_dir("a"), 5)
    (run / "best.json").write_text(json.dumps({"checkpoint": name}))
    with pytest.raises(CheckpointError, match=r"best\.json is damaged"):
        paths.find_checkpoint("a")


def test_a_pointer_to_a_half_deleted_checkpoint_is_not_followed() -> None:
    run = make_run(paths.run_dir("a"), 5, 10, best=5)
    (paths.checkpoint_dir(run, 5) / "state.json").unlink()
    assert paths.find_checkpoint("a")[1] == paths.checkpoint_dir(run, 10)


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", "3", '"x"', '{"checkpoint": 3}', "[" * 100_000])
def test_a_damaged_pointer_is_reported(content: str) -> None:
    run = make_run(paths.run_dir("a"), 5)
    (run / "best.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"best\.json is damaged"):
        paths.find_checkpoint("a")


def test_the_newest_checkpoint_is_not_looked_for_in_a_run_that_has_none_yet() -> None:
    make_run(paths.run_dir("done"), 3, changed=1.0)
    make_run(paths.run_dir("just-begun"), changed=2.0)
    assert paths.find_checkpoint()[0].name == "done"
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        paths.find_checkpoint("just-begun")
