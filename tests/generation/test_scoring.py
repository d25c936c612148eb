"""Scores: equal to plain arithmetic, with context for every token, and comparable over tokenizers."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from gptscratch.cli import loading
from gptscratch.cli.app import app
from gptscratch.errors import ConfigError, RunError
from gptscratch.generation.generator import Generator, load
from gptscratch.generation.scoring import score, surprises, token_nats
from gptscratch.interop.export import export
from gptscratch.tokenizer import Tokenizer, build_tokenizer
from gptscratch.training.trainer import TrainResult, train
from tests.conftest import TINY

TEXT = "the fox runs home.\na dog sings far.\n" * 3


def naive(gpt: Generator, ids: list[int], stride: int) -> list[float]:
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
        assert token_nats(gpt, [ids], stride) == pytest.approx(wanted, abs=1e-4)


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
    with pytest.raises(ConfigError, match="knows no token"):
        score(gpt, "☃")
    with pytest.raises(ConfigError, match="is empty"):
        score(gpt, "")
    for stride in (0, 17):
        with pytest.raises(ConfigError, match="stride"):
            score(gpt, TEXT, stride=stride)


def test_surprise_comes_in_whole_characters(reciter: Callable[..., Generator]) -> None:
    gpt = reciter("a🦊bç漢")
    found = score(gpt, "a🦊bç漢a")
    texts = list(surprises(gpt, found))
    assert [text for text, _ in texts] == list("a🦊bç漢a")
    assert sum(bits for _, bits in texts) == pytest.approx(sum(found.bits))


def test_the_command_prints_lines_json_or_colors(
    tale: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    run = ("score", str(tmp_path / "text.txt"), "--with", tale.name)
    assert "bits/byte" in CliRunner().invoke(app, run).stdout
    values = json.loads(CliRunner().invoke(app, (*run, "--json")).stdout)
    assert values["bits_per_byte"] == pytest.approx(score(load(tale), TEXT).bits_per_byte, abs=1e-5)
    plain = CliRunner().invoke(app, (*run, "--color"))
    assert "no effect" in plain.stderr
    assert plain.stdout.startswith(TEXT)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in CliRunner().invoke(app, (*run, "--color")).stdout
    assert CliRunner().invoke(app, ("score", "-", "--with", tale.name), input=TEXT).exit_code == 0


def test_a_text_may_be_longer_than_a_prompt(
    tale: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_LONGEST_PROMPT", 10)
    (tmp_path / "text.txt").write_text(TEXT)
    file = str(tmp_path / "text.txt")
    assert CliRunner().invoke(app, ("score", file, "--with", tale.name)).exit_code == 0
    refused = CliRunner().invoke(app, ("sample", tale.name, "--prompt-file", file)).exception
    assert "10 are the limit" in str(refused)


@pytest.mark.parametrize("separator", [None, "\\n\\n"])
def test_a_file_of_documents_scores_as_in_the_evaluation_of_a_run(
    separator: str | None, corpus: Path, tmp_path: Path
) -> None:
    marker = "\n\n" if separator else "\n<|endoftext|>\n"
    several = tmp_path / "several.txt"
    several.write_text(corpus.read_text().replace("\n", marker))
    shape = {"documents": "padded", "context_length": 32, "name": "several"}
    run = train(several, **TINY | shape, val_file=str(several), separator=separator).run
    wanted = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    found = json.loads(CliRunner().invoke(app, ("score", str(several), "--with", "several", "--json")).stdout)
    assert found["documents"] == 300
    assert found["bits_per_byte"] == pytest.approx(wanted["val_bits_per_byte"], abs=1e-4)


@pytest.mark.parametrize("stride", [3, 16])
@pytest.mark.parametrize("ends", [True, False])
def test_documents_are_scored_one_by_one(ends: bool, stride: int, random_run: Callable[..., Path]) -> None:
    texts = ["a", "bc" * 20, "a" * 16, "cab" * 6]
    tokenizer = Tokenizer(build_tokenizer("char", texts, alphabet="abc\n"))
    eot = tokenizer.eot_id if ends else None
    gpt = load(random_run(tokenizer, end_of_text=eot, context_length=16), device="cpu")
    [first], end = gpt.prompt_ids(""), [eot] if ends else []
    with torch.inference_mode():
        nats = [naive(gpt, [first, *tokenizer.encode(text), *end], stride) for text in texts]
    found = score(gpt, texts, stride=stride)
    assert found.bits == pytest.approx([n / math.log(2) for own in nats for n in own], abs=1e-4)
    assert found.documents == tuple(map(len, nats))
    assert found.bytes == sum(map(len, texts))
    shown = list(surprises(gpt, found))
    assert "".join(text for text, _ in shown) == "\n".join(texts)


def test_a_table_is_scored_by_its_rows(tale: Path, tmp_path: Path) -> None:
    lines = TEXT.splitlines()
    (tmp_path / "rows.csv").write_text("id,body\n" + "".join(f"1,{line}\n" for line in lines))
    run = ("score", str(tmp_path / "rows.csv"), "--with", tale.name, "--json")
    assert "Name one with --text-column" in str(CliRunner().invoke(app, run).exception)
    found = json.loads(CliRunner().invoke(app, (*run, "--text-column", "body")).stdout)
    assert (found["documents"], found["bytes"]) == (len(lines), len(TEXT) - len(lines))


@pytest.mark.parametrize(
    "data",
    [TEXT.replace("\n", "\r").encode(), TEXT.encode("utf-16"), gzip.compress(TEXT.encode(), mtime=0)],
    ids=["line ends", "UTF-16", "gzip"],
)
def test_a_file_that_train_reads_is_a_text_and_a_prompt(data: bytes, tale: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(data)
    run = ("score", str(tmp_path / "text"), "--with", tale.name, "--json")
    assert json.loads(CliRunner().invoke(app, run).stdout)["bytes"] == len(TEXT)
    assert loading.read_file(str(tmp_path / "text")) == TEXT


@pytest.mark.parametrize("quantize", [None, "float16"])
def test_a_run_with_dropout_is_scored_and_sampled_without_it(fit: Callable, quantize: str | None) -> None:
    run = fit(dropout=0.5, name="dropped").run
    plain = score(load(run, device="cpu"), TEXT).bits_per_byte
    ready = load(run, device="cpu").accelerated(quantize=quantize)
    for _ in range(2):
        assert score(ready, TEXT).bits_per_byte == pytest.approx(plain, rel=1e-3 if quantize else 1e-6)
    assert ready.generate("the", temperature=0) == load(run, device="cpu").generate("the", temperature=0)


def test_a_tokenizer_that_loses_text_is_reported(
    fit: Callable[..., TrainResult], tale: Path, tmp_path: Path
) -> None:
    assert score(load(tale, device="cpu"), TEXT).lossless
    assert score(load(tale, device="cpu"), TEXT.replace("\n", "☃\n")).lossless
    run = fit(name="words", tokenizer="word").run
    assert not score(load(run, device="cpu"), TEXT).lossless
    (tmp_path / "text.txt").write_text(TEXT)
    done = CliRunner().invoke(app, ("score", str(tmp_path / "text.txt"), "--with", "words", "--json"))
    assert "loses part of the text" in done.stderr
    assert json.loads(done.stdout)["lossless"] is False


def test_weights_that_are_not_finite_are_refused(tale: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    for file in tale.glob("checkpoints/*/model.safetensors"):
        tensors = load_file(file)
        tensors["lm_head.weight"][3, 1] = torch.nan
        save_file(tensors, file)
    for command in (
        ("sample", tale.name, "-p", "a"),
        ("score", str(tmp_path / "text.txt"), "--with", tale.name, "--json"),
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code != 0
        assert done.stdout == ""
        assert "numbers that are not finite (lm_head.weight" in str(done.exception)


def test_a_loss_that_is_not_finite_is_refused(tale: Path) -> None:
    gpt = load(tale, device="cpu")
    with torch.no_grad():
        gpt.model.lm_head.weight.fill_(3e38)  # finite, unlike the products with it
    with pytest.raises(RunError, match="not a finite number"):
        score(gpt, TEXT)


def test_an_empty_or_missing_file_is_named(tale: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    for file, why in (("empty.txt", "empty.txt is empty"), ("none.txt", "none.txt does not exist")):
        done = CliRunner().invoke(app, ("score", str(tmp_path / file), "--with", tale.name))
        assert why in str(done.exception)


@pytest.mark.parametrize("family", ["modern", "gpt2"])
@pytest.mark.parametrize("stride", [1, 6, 8, 16])
def test_a_long_text_scores_as_by_transformers_with_a_sliding_window(
    family: str, stride: int, tmp_path: Path, random_run: Callable[..., Path]
) -> None:
    """https://huggingface.co/docs/transformers/perplexity, with windows of a context and one target more."""
    transformers = pytest.importorskip("transformers")
    text = "".join(random.Random(1).choices("abc, ☃\n", k=16 + 48 * 5))  # windows of each stride end with it
    tokenizer = Tokenizer(build_tokenizer("char", [text], alphabet=text))
    gpt2 = {"position": "learned", "norm": "layernorm", "activation": "gelu-tanh", "qk_norm": False}
    shape = {"context_length": 16, "dropout": 0.2, **(gpt2 if family == "gpt2" else {})}
    gpt = load(random_run(tokenizer, end_of_text=tokenizer.eot_id, **shape), device="cpu")
    export("random", tmp_path / "exported")

    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported").eval()
    encode = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    ids = torch.tensor([[encode.eos_token_id, *encode(text).input_ids]])
    max_length, previous_end, nats = 16 + 1, 0, 0.0
    for begin in range(0, ids.size(1), stride):
        end = min(begin + max_length, ids.size(1))
        targets = ids[:, begin:end].clone()
        targets[:, : previous_end - begin] = -100
        with torch.no_grad():
            logits = theirs(ids[:, begin : end - 1]).logits
        nats += F.cross_entropy(logits[0], targets[0, 1:], reduction="sum").item()
        previous_end = end
        if end == ids.size(1):
            break
    found = score(gpt, text, stride=stride)
    assert found.tokens == len(text)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / len(text.encode()), abs=1e-5)
