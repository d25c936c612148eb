"""What all commands share: their help, their errors, their exit codes, and output that cannot be written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from gptscratch.cli import console
from gptscratch.cli.app import app
from gptscratch.config import DataConfig, ModelConfig, RunConfig, SampleConfig, TrainConfig
from gptscratch.config.setting import PANELS, settings_of

Command = Callable[..., Any]

COMMANDS = [command.name for command in app.registered_commands]


def in_a_shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line as a shell runs it; ``$gptscratch`` is the program."""
    program = f"{sys.executable} -m gptscratch"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("$gptscratch", program)],
        capture_output=True, text=True, check=False, timeout=60, env=os.environ | environment,
    )  # fmt: skip


def squeezed(text: str) -> str:
    """The help without its frame, its spaces and its line breaks."""
    return re.sub(r"[\s│╭╮╰╯─]+", "", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_each_help_text_at_80_columns(
    gptscratch: Command, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = squeezed(gptscratch(command, "--help").out)
    for option in typer.main.get_command(app).commands[command].params:  # type: ignore[attr-defined]
        if option.name != "help":
            assert squeezed(option.help.replace(r"\[", "[")) in shown, option.name
        for flag in option.opts if option.param_type_name == "option" else ():
            assert flag in shown


def test_every_command_has_examples_that_fit_on_a_line_of_80_columns() -> None:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert command.epilog.startswith("Examples:"), name
        assert all(len(line.strip()) <= 78 for line in command.epilog.splitlines()), name


@pytest.mark.parametrize("cls", [RunConfig, TrainConfig, ModelConfig, DataConfig])
def test_the_help_of_train_has_an_option_with_its_default_for_each_setting(
    gptscratch: Command, cls: type
) -> None:
    shown = squeezed(gptscratch("train", "--help").out)
    for each in settings_of(cls).values():
        for flag in each.flags:
            assert squeezed(flag.split("/")[0]) in shown
            assert squeezed(each.description) in shown


def test_brackets_in_a_help_text_are_not_taken_for_markup() -> None:
    assert console.plain("either [a] or b") == r"either \[a] or b"


def test_every_setting_has_a_help_text_that_is_a_phrase_and_a_known_panel() -> None:
    for cls in (RunConfig, TrainConfig, ModelConfig, DataConfig, SampleConfig):
        for name, each in settings_of(cls).items():
            assert len(each.help) > 9, name
            assert each.panel in ("", *PANELS), name


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["trian"], "There is no command 'trian'.", "Did you mean train?"),
        (["list"], "There is no command 'list'.", "gptscratch info"),
        (["generate"], "There is no command 'generate'.", "gptscratch sample"),
        (["train", "--layer", "3"], "There is no option --layer.", "Did you mean --layers?"),
        (["train", "--layers", "many"], "--layers is 'many': it must be a whole number.", ""),
        (["train", "--layers", "0"], "--layers is 0: it must be at least 1.", ""),
        (["train", "--layers"], "--layers", "--help"),
        (["score"], "FILE", "gptscratch score --help"),
        (["train", "--preset", "smal"], "--preset is 'smal'", "Did you mean small?"),
        (["train", "--set", "n_layr=1"], "There is no setting 'n_layr'.", "Did you mean n_layer?"),
        (["train", "--position", "rop"], "--position is 'rop'", "Did you mean rope?"),
        (["train", "--minutes", "0"], "--minutes is 0: it must be above 0.", ""),
        (["train", "--hours", "0"], "--hours is 0: it must be above 0.", ""),
        (["train", "--clean", "nope"], "--clean is 'nope': it must be one of html, ", ""),
        (["train", "--set", "adaptive_cutoffs=20,x"], "adaptive_cutoffs is 'x'", ""),
        (["sample", "--logprobs", "-1"], "--logprobs is -1: it must be at least 0.", ""),
        (["train", "--set", "=3"], "a name and a value are needed", "--set rope_theta=50000"),
    ],
)
def test_wrong_arguments_are_one_style_of_error_that_says_what_to_do(
    gptscratch: Command, arguments: list[str], message: str, hint: str
) -> None:
    ended = gptscratch(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert message in ended.err.splitlines()[0]
    assert hint in ended.err


def test_help_is_a_command_too(gptscratch: Command) -> None:
    assert gptscratch("help").out == gptscratch("--help").out
    assert gptscratch("help", "score").out == gptscratch("score", "--help").out


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_says_what_a_report_of_a_problem_needs(
    gptscratch: Command, home: Path, flag: str
) -> None:
    lines = gptscratch(flag).out.splitlines()
    assert lines[0].startswith("gptscratch ")
    assert [line.split()[0] for line in lines] == ["gptscratch", "Python", "home", "torch", "device"]
    assert str(home) in lines[2]


def test_the_shell_can_complete_commands_and_options() -> None:
    asked = {"_GPTSCRATCH_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert in_a_shell("$gptscratch", COMP_WORDS="gptscratch sc", **asked).stdout.split() == ["score"]
    asked["COMP_CWORD"] = "2"
    found = in_a_shell("$gptscratch", COMP_WORDS="gptscratch train --lay", **asked)
    assert found.stdout.split() == ["--layers"]


@pytest.mark.parametrize("arguments", [[], ["--resume"], ["--resume", "a"], ["a", "--resume"]])
def test_train_needs_no_arguments_and_resume_no_run(arguments: list[str]) -> None:
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    given = command.make_context("train", list(arguments)).params
    assert list(given["corpus"] or []) == ["a"] * ("a" in arguments)
    assert bool(given["resume"]) == ("--resume" in arguments)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("command", ["--help", "train --help", "info --json"])
def test_output_that_cannot_be_written_is_one_line_and_exit_code_1(command: str) -> None:
    ended = in_a_shell(f"$gptscratch {command} > /dev/full")
    assert ended.returncode == 1
    assert ended.stderr == "error: The output cannot be written: No space left on device.\n"


@pytest.mark.parametrize("command", ["--help", "train --help", "info --json"])
def test_a_reader_who_has_gone_ends_a_command_quietly(command: str) -> None:
    ended = in_a_shell(f"$gptscratch {command} | true")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_stderr_that_cannot_be_written_does_not_end_a_command(corpus: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("a device of Linux")
    fine, wrong = f"$gptscratch tokenize {corpus} --tokenizer char", "$gptscratch info nothing"
    ended = in_a_shell(f"{fine} 2> /dev/full && {wrong} 2> /dev/full")
    assert ended.returncode == 2
    assert "tokens" in ended.stdout


def test_a_terminal_without_a_character_gets_its_escape(tale: Path) -> None:
    ended = in_a_shell(f"$gptscratch sample {tale} -p 'Café' --max-tokens 2", PYTHONIOENCODING="ascii")
    assert ended.returncode == 0
    assert ended.stdout.startswith(r"Caf\xe9")
