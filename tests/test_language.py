"""The project's texts use the words of tests/language.txt."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

CHECKER = Path(__file__).with_name("check_language.py")
checker = runpy.run_path(str(CHECKER))


def phrases(text: str) -> list[str]:
    return [finding.phrase for finding in checker["findings"](text)]


def test_code_and_documents_are_written_in_plain_english() -> None:
    done = subprocess.run(
        [sys.executable, "tests/check_language.py"],
        cwd=CHECKER.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("This is no run.", "is no"),
        ("def test_a_run_goes_on():", "goes on"),
        ('print("Press Enter to go "\n      "on.")', "go on"),
        ("# the run stands\n# behind it", "stands"),
        ("Beside it: nats a token.", "nats a token"),
        ("Of the run.", "Of"),
        ("the default of the schedule is a colour", "colour"),
    ],
)
def test_a_phrase_is_found_in_prose_names_and_across_lines(text: str, phrase: str) -> None:
    assert phrase in phrases(text)


@pytest.mark.parametrize(
    "text",
    [
        "There is no run.",
        "is no longer",
        "a standard to understand",
        "move on to the next",
        "Bend\u00e9r",
        "off",
    ],
)
def test_ordinary_english_is_not_reported(text: str) -> None:
    assert phrases(text) == []


def test_a_finding_has_its_line() -> None:
    assert [finding.line for finding in checker["findings"]("one\ntwo\nit goes\non")] == [3]


def test_output_of_programs_is_not_checked() -> None:
    assert phrases("```text\nIt stands behind.\n```\n") == []


def test_every_rule_has_advice_and_a_valid_pattern() -> None:
    rules, _ = checker["rules"]()
    lines = [
        line for line in checker["RULES"].read_text(encoding="utf-8").splitlines() if line and line[0] != "#"
    ]
    assert len(rules) == len(lines)
    assert all(rule.advice for rule in rules)
