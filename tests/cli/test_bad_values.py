"""Bad values for every option of every command, made from the options themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from gptscratch.cli.app import app
from tests.cli.conftest import Ended

NUMBERS = {"N", "X", "K", "P"}
NOT_NUMBERS = ("nope", "", "nan", "9" * 400)
FREE_TEXTS = ("", "\udcff", "x" * 5000, "../../outside")
FREE_NAMES = {"--text-column", "--encoding"}  # of a column of the user's table, of Python's many encodings


def options() -> Iterator[tuple[str, str, str]]:
    """(command, option, metavar) of every option that takes a value."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*path, name))
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.is_flag:
                yield " ".join(path), parameter.opts[-1], parameter.metavar

    return walk(typer.main.get_command(app), ())


CASES = sorted(options())
Run = Callable[..., Ended]


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home, folder = tmp_path / "home", tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv("GPTSCRATCH_HOME", str(home))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):  # eval sets them, for this process
        monkeypatch.setenv(name, "1")
    monkeypatch.chdir(folder)
    return tmp_path


def is_one_message(ended: Ended) -> bool:
    """``error: ...``, and lines that are indented below it."""
    first, *more = ended.err.rstrip("\n").split("\n")
    return first.startswith("error: ") and all(line.startswith("       ") for line in more) and not ended.out


def arguments(command: str) -> list[str]:
    """The command with an argument that names nothing; a group of commands takes none."""
    return [*command.split(), *(["missing.txt"] if command not in ("runs", "cache") else [])]


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_every_numeric_option_refuses_what_is_not_a_number(
    gptscratch: Run, in_empty_folder: Path, value: str
) -> None:
    for command, option, metavar in CASES:
        if metavar in NUMBERS:
            ended = gptscratch(*arguments(command), f"{option}={value}")
            assert ended.code == 2, (command, option)
            assert is_one_message(ended), (command, option, ended)
            assert option in ended.err, (command, option, ended.err)
    assert not [path for path in in_empty_folder.rglob("*") if path.is_file()]


def test_every_option_with_choices_refuses_another_name(gptscratch: Run, in_empty_folder: Path) -> None:
    for command, option, metavar in CASES:
        if metavar in ("NAME", "MODE", "STEP") and option not in FREE_NAMES:
            ended = gptscratch(*arguments(command), f"{option}=nope")
            assert ended.code == 2, (command, option)
            assert is_one_message(ended), (command, option, ended)
            assert "nope" in ended.err or option in ended.err, (command, option, ended.err)
    assert not [path for path in in_empty_folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("value", FREE_TEXTS)
def test_no_text_or_path_as_the_value_of_an_option_ends_in_a_traceback(
    gptscratch: Run, in_empty_folder: Path, value: str
) -> None:
    for command, option, metavar in CASES:
        if metavar not in NUMBERS:
            ended = gptscratch(*arguments(command), f"{option}={value}")
            assert ended.code == 2, (command, option)
            assert is_one_message(ended), (command, option, ended)
    assert not [path for path in in_empty_folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("value", FREE_TEXTS)
def test_no_text_or_path_as_an_argument_ends_in_a_traceback(
    gptscratch: Run, in_empty_folder: Path, value: str
) -> None:
    for command in sorted({command for command, _, _ in CASES} - {"runs", "cache", ""}):
        ended = gptscratch(*command.split(), value, *([value] if command == "compare" else []))
        assert ended.code == 2, (command, ended)
        assert is_one_message(ended), (command, ended)
    assert not [path for path in in_empty_folder.rglob("*") if path.is_file()]
