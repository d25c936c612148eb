"""The trace of a sample: its tokens are the sample's, and their log-probabilities the model's own."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gptscratch.cli import render_sample
from gptscratch.cli.app import app
from gptscratch.config import SampleConfig
from gptscratch.generation.batch_file import complete_file
from gptscratch.generation.generator import Generator, load
from gptscratch.generation.logprobs import GeneratedToken
from gptscratch.generation.scoring import token_nats

Reciter = Callable[..., Generator]
WILD = SampleConfig(
    max_tokens=12,
    temperature=1.7,
    top_k=20,
    seed=4,
    repetition_penalty=1.3,
    frequency_penalty=0.5,
    no_repeat_ngram=3,
)


def text_of(tokens: Sequence[GeneratedToken]) -> str:
    return "".join(token.text for token in tokens)


def test_the_log_probabilities_are_the_models_own_whatever_changes_the_draw(tale: Path) -> None:
    gpt = load(tale, device="cpu")
    prompt = gpt.prompt_ids("the")
    tokens = list(gpt.tokens("the", WILD, n_best=3))
    assert text_of(tokens) == gpt.generate("the", **vars(WILD))
    ids = [*prompt, *(token.id for token in tokens)]
    wanted = token_nats(gpt, [ids], stride=1)[len(prompt) - 1 :]
    assert [-token.logprob for token in tokens] == pytest.approx(wanted, abs=1e-4)
    assert tokens[0].bits == pytest.approx(wanted[0] / math.log(2), abs=1e-4)


def test_the_best_are_the_most_likely_in_their_order(tale: Path) -> None:
    gpt = load(tale, device="cpu")
    (token,) = gpt.tokens("the", SampleConfig(max_tokens=1, seed=0), n_best=3)
    with torch.inference_mode():
        logprobs = gpt.model(torch.tensor([gpt.prompt_ids("the")]))[0, -1].log_softmax(-1)
    assert [c.id for c in token.best] == logprobs.topk(3).indices.tolist()
    assert [c.logprob for c in token.best] == pytest.approx(logprobs.topk(3).values.tolist(), abs=1e-4)
    assert [c.token for c in token.best] == [gpt.tokenizer.token_text(c.id) for c in token.best]
    (token,) = gpt.tokens("the", SampleConfig(max_tokens=1, seed=0), n_best=10_000)
    assert len(token.best) == gpt.tokenizer.vocab_size


def test_several_rows_are_traced_as_each_alone(tale: Path) -> None:
    gpt = load(tale, device="cpu")
    prompts = ["the fox", "a", "my cat s"]
    config = dataclasses.replace(WILD, max_tokens=8)  # within the context: past it, pads count
    rows = [row.tokens for row in gpt.complete(prompts, config, n_best=2)]
    assert [text_of(row) for row in rows] == [row.text for row in gpt.complete(prompts, config)]
    alone = next(gpt.complete(prompts[1:2], config, n_best=2, sample_ids=[1])).tokens
    assert [(t.id, t.text) for t in rows[1]] == [(t.id, t.text) for t in alone]
    assert [t.logprob for t in rows[1]] == pytest.approx([t.logprob for t in alone], abs=1e-4)


@pytest.mark.parametrize("max_tokens", range(1, 12))
@pytest.mark.parametrize("stop", [(), ("ç漢",), ("b",), ("漢a", "zz")])
def test_the_texts_joined_are_the_sample_also_where_it_is_cut(
    reciter: Reciter, max_tokens: int, stop: tuple[str, ...]
) -> None:
    gpt = reciter("a🦊bç漢")
    config = SampleConfig(max_tokens=max_tokens, temperature=0, stop=stop)
    tokens = list(gpt.tokens("a", config))
    assert text_of(tokens) == "".join(gpt.stream("a", config))
    assert not tokens or tokens[-1].text
    spelled = bytes(token.id for token in tokens)  # of this tokenizer the ids are the bytes
    assert spelled.decode() == text_of(tokens)


def test_a_token_that_is_not_a_character_shows_its_bytes(reciter: Reciter) -> None:
    gpt = reciter("a🦊b", then_end=True)
    tokens = list(gpt.tokens("a", SampleConfig(max_tokens=9, temperature=0), n_best=1))
    assert [token.token for token in tokens] == ["\\xf0", "\\x9f", "\\xa6", "\\x8a", "b"]
    assert [token.text for token in tokens] == ["", "", "", "🦊", "b"]
    assert gpt.tokenizer.token_text(gpt.end_of_text or 0) == "<|endoftext|>"


def test_tokens_of_one_character_are_one_text_with_all_their_bits() -> None:
    logprobs = {"a": -1.0, "": -2.0, "ç": -0.5}
    tokens = [GeneratedToken(0, text=text, logprob=value) for text, value in logprobs.items()]
    found = dict(render_sample.characters(tokens))
    assert found == {"a": pytest.approx(1 / math.log(2)), "ç": pytest.approx(2.5 / math.log(2))}


def test_results_of_a_file_of_prompts_hold_tokens_by_choice(tale: Path, tmp_path: Path) -> None:
    gpt = load(tale, device="cpu")
    list(complete_file(gpt, ["the fox", "a"], WILD, tmp_path / "out.jsonl", n_best=1))
    for line in map(json.loads, (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()):
        assert "".join(token["text"] for token in line["tokens"]) == line["text"]
        assert all(len(token["best"]) == 1 for token in line["tokens"])


def test_the_command_gives_the_most_likely_in_json(tale: Path) -> None:
    fixed = ("sample", tale.name, "-p", "the", "--seed", "1", "--max-tokens", "5")
    said = json.loads(CliRunner().invoke(app, (*fixed, "-n", "2", "--json", "--logprobs", "2")).stdout)
    assert ["".join(token["text"] for token in row) for row in said["tokens"]] == said["samples"]
    assert all(set(token) == {"id", "token", "text", "logprob", "best"} for token in said["tokens"][0])
    assert [len(token["best"]) for token in said["tokens"][1]] == [2] * 5
    assert "--logprobs: no effect" in CliRunner().invoke(app, (*fixed, "--logprobs", "2")).stderr
    assert "at least 0" in str(CliRunner().invoke(app, (*fixed, "--logprobs", "-1")).exception)


@pytest.mark.parametrize("more", [(), ("-n", "2"), ("--no-stream",)])
def test_colors_change_no_text_and_show_on_a_terminal_alone(
    tale: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    fixed = ("sample", tale.name, "-p", "the", "--seed", "1", "--max-tokens", "9", "-t", "2", *more)
    plain = CliRunner().invoke(app, fixed)
    piped = CliRunner().invoke(app, (*fixed, "--color"))
    assert piped.stdout == plain.stdout
    assert "no effect" in piped.stderr
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    shown = CliRunner().invoke(app, (*fixed, "--color")).stdout
    assert "\x1b[30;48;2;255;" in shown
    assert re.sub(r"\x1b\[[\d;]*m", "", shown) == plain.stdout
    assert all("\x1b[0m" in line.rpartition("\x1b[30")[2] for line in shown.splitlines() if "\x1b[30" in line)
    monkeypatch.setenv("NO_COLOR", "1")
    assert CliRunner().invoke(app, (*fixed, "--color")).stdout == plain.stdout
