"""One process at a time per run, names that two processes want, and errors that say what is saved."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gptscratch import paths
from gptscratch.config import DataConfig
from gptscratch.errors import CheckpointError, ConfigError, RunError, UserError
from gptscratch.runs.folder import LOCK, RunBusyError, held, is_unused, new_run
from gptscratch.runs.run import read_run, require_own_files
from gptscratch.runs.run_tokens import tokens_of_run
from gptscratch.runs.summary import summarize
from gptscratch.training.events import Event, Notice, Saved
from gptscratch.training.trainer import TrainResult, resume, train

Fit = Callable[..., TrainResult]


def contents(run: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != LOCK}


def test_a_run_that_is_being_trained_is_neither_resumed_nor_replaced(fit: Fit, tale: Path) -> None:
    before = contents(tale)
    with held(tale):
        for attempt in (
            lambda: resume("tale", steps=30),
            lambda: resume("tale", cooldown=True),
            lambda: fit(name="tale", replace_run=True),
        ):
            with pytest.raises(RunBusyError, match=f"tale is being trained by process {os.getpid()}"):
                attempt()
    assert contents(tale) == before
    assert resume("tale", steps=25).step == 25


def test_a_run_being_trained_that_has_no_checkpoint_yet_is_reported_as_busy(tale: Path) -> None:
    shutil.rmtree(tale / "checkpoints")
    with held(tale), pytest.raises(RunBusyError, match="being trained by process"):
        resume("tale")
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        resume("tale")


HOLD = """
import sys
from pathlib import Path
from gptscratch.runs.folder import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_process_that_was_killed_holds_no_lock(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(RunBusyError, match=f"process {child.pid}"), held(tmp_path):
            pass
        child.kill()
        child.wait()
    with held(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


def test_two_trainings_of_one_corpus_at_once_take_two_names(fit: Fit) -> None:
    with held(paths.run_dir("tale")):
        assert fit(steps=1).run.name == "tale-2"
    assert fit(steps=1).run.name == "tale"


def test_the_second_run_of_a_corpus_with_a_long_name_takes_a_name_that_fits(tale: Path) -> None:
    data = DataConfig(corpus=("x" * 120 + ".txt",))
    config = replace(read_run(tale).config, name=None, data=data)
    with new_run(config, None) as first, new_run(config, None) as second:
        assert (first.name, second.name) == ("x" * 100, "x" * 98 + "-2")


def test_a_checkpoint_may_be_deleted_while_a_run_is_looked_at(
    tale: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_folder = os.scandir
    gone = tmp_path / "gone"

    def scandir(folder: Any = ".") -> Any:
        if Path(os.fspath(folder)).name.startswith("step-") and not gone.exists():
            Path(folder).rename(gone)
        return list_folder(folder)

    for look in (require_own_files, summarize):
        with monkeypatch.context() as patch:
            patch.setattr("os.scandir", scandir)
            look(tale)
        gone.rename(tmp_path / look.__name__)


def test_a_name_that_a_killed_process_had_taken_is_free(fit: Fit) -> None:
    for name in ("tale", "b"):
        paths.run_dir(name).mkdir(parents=True)
        (paths.run_dir(name) / LOCK).write_text("77")
        (paths.run_dir(name) / ".config.json.77.tmp").touch()
    assert fit(steps=1).run.name == "tale"
    assert fit(steps=1, name="b").run.name == "b"
    assert not list(paths.runs_dir().rglob("*.tmp"))


def test_a_run_without_a_checkpoint_starts_again_under_its_name(fit: Fit) -> None:
    def die(event: Event) -> None:
        if isinstance(event, Saved):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(name="a", on_event=die)
    shutil.rmtree(paths.run_dir("a") / "checkpoints")
    events: list[Event] = []
    assert fit(name="a", steps=4, on_event=events.append).step == 4
    assert any(isinstance(e, Notice) and "had no checkpoint" in e.text for e in events)
    with pytest.raises(ConfigError, match="exists already"):
        fit(name="a", steps=4)


def test_a_training_that_fails_before_it_begins_leaves_no_folder(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "given"
    out.mkdir()
    for place in ({"name": "a"}, {}, {"out": out}, {"out": tmp_path / "new"}):
        with pytest.raises(UserError):
            train(tmp_path / "missing.txt", **place)
    assert not list((home / "runs").iterdir())
    assert not (tmp_path / "new").exists()
    assert list(out.iterdir()) == []


def test_no_file_is_made_in_a_folder_of_something_else(fit: Fit, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").touch()
    with pytest.raises(ConfigError, match="not a run"):
        fit(out=tmp_path, replace_run=True)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["precious.txt"]
    assert not is_unused(tmp_path)


def test_a_damaged_run_can_be_replaced(fit: Fit, tale: Path) -> None:
    (tale / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="exists already"):
        fit(name="tale", steps=1)
    assert fit(name="tale", steps=1, replace_run=True).step == 1


def test_a_folder_deleted_during_training_is_reported_as_it_is(fit: Fit, tmp_path: Path) -> None:
    def delete(event: Event) -> None:
        if isinstance(event, Saved) and event.step == 8:
            shutil.rmtree(tmp_path / "run")

    with pytest.raises(RunError, match="deleted or moved") as caught:
        fit(out=tmp_path / "run", on_event=delete)
    assert "intact" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def edited(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("change", [{"val_fraction": 0.3}, {"tokenizer": "byte"}])
def test_a_run_is_not_resumed_on_other_tokens(corpus: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    """A folder of token files that the user named may be written again with other settings."""
    from gptscratch.config import DataConfig
    from gptscratch.data.prepare import prepare

    def tokens(folder: str, **settings: Any) -> Path:
        config = DataConfig(corpus=(str(corpus),), **{"tokenizer": "char"} | settings)
        return prepare(config, out=tmp_path / folder).folder

    folder = tokens("tokens")
    run = train(folder, name="a", steps=2, n_layer=1, d_model=16, context_length=16, device="cpu").run
    shutil.rmtree(folder)
    tokens("other", **change).rename(folder)
    before = contents(run)
    with pytest.raises(UserError, match=r"(split|tokenizer).*changed since the run began"):
        resume("a", steps=4)
    assert contents(run) == before


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("{")])
def test_a_run_with_a_damaged_tokenizer_is_not_resumed(tale: Path, damage: Callable[[Path], Any]) -> None:
    damage(tale / "tokenizer.json")
    before = contents(tale)
    with pytest.raises(UserError, match="tokenizer") as refused:
        resume("tale", steps=30)
    assert "kind of tokenizer" not in str(refused.value)
    assert contents(tale) == before


def test_a_finished_run_is_not_evaluated_again(tale: Path) -> None:
    for settings in ({}, {"steps": 24}, {"steps": 2}):
        before, events = contents(tale), list[Event]()
        result = resume("tale", on_event=events.append, **settings)
        assert [type(e) for e in events] == [Notice]
        assert (
            "tale is finished at step 24. To train it further: gptscratch train --resume tale --steps N"
            in str(events[0])
        )
        assert contents(tale) == before
        assert (result.step, result.interrupted) == (24, False)
        assert result.evaluation is not None
        best = json.loads((tale / "best.json").read_text())
        assert (result.evaluation.step, result.evaluation.val_loss) == (best["step"], best["val_loss"])


def test_a_run_whose_final_evaluation_is_missing_gets_it_once(tale: Path) -> None:
    lines = (tale / "metrics.jsonl").read_text().splitlines()
    edited(tale / "last.json", finished=False)
    for _ in range(3):
        resume("tale")
    assert len((tale / "metrics.jsonl").read_text().splitlines()) == len(lines)


@pytest.mark.usefixtures("tale")
def test_a_setting_of_0_is_refused_by_a_resume() -> None:
    with pytest.raises(ConfigError, match="eval_interval is 0"):
        resume("tale", steps=30, eval_interval=0)


@pytest.mark.parametrize("damage", ["manifest.json", "train.bin", "tokenizer.json"])
def test_damaged_token_files_of_a_run_are_made_again(tale: Path, damage: str) -> None:
    record = read_run(tale)
    (Path(record.tokens) / damage).write_bytes(b"{")
    found = tokens_of_run(tale, record)
    assert found.manifest.corpus_hash == record.corpus_hash
    assert len(found.tokens.train) == found.manifest.train.tokens
