"""``gptscratch info``: runs, presets, token files."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptscratch.cli import console

Command = Callable[..., Any]


def test_without_runs_info_says_how_to_make_one(gptscratch: Command) -> None:
    ended = gptscratch("info")
    assert ended.code == 0
    assert "gptscratch train" in ended.err


def test_info_lists_the_runs(gptscratch: Command, tale: Path) -> None:
    (run,) = json.loads(gptscratch("info", "--json").out)
    assert run["name"] == tale.name
    assert run["step"] == 24
    assert tale.name in gptscratch("info").out


def test_info_of_a_run_shows_results_configuration_and_tree(gptscratch: Command, tale: Path) -> None:
    shown = gptscratch("info", tale.name).out
    for part in ("val loss", "checkpoints", "learning_rate", "token_embedding", "FLOPs"):
        assert part in shown
    described = json.loads(gptscratch("info", tale, "--json").out)
    assert described["model"]["config"]["d_model"] == 32
    assert described["checkpoints"][-1] == 24


def test_info_of_a_preset_counts_its_parameters(gptscratch: Command) -> None:
    described = json.loads(gptscratch("info", "gpt2", "--json").out)
    assert described["parameters"] == 124_439_808
    assert "124,439,808" in gptscratch("info", "gpt2").out


def test_info_of_token_files_counts_them(gptscratch: Command, corpus: Path, tmp_path: Path) -> None:
    gptscratch("tokenize", corpus, "--tokenizer", "char", "--out", tmp_path / "tokens")
    assert json.loads(gptscratch("info", tmp_path / "tokens", "--json").out)["tokenizer"] == "char"


def test_info_of_nothing_that_exists_is_exit_code_2(gptscratch: Command, tale: Path) -> None:
    ended = gptscratch("info", "unknown")
    assert ended.code == 2
    assert tale.name in ended.err  # the hint lists what there is
    assert gptscratch("info", "x" * 5000).code == 2


def test_a_run_comes_before_a_preset_of_the_same_name(gptscratch: Command, tale: Path) -> None:
    tale.rename(tale.with_name("small"))
    ended = gptscratch("info", "small")
    assert "val loss" in ended.out
    assert "gptscratch info --preset small" in ended.err
    assert "val loss" not in gptscratch("info", "--preset", "small").out


def test_a_misspelt_run_or_preset_gets_the_name_that_was_meant(gptscratch: Command, tale: Path) -> None:
    assert f"Did you mean {tale.name}?" in gptscratch("info", "tael").err
    assert "Did you mean gpt2?" in gptscratch("info", "gpt3").err


def test_a_list_of_runs_that_is_cut_says_how_many_more_there_are(gptscratch: Command, tale: Path) -> None:
    for number in range(10):
        shutil.copytree(tale, tale.with_name(f"copy-{number}"))
    assert "and 3 more" in gptscratch("info", "unknown").err


def test_json_holds_null_for_what_is_not_a_finite_number(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json(
        {"loss": math.nan, "rows": [(math.inf, 1.5)], "run": Path("a"), "done": True, "no": None}
    )
    values = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert values == {"loss": None, "rows": [[None, 1.5]], "run": "a", "done": True, "no": None}


ODD = (
    '{"step": "x", "val_loss": "y", "val_accuracy": []}',
    '{"val_loss": NaN, "step": 1e999}',
    "[]",
    "{",
    "[" * 99999,
)


@pytest.mark.parametrize("content", ODD)
@pytest.mark.parametrize("file", ["best.json", "plan.json", "checkpoints/step-00000024/state.json"])
def test_a_file_of_odd_values_takes_neither_the_list_nor_the_run_down(
    gptscratch: Command, tale: Path, file: str, content: str
) -> None:
    (tale / file).write_text(content)
    assert tale.name in gptscratch("info").out
    ended = gptscratch("info", "--json")
    assert json.loads(ended.out)[0]["step"] == 24
    assert gptscratch("info", tale, "--json").code in (0, 2)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not JSON": (lambda file: file.write_text("{"), "is damaged"),
    "gone": (lambda file: file.unlink(), "missing"),
    "newer": (lambda file: file.write_text('{"format": 99}'), "has format 99"),
}


@pytest.mark.parametrize("file", ["best.json", "last.json", "checkpoints/step-00000024/state.json"])
def test_a_damaged_file_of_a_run_is_named(gptscratch: Command, tale: Path, file: str) -> None:
    (tale / file).write_text("{")
    for ended in (gptscratch("info"), gptscratch("info", tale)):
        assert ended.code == 0
        assert "tale" in ended.out
        assert f"{Path(file).name} " in ended.err
        assert ended.err.count(str(tale)) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_listed_as_damaged(gptscratch: Command, tale: Path, damage: str) -> None:
    shutil.copytree(tale, tale.with_name("good"))
    make, message = DAMAGES[damage]
    make(tale / "config.json")
    ended = gptscratch("info")
    assert ended.code == 0
    assert "good" in ended.out
    assert "tale is damaged" in ended.err
    assert message in ended.err
    listed = {run["name"]: run for run in json.loads(gptscratch("info", "--json").out)}
    assert message in listed["tale"]["problem"]
    assert listed["good"]["problem"] is None
    ended = gptscratch("info", "tale")
    assert (ended.code, "format 99" in ended.err) == (2, damage == "newer")


def test_a_model_of_a_size_that_cannot_be_is_one_line_at_once(gptscratch: Command, tale: Path) -> None:
    config = json.loads((tale / "config.json").read_text())
    config["model"]["n_layer"] = 10**9
    (tale / "config.json").write_text(json.dumps(config))
    ended = gptscratch("info", "tale")
    assert ended.code == 2
    assert "n_layer is 1000000000" in ended.err
