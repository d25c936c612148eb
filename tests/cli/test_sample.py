"""``gptscratch sample``: where prompts come from, and readers who leave."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from gptscratch.cli import loading, render_sample
from gptscratch.cli.app import app
from gptscratch.config.presets import PRESETS
from gptscratch.training.trainer import TrainResult

Command = Callable[..., Result]


@pytest.fixture
def sample(tale: Path) -> Command:
    def run(*arguments: str, stdin: bytes = b"") -> Result:
        fixed = ("sample", tale.name, "--seed", "1", "--max-tokens", "12", *arguments)
        return CliRunner().invoke(app, fixed, input=stdin)

    return run


def in_a_shell(tale: Path, rest: str) -> subprocess.CompletedProcess[str]:
    command = f"'{sys.executable}' -m gptscratch sample {tale.name} --seed 1 {rest}"
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["--prompt", "the fox"], b""),
        (["--prompt", "-"], b"the fox\n"),
        (["--prompt-file", "-"], b"the fox\r\n"),
        ([], b"\xef\xbb\xbfthe fox"),
        (["--prompt-file", "FILE"], b"a dog"),
    ],
)
def test_a_prompt_comes_from_the_command_line_a_file_or_stdin(
    sample: Command, tmp_path: Path, arguments: list[str], stdin: bytes
) -> None:
    (tmp_path / "prompt.txt").write_text("the fox", encoding="utf-8")
    given = [str(tmp_path / "prompt.txt") if a == "FILE" else a for a in arguments]
    done = sample(*given, stdin=stdin)
    assert done.exit_code == 0
    assert done.stdout.startswith("the fox")
    assert done.stdout == sample("--prompt", "the fox").stdout


def test_a_reply_in_words_is_joined_to_its_prompt_wherever_it_is_shown(
    fit: Callable[..., TrainResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fit(name="words", tokenizer="word").run.name
    (tmp_path / "prompts.txt").write_text("the fox")

    def said(*more: str) -> str:
        fixed = ("sample", name, "-t", "0", "--max-tokens", "6", *more)
        return CliRunner().invoke(app, fixed).stdout

    text = said("-p", "the fox").removesuffix("\n")
    assert text.startswith("the fox ")
    assert said("-p", "the fox ", "--no-stream") == text + "\n"
    for more in ((), ("--logprobs", "1")):
        found = json.loads(said("-p", "the fox", "--json", *more))
        assert found["prompt"] + found["samples"][0] == text
    said("--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out.jsonl"))
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert line["prompt"] + line["text"] == text
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert re.sub(r"\x1b\[[\d;]*m", "", said("-p", "the fox", "--color")) == text + "\n"


def test_a_prompt_that_is_not_text_is_refused(sample: Command, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    for arguments, stdin in ((["--prompt-file", str(tmp_path / "bytes")], b""), ([], b"\xff")):
        assert "It must be UTF-8" in str(sample(*arguments, stdin=stdin).exception)
    assert "invalid in the terminal" in str(sample("--prompt", "a\udcf0\udc9f").exception)
    assert "both given" in str(sample("--prompt", "a", "--prompt-file", "b").exception)


def test_a_reader_who_leaves_is_not_an_error(tale: Path) -> None:
    done = in_a_shell(tale, "--max-tokens 3000 -p '\n\n' | head -1; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_a_closed_stdout_is_not_an_error(tale: Path) -> None:
    done = in_a_shell(tale, "--max-tokens 3 >&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_reported_in_one_line(tale: Path) -> None:
    done = in_a_shell(tale, "--max-tokens 3 > /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("error: The output cannot be written")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["float16", "int8", "int4"])
def test_quantized_weights_are_an_option(sample: Command, how: str) -> None:
    done = sample("--prompt", "the fox", "--quantize", how)
    assert done.exit_code == 0
    assert done.stdout.startswith("the fox")
    assert f"{how} weights make a model this small slower" in done.stderr


def test_an_unknown_quantization_is_refused(sample: Command) -> None:
    refused = sample("--prompt", "a", "--quantize", "int1")
    assert "--quantize is 'int1': it must be one of float16, int8, int4" in str(refused.exception)
    assert "slower" not in refused.stderr


def test_what_was_copied_from_the_corpus_is_reported_and_forbidden_by_choice(sample: Command) -> None:
    asked = ("--temperature", "0", "--max-tokens", "60", "--novelty", "--json", "--prompt", "the")
    free = json.loads(sample(*asked).stdout)
    assert free["copied"][0]["tokens"] > 8
    assert free["copied"][0]["text"] in free["samples"][0]
    kept = json.loads(sample(*asked, "--no-copy-ngram", "8").stdout)
    assert 0 < kept["copied"][0]["tokens"] < 8
    shown = sample("--novelty", "--prompt", "the")
    assert "are in the training tokens" in shown.stderr


def test_what_does_nothing_is_said_and_what_contradicts_is_refused(sample: Command) -> None:
    said = sample("--interactive", "--json", "-n", "2", "--prompt", "the fox")
    assert "--json, --num-samples: no effect with --interactive" in said.stderr
    assert said.stdout.startswith("the fox")
    for more in (["--prompts", "a", "--out", "b"], ["--prompt", "-"], ["--prompt-file", "-"]):
        assert sample("--interactive", *more).exit_code != 0


def test_what_cannot_be_read_or_written_is_named(sample: Command, tmp_path: Path) -> None:
    assert "none.txt does not exist" in str(sample("--prompt-file", str(tmp_path / "none.txt")).exception)
    (tmp_path / "prompts.txt").write_text("a")
    asked = ("--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "no" / "out.jsonl"))
    assert "no does not exist" in str(sample(*asked).exception)


def test_unknown_characters_of_a_prompt_are_reported(sample: Command) -> None:
    some = sample("--prompt", "the ☃ fox")
    assert "not in the training text and are left out of the prompt: '☃'" in some.stderr
    assert some.stdout.startswith("the ☃ fox")
    assert "Nothing of the prompt" in sample("--prompt", "☃⚡").stderr
    many = sample("--prompt", "the ZYXWVUTSRQPONM").stderr
    assert "'Q'" in many
    assert "and 4 more" in many


def test_where_to_sample_is_chosen_by_the_model_and_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = PRESETS["nano"], PRESETS["gpt2"]
    assert loading.sampling_device(small) == "cpu"
    assert loading.sampling_device(large) == "auto"
    for has_bfloat16, wanted in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda x=has_bfloat16, **_: x)
        assert loading.sampling_dtype(torch.device("cuda")) == wanted
        assert loading.sampling_dtype(torch.device("cpu")) == "float32"


def test_a_stop_text_may_be_a_line_end(sample: Command) -> None:
    asked = ("--prompt", "the fox", "--max-tokens", "60")
    (free, stopped) = (sample(*asked).stdout, sample(*asked, "--stop", r"\n").stdout)
    assert stopped == free.partition("\n")[0] + "\n"


def test_an_interrupted_stream_ends_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    def texts() -> Iterator[tuple[str, float]]:
        yield "b", 0.0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_sample.stream("a", texts(), colors=None)
    assert capsys.readouterr().out == "ab\n"


def test_score_counts_one_unknown_token_in_the_singular(tale: Path, tmp_path: Path) -> None:
    for unknown, notice in (("Q", "Left out: 1 token that"), ("QQ", "Left out: 2 tokens that")):
        (tmp_path / "text.txt").write_text(f"the fox runs home. {unknown}\n")
        done = CliRunner().invoke(app, ["score", str(tmp_path / "text.txt"), "--with", str(tale)])
        assert notice in done.stderr
