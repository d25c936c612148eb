"""Scores: equal to plain arithmetic, with context for every token, and comparable over tokenizers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gptscratch.checkpoint import load
from gptscratch.cli.app import app
from gptscratch.errors import ConfigError
from gptscratch.generation import TrainedGPT
from gptscratch.score import score, surprises, token_nats

TEXT = "the fox runs home.\na dog sings far.\n" * 3


def naive(gpt: TrainedGPT, ids: list[int], stride: int) -> list[float]:
    """Window after window, one token at a time."""
    context, found = gpt.model.config.context_length, []
    for target in range(1, len(ids)):
        extra = max(0, target - context)
        start = min(-(-extra // stride) * stride, max(0, len(ids) - 1 - context))
        logits = gpt.model(torch.tensor([ids[start:target]]))[0, -1]
        found.append(-logits.log_softmax(-1)[ids[target]].item())
    return found


@pytest.mark.parametrize("stride", [1, 5, 8, 16])
def test_every_token_is_scored_once_with_its_context(tale: Path, stride: int) -> None:
    gpt = load(tale, device="cpu")
    for length in (1, 2, 15, 16, 17, 18, 40, 65):
        ids = gpt.tokenizer.encode(TEXT)[: length + 1]
        with torch.inference_mode():
            wanted = naive(gpt, ids, stride)
        assert token_nats(gpt, ids, stride) == pytest.approx(wanted, abs=1e-4)


def test_the_numbers_are_those_of_the_definition(tale: Path) -> None:
    found = score(load(tale, device="cpu"), TEXT)
    assert (found.tokens, found.bytes, found.unknown) == (len(TEXT), len(TEXT), 0)
    assert found.perplexity == pytest.approx(math.exp(found.nats_per_token))
    assert found.bits_per_byte == pytest.approx(found.nats_per_token / math.log(2))  # a byte a token here
    assert found.bits_per_byte < score(load(tale, device="cpu"), TEXT[::-1]).bits_per_byte


def test_what_the_model_never_saw_is_left_out_with_its_bytes(tale: Path) -> None:
    gpt = load(tale, device="cpu")
    known, mixed = score(gpt, TEXT), score(gpt, TEXT.replace("\n", "☃\n"))
    assert (mixed.unknown, mixed.bytes, mixed.bits_per_byte) == (6, known.bytes, known.bits_per_byte)
    with pytest.raises(ConfigError, match="nothing to score"):
        score(gpt, "☃")
    with pytest.raises(ConfigError, match="stride"):
        score(gpt, TEXT, stride=17)


def test_surprise_comes_in_whole_characters(reciter: Callable[..., TrainedGPT]) -> None:
    gpt = reciter("a🦊bç漢")
    found = score(gpt, "a🦊bç漢a")
    pieces = list(surprises(gpt, found))
    assert [piece for piece, _ in pieces] == list("a🦊bç漢a")
    assert sum(bits for _, bits in pieces) == pytest.approx(sum(found.bits))


def test_the_command_prints_lines_json_or_colors(
    tale: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    run = ("score", str(tmp_path / "text.txt"), "--with", tale.name)
    assert "bits a byte" in CliRunner().invoke(app, run).stdout
    values = json.loads(CliRunner().invoke(app, (*run, "--json")).stdout)
    assert values["bits_per_byte"] == pytest.approx(score(load(tale), TEXT).bits_per_byte, abs=1e-5)
    plain = CliRunner().invoke(app, (*run, "--color"))
    assert "no effect" in plain.stderr
    assert plain.stdout.startswith(TEXT)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in CliRunner().invoke(app, (*run, "--color")).stdout
    assert CliRunner().invoke(app, ("score", "-", "--with", tale.name), input=TEXT).exit_code == 0


@pytest.mark.parametrize("quantize", [None, "float16"])
def test_a_run_with_dropout_is_scored_and_sampled_without_it(fit: Callable, quantize: str | None) -> None:
    run = fit(dropout=0.5, name="dropped").run
    plain = score(load(run, device="cpu"), TEXT).bits_per_byte
    ready = load(run, device="cpu").for_sampling(quantize=quantize)
    for _ in range(2):
        assert score(ready, TEXT).bits_per_byte == pytest.approx(plain, rel=1e-3 if quantize else 1e-6)
    assert ready.generate("the", temperature=0) == load(run, device="cpu").generate("the", temperature=0)
