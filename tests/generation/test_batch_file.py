"""Prompts from a file: each as it would be alone, once, whatever was stopped in between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gptscratch.cli.app import app
from gptscratch.config import SampleConfig
from gptscratch.errors import ConfigError
from gptscratch.generation.batch_file import complete_file
from gptscratch.generation.generator import load

PROMPTS = ["the fox", "a", "my cat", "the dog s", "", "a"] * 4
CONFIG = SampleConfig(max_tokens=6, temperature=1.0, seed=3)


def lines(out: Path) -> list[dict[str, object]]:
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line]
    return sorted(found, key=lambda line: line["index"])


def test_every_prompt_gets_one_line_with_what_it_would_get_alone(tale: Path, tmp_path: Path) -> None:
    gpt = load(tale, device="cpu")
    assert list(complete_file(gpt, PROMPTS, CONFIG, tmp_path / "out.jsonl")) == [0, 16, 24]
    found = lines(tmp_path / "out.jsonl")
    assert [line["prompt"] for line in found] == PROMPTS
    for number in (0, 1, 4, 23):
        (alone,) = gpt.complete([PROMPTS[number]], CONFIG, sample_ids=[number])
        assert found[number]["text"] == alone.text


def test_a_stopped_run_goes_on_to_the_same_lines(tale: Path, tmp_path: Path) -> None:
    gpt = load(tale, device="cpu")
    straight, stopped = tmp_path / "straight.jsonl", tmp_path / "stopped.jsonl"
    list(complete_file(gpt, PROMPTS, CONFIG, straight))
    stopped.write_bytes(straight.read_bytes()[: straight.stat().st_size // 2])  # in the middle of a line
    assert next(complete_file(gpt, PROMPTS, CONFIG, stopped)) > 0
    list(complete_file(gpt, PROMPTS, CONFIG, stopped))
    assert lines(stopped) == lines(straight)


def test_results_of_other_prompts_are_not_continued(tale: Path, tmp_path: Path) -> None:
    gpt, out = load(tale, device="cpu"), tmp_path / "out.jsonl"
    list(complete_file(gpt, ["a"], CONFIG, out))
    for other in (["the"], []):
        with pytest.raises(ConfigError, match="something else"):
            list(complete_file(gpt, other, CONFIG, out))


def test_the_command_takes_a_file_of_prompts(tale: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes("the fox\r\na\u2028dog\n\na".encode())
    fixed = ("sample", tale.name, "--max-tokens", "4", "--prompts", str(tmp_path / "prompts.txt"))
    done = CliRunner().invoke(app, (*fixed, "--out", str(tmp_path / "out.jsonl")))
    assert done.exit_code == 0
    assert [line["prompt"] for line in lines(tmp_path / "out.jsonl")] == [
        "the fox",
        "a\u2028dog",
        "",
        "a",
    ]
    assert "need each other" in str(CliRunner().invoke(app, fixed).exception)
