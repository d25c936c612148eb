"""``gptscratch train``: a run from start to end, its plan, its resume; wrong input in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

SMALL = (
    "--layers", 1, "--d-model", 32, "--heads", 2, "--context-length", 16, "--batch-size", 8,
    "--tokenizer", "char", "--device", "cpu", "--dtype", "float32",
)  # fmt: skip


def test_train_prints_the_plan_evaluations_and_where_the_run_is(gptscratch: Command, corpus: Path) -> None:
    ended = gptscratch("train", corpus, *SMALL, "--steps", 20)
    assert ended.code == 0
    for shown in ("corpus", "tokenizer", "model", "val loss"):
        assert shown in ended.err
    assert "validation loss" in ended.out
    assert "gptscratch sample tale" in ended.out


def test_train_reports_its_result_as_json(gptscratch: Command, corpus: Path) -> None:
    ended = gptscratch("train", corpus, *SMALL, "--steps", 20, "--json")
    result = json.loads(ended.out)
    assert ended.err == ""
    assert result["step"] == 20
    assert 0 < result["val_loss"] < 4
    assert Path(result["folder"], "config.json").is_file()


def test_quiet_prints_nothing(gptscratch: Command, corpus: Path) -> None:
    ended = gptscratch("train", corpus, *SMALL, "--steps", 4, "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_dry_run_prints_the_plan_and_makes_no_run(gptscratch: Command, corpus: Path, home: Path) -> None:
    ended = gptscratch("train", corpus, "--minutes", 3, "--dry-run")
    assert "epochs" in ended.out
    assert "of memory" in ended.out
    assert not (home / "runs").exists()


def test_the_plan_says_how_a_step_is_made_and_where(gptscratch: Command, corpus: Path) -> None:
    shown = gptscratch("train", corpus, *SMALL, "--steps", 1, "--micro-batch-size", 4, "--dry-run").out
    assert "1 layer, d_model 32, 2 heads" in shown
    assert "1 step of 128 tokens (8 x 16, 4 x 16 at once)" in shown
    assert "on cpu in float32" in shown


def test_the_plan_says_that_each_sequence_is_computed_twice(gptscratch: Command, corpus: Path) -> None:
    options = (*SMALL, "--steps", 2, "--dry-run", "--dropout", 0.1)
    assert "R-Drop" in gptscratch("train", corpus, *options, "--r-drop", 1).out
    assert "R-Drop" not in gptscratch("train", corpus, *options, "--r-drop", 0).out


def test_hours_are_sixty_minutes(gptscratch: Command, corpus: Path) -> None:
    plan = json.loads(gptscratch("train", corpus, *SMALL, "--hours", 0.5, "--dry-run", "--json").out)
    assert plan["config"]["train"]["minutes"] == 30.0


def test_the_plan_is_kept_with_the_run_and_shown(gptscratch: Command, corpus: Path) -> None:
    gptscratch("train", corpus, *SMALL, "--steps", 20, "--name", "a")
    plan = json.loads(gptscratch("info", "a", "--json").out)["plan"]
    assert (plan["steps"], plan["tokens"]) == (20, 20 * 8 * 16)
    assert "planned     20 steps" in gptscratch("info", "a").out


def test_dry_run_as_json_holds_the_whole_configuration(gptscratch: Command, corpus: Path) -> None:
    plan = json.loads(gptscratch("train", corpus, *SMALL, "--epochs", 1.5, "--dry-run", "--json").out)
    assert plan["config"]["model"]["d_model"] == 32
    assert plan["epochs"] == pytest.approx(1.5, abs=0.05)
    assert plan["steps"] * 8 * 16 == plan["tokens"]


def test_resume_alone_continues_the_newest_run(gptscratch: Command, corpus: Path) -> None:
    gptscratch("train", corpus, *SMALL, "--steps", 10, "--name", "a")
    ended = gptscratch("train", "--resume", "--steps", 16, "--json")
    assert json.loads(ended.out)["step"] == 16
    assert json.loads(ended.out)["run"] == "a"


def test_a_setting_can_come_from_a_file_an_option_or_set(
    gptscratch: Command, corpus: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"model": {"n_layer": 2, "d_model": 64}, "train": {"seed": 5}}))
    more = ("--config", file, "--layers", 3, "--set", "rope_theta=500", "--steps", 5)
    plan = json.loads(gptscratch("train", corpus, *more, "--dry-run", "--json").out)
    model = plan["config"]["model"]
    assert (model["n_layer"], model["d_model"], model["rope_theta"]) == (3, 64, 500)
    assert plan["config"]["train"]["seed"] == 5


def test_a_preset_gives_the_shape_and_options_change_it(gptscratch: Command, corpus: Path) -> None:
    options = ("--preset", "gpt2", "--layers", 1, "--d-model", 24, "--steps", 3)
    plan = json.loads(gptscratch("train", corpus, *options, "--dry-run", "--json").out)
    model = plan["config"]["model"]
    assert (model["position"], model["n_layer"], model["n_head"]) == ("learned", 1, 12)


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A folder of inputs that cannot be trained on."""
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "latin.txt").write_bytes("Grüße aus Köln, schöne Straße. ".encode("latin-1") * 50)
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "rows.csv").write_text("title,body\na,b\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.txt"], "missing.txt"),
        (["empty.txt"], "empty"),
        (["latin.txt"], "offset 2"),
        (["binary.bin"], "binary"),
        (["rows.csv", "--text-column", "review"], "title"),
        (["CORPUS", "--tokenizer", "chars"], "char"),
        (["CORPUS", "--tokenizer", "bpe", "--vocab-size", "100"], "257"),
        (["CORPUS", "--heads", "3", "--d-model", "32"], "does not divide"),
        (["CORPUS", "--position", "round"], "rope"),
        (["CORPUS", "--preset", "huge"], "gpt2-xl"),
        (["CORPUS", "--steps", "5", "--minutes", "1"], "training length"),
        (["CORPUS", "--hours", "1", "--minutes", "1"], "--hours"),
        (["CORPUS", "--hours", "-1"], "--hours is -1"),
        (["CORPUS", "--set", "n_layers=3"], "n_layer"),
        (["CORPUS", "--set", "n_layer"], "a name and a value"),
        (["CORPUS", "--config", "missing.json"], "does not exist"),
        (["CORPUS", "--dropout", "1.5"], "dropout"),
        (["CORPUS", "--init-from", "unknown"], "unknown"),
        (["--resume", "unknown"], "unknown"),
        (["CORPUS", "--resume", "x"], "--resume"),
        (["CORPUS", "--name", "../x"], "cannot be the name"),
    ],
)
def test_wrong_input_is_one_clear_line_and_exit_code_2(
    gptscratch: Command,
    wrong: Path,
    corpus: Path,
    home: Path,
    arguments: list[str],
    message: str,
) -> None:
    given = [corpus if a == "CORPUS" else wrong / a if (wrong / a).is_file() else a for a in arguments]
    ended = gptscratch("train", *given)
    assert ended.code == 2
    assert ended.out == ""
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert not list(home.glob("runs/*"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--out", "x"], "--out"),
        (["--dry-run"], "--dry-run"),
        (["--force", "--name", "b"], "--name and --force"),
        (["--preset", "gpt2"], "--preset"),
    ],
)
def test_what_a_resumed_run_cannot_take_is_named(
    gptscratch: Command, corpus: Path, tale: Path, arguments: list[str], named: str
) -> None:
    given = [corpus if argument == "CORPUS" else argument for argument in arguments]
    ended = gptscratch("train", *given, "--resume", tale)
    assert (ended.code, ended.out) == (2, "")
    assert f"it cannot be combined with {named}." in ended.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"model": ' * 5000, "nested too deep"),
        ('{"dropout": 1' + "0" * 400 + "}", "dropout has 401 digits"),
        ('{"n_layer": 1' + "0" * 400 + "}", "n_layer has 401 digits"),
        ('{"n_layer": 1' + "0" * 5000 + "}", "cannot be read as JSON"),
        ('{"data": {"vocab_size": 300000001}}', "vocab_size is 300000001: it must be at most"),
        ('{"n_layer": "' + "x" * 10_000 + '"}', "it must be a whole number"),
    ],
)
def test_a_settings_file_that_makes_no_sense_is_one_short_error(
    gptscratch: Command, corpus: Path, tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "settings.json"
    file.write_text(content)
    ended = gptscratch("train", corpus, "--config", file)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert len(ended.err) < 500


def test_a_taken_name_is_refused_before_any_work(gptscratch: Command, corpus: Path) -> None:
    gptscratch("train", corpus, *SMALL, "--steps", 3, "--name", "a")
    ended = gptscratch("train", corpus, *SMALL, "--steps", 3, "--name", "a")
    assert ended.code == 2
    assert "--force" in ended.err
    assert gptscratch("train", corpus, *SMALL, "--steps", 4, "--name", "a", "--force").code == 0


def test_a_corpus_shorter_than_the_context_shortens_it_with_a_notice(
    gptscratch: Command, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("to be or not to be, that is the question. " * 6)
    options = ("--layers", 1, "--d-model", 32, "--context-length", 64, "--steps", 3)
    ended = gptscratch("train", tmp_path / "short.txt", *options)
    assert ended.code == 0
    assert "The context length is" in ended.err


def test_a_runs_own_config_file_starts_another_run_of_its_shape(
    gptscratch: Command, corpus: Path, tale: Path
) -> None:
    more = ("--config", tale / "config.json", "--epochs", 1, "--dry-run", "--json")
    plan = json.loads(gptscratch("train", corpus, *more).out)
    assert plan["config"]["model"]["d_model"] == 32
    assert plan["epochs"] == pytest.approx(1, abs=0.05)


def test_a_runs_config_file_may_be_combined_with_init_from(
    gptscratch: Command, tale: Path, corpus: Path
) -> None:
    more = ("--config", tale / "config.json", "--init-from", tale, "--name", "tuned", "--steps", 9)
    plan = json.loads(gptscratch("train", corpus, *more, "--dry-run", "--json").out)
    assert plan["config"]["data"]["tokenizer"] == str(tale / "tokenizer.json")
    assert plan["config"]["model"]["d_model"] == 32
    ended = gptscratch("train", corpus, *more, "--tokenizer", "char", "--dry-run")
    assert "Leave --tokenizer out" in ended.err


def test_for_another_corpus_a_runs_config_file_keeps_what_was_given_to_it(
    gptscratch: Command, corpus: Path, tmp_path: Path
) -> None:
    shape = ("--layers", 1, "--d-model", 32, "--steps", 60, "--batch-size", 4, "--context-length", 16)
    run = json.loads(gptscratch("train", corpus, *shape, "--json").out)
    other = tmp_path / "other.txt"
    other.write_text(corpus.read_text() * 20)
    more = ("--config", Path(run["folder"], "config.json"), "--learning-rate", 0.5, "--dry-run")
    same, another = (json.loads(gptscratch("train", c, *more, "--json").out) for c in (corpus, other))
    for plan in (same, another):
        model, train = plan["config"]["model"], plan["config"]["train"]
        assert (model["n_layer"], train["steps"], train["batch_size"], train["learning_rate"]) == (
            1,
            60,
            4,
            0.5,
        )
    before = json.loads(Path(run["folder"], "config.json").read_text())["train"]["final_eval_tokens"]
    assert same["config"]["train"]["final_eval_tokens"] == before
    assert another["config"]["train"]["final_eval_tokens"] > 10 * before
    assert "kept from it" not in gptscratch("train", corpus, *more).err
    said = gptscratch("train", other, *more).err
    assert all(f"{flag}," in said for flag in ("--layers 1", "--d-model 32", "--steps 60"))


def test_two_plans_of_the_same_steps_are_equal(gptscratch: Command, corpus: Path) -> None:
    first, second = (
        json.loads(gptscratch("train", corpus, "--steps", 300, "--dry-run", "--json").out) for _ in range(2)
    )
    assert first["config"] == second["config"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "tales.jsonl"
    lines = [json.dumps({"text": f"the fox ran {i} times." * (1 + i % 3)}) for i in range(60)]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("flag", "mode", "shown"),
    [
        (None, "packed", "one after the other, with an end-of-text token between them"),
        ("masked", "masked", "none attends to another"),
        ("padded", "padded", "one per sequence, "),
    ],
)
def test_how_documents_are_rowed_is_in_the_plan_the_run_and_info(
    gptscratch: Command, table: Path, home: Path, flag: str | None, mode: str, shown: str
) -> None:
    more = (
        *SMALL,
        "--context-length",
        80,
        "--steps",
        2,
        "--name",
        "a",
        *(["--documents", flag] if flag else []),
    )
    assert shown in gptscratch("train", table, *more).err
    config = json.loads((home / "runs" / "a" / "config.json").read_text(encoding="utf-8"))
    assert config["train"]["documents"] == mode
    assert f"documents={mode}" in gptscratch("info", "a").out


def test_padding_needs_documents(gptscratch: Command, corpus: Path) -> None:
    alone = gptscratch("train", corpus, *SMALL, "--documents", "padded")
    assert (alone.code, alone.out) == (2, "")
    assert "a single document" in alone.err


def test_only_one_run_can_be_resumed_at_a_time(gptscratch: Command, tale: Path) -> None:
    ended = gptscratch("train", "--resume", tale, "other")
    assert ended.code == 2
    assert "2 are named" in ended.err
