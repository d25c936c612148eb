"""One text from every way to sample and one score, for a run with all that could make them differ.

It has dropout, grouped-query attention, tied weights and a word tokenizer. The oracle is the plain model.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gptscratch import load, train
from gptscratch.cli.app import app

Said = Callable[..., str]
SHAPE = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "context_length": 16}
PROMPT = "the fox"
N_TOKENS = 14


@pytest.fixture(scope="module")
def _trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("dropout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTSCRATCH_HOME", str(home))
        train(
            corpus,
            name="dropout",
            tokenizer="word",
            tie_embeddings=True,
            dropout=0.2,
            steps=20,
            batch_size=8,
            eval_interval=20,
            save_interval=20,
            sample_interval=0,
            device="cpu",
            **SHAPE,  # type: ignore[arg-type]
        )
    return home


@pytest.fixture
def say(_trained: Path, home: Path) -> Said:
    shutil.copytree(_trained, home)

    def run(*arguments: str, command: str = "sample", stdin: str = "") -> str:
        fixed = ("dropout", "--max-tokens", str(N_TOKENS)) if command == "sample" else ("--with", "dropout")
        done = CliRunner().invoke(app, (command, *fixed, *arguments), input=stdin, catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    return run


def greedy_by_the_plain_model() -> str:
    """Every token is read again for each new one, by the model as it was trained."""
    gpt = load("dropout", device="cpu")
    assert not any(part.training for part in gpt.model.modules())
    ids = gpt.tokenizer.encode(PROMPT)
    with torch.no_grad():
        for _ in range(N_TOKENS):
            logits = gpt.model(torch.tensor([ids]))[0, -1]
            logits[[i for i in range(gpt.tokenizer.vocab_size) if not gpt.known([i])]] = -math.inf
            ids.append(int(logits.argmax()))
    return gpt.tokenizer.decode(ids)


@pytest.mark.parametrize("how", [("-t", "0"), ("-t", "0.9", "--seed", "3", "--top-k", "9")])
def test_a_stream_a_batch_json_prompts_and_the_interactive_mode_give_one_text(
    say: Said, how: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (*how, "--prompt", PROMPT)
    streamed = say(*asked)
    if how == ("-t", "0"):
        assert streamed == greedy_by_the_plain_model() + "\n"
    assert say(*asked) == streamed
    assert say(*asked, "--no-stream") == streamed
    assert say(*asked, "-n", "2").startswith(streamed)
    for more in ((), ("--logprobs", "2")):
        found = json.loads(say(*asked, "--json", "-n", "2", *more))
        assert found["prompt"] + found["samples"][0] + "\n" == streamed
    (tmp_path / "prompts.txt").write_text(PROMPT)
    say(*how, "--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out.jsonl"))
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert line["prompt"] + line["text"] + "\n" == streamed
    lines = iter([PROMPT])

    def typed(_: str = "") -> str:
        for line in lines:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", typed)
    assert say(*how, "--interactive") == streamed


def test_a_score_is_the_plain_models_every_time(say: Said, corpus: Path, tmp_path: Path) -> None:
    gpt = load("dropout", device="cpu")
    text = "".join(corpus.read_text().splitlines(keepends=True)[:2])
    (tmp_path / "text.txt").write_text(text)
    ids = [gpt.prompt_ids("")[-1], *gpt.tokenizer.encode(text)]
    assert len(ids) <= SHAPE["context_length"] + 1  # one window
    with torch.no_grad():
        logits = gpt.model(torch.tensor([ids[:-1]]))[0]
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).item()
    found = [json.loads(say(str(tmp_path / "text.txt"), "--json", command="score")) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0]["nats_per_token"] == pytest.approx(wanted, abs=1e-5)
