"""Evaluation against the plain mean over all targets."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptscratch.config import DataConfig, ModelConfig
from gptscratch.data.batches import windows
from gptscratch.data.prepare import Prepared, prepare
from gptscratch.errors import CorpusError
from gptscratch.model.gpt import GPT
from gptscratch.training.evaluate import Evaluator, bytes_of_tokens, means, sums_over
from gptscratch.training.events import Evaluated
from gptscratch.training.loss import IGNORE
from gptscratch.training.replica import LowPrecisionReplica

TOKENS = np.random.default_rng(0).integers(0, 31, 200).astype(np.uint16)

ONE = np.ones(31)


def evaluate(model: GPT, windows: Any, **options: Any) -> Evaluated:
    return means(0, [(1.0, sums_over(model, windows, **options))])


def tiny() -> GPT:
    torch.manual_seed(0)
    model = GPT(ModelConfig(vocab_size=31, context_length=16, n_layer=1, n_head=2, d_model=32, dropout=0.5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("rows_at_once", [1, 7, 10_000])
def test_it_is_the_mean_over_every_target_once(rows_at_once: int) -> None:
    model = tiny()
    found = evaluate(model, windows(TOKENS, 16, 5), token_bytes=np.full(31, 2.5), rows=rows_at_once)

    model.eval()
    losses, hits = [], []
    with torch.no_grad():
        for start in range(0, 199, 16):
            row = torch.from_numpy(TOKENS[start : start + 17].astype(np.int64))
            logits = model(row[None, :-1])[0]
            losses.append(F.cross_entropy(logits, row[1:], reduction="none"))
            hits.append(logits.argmax(-1) == row[1:])
    loss = torch.cat(losses).double().mean().item()
    assert found.val_tokens == 199
    assert found.val_loss == pytest.approx(loss, rel=1e-5)
    assert found.val_accuracy == pytest.approx(torch.cat(hits).double().mean().item())
    assert found.val_perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    assert found.val_bits_per_byte == pytest.approx(loss / math.log(2) / 2.5, rel=1e-5)


def test_padding_counts_for_nothing() -> None:
    model = tiny()
    row = TOKENS[:17].astype(np.int64)[None]
    inputs, targets = np.repeat(row[:, :-1], 2, axis=0), np.repeat(row[:, 1:], 2, axis=0)
    targets[1] = IGNORE
    once = evaluate(model, [(row[:, :-1], row[:, 1:])], token_bytes=ONE)
    padded = evaluate(model, [(inputs, targets)], token_bytes=ONE)
    assert padded.val_tokens == once.val_tokens == 16
    assert padded.val_loss == pytest.approx(once.val_loss, rel=1e-6)
    assert padded.val_accuracy == once.val_accuracy


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_its_mode_and_without_gradients(training: bool) -> None:
    model = tiny().train(training)
    evaluate(model, windows(TOKENS, 16, 5), token_bytes=ONE)
    assert model.training is training
    assert all(p.grad is None for p in model.parameters())


def test_a_perplexity_beyond_all_numbers_still_is_json() -> None:
    sums = np.array([1e5, 0.0, 1.0, 1.0, 0.0])
    assert json.loads(json.dumps(means(0, [(1.0, sums)]).val_perplexity, allow_nan=False)) > 1e300


def test_an_adaptive_softmax_is_scored_as_its_full_distribution_says() -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(vocab_size=40, d_model=32, n_layer=1, n_head=2, adaptive_cutoffs=(5, 20)))
    for parameter in model.lm_head.parameters():
        torch.nn.init.normal_(parameter)  # so that rare tokens are the most likely, too
    inputs, targets = np.random.default_rng(0).integers(40, size=(2, 3, 50))
    with torch.no_grad():
        logits = model(torch.from_numpy(inputs)).flatten(0, 1)
    wanted = torch.from_numpy(targets).flatten()
    found = evaluate(model, [(inputs, targets)], token_bytes=np.ones(40))
    assert found.val_loss == pytest.approx(F.cross_entropy(logits, wanted).item(), rel=1e-5)
    assert found.val_accuracy == pytest.approx((logits.argmax(-1) == wanted).double().mean().item())
    assert (logits.argmax(-1) >= 20).any()


def test_unknown_targets_count_for_nothing() -> None:
    model = tiny().eval()
    row = TOKENS[:17].astype(np.int64)[None]
    inputs, targets = row[:, :-1], row[:, 1:]
    unk_id = int(targets[0, 3])
    found = evaluate(model, [(inputs, targets)], token_bytes=np.arange(31.0), unk_id=unk_id)
    known = targets[0] != unk_id
    with torch.no_grad():
        logits = model(torch.from_numpy(inputs))[0]
    losses = F.cross_entropy(logits, torch.from_numpy(targets[0]), reduction="none").numpy()
    assert (found.val_tokens, found.val_unknown) == (known.sum(), (~known).sum())
    assert found.val_loss == pytest.approx(losses[known].mean(), rel=1e-5)
    bits = losses[known].sum() / math.log(2) / targets[0][known].sum()
    assert found.val_bits_per_byte == pytest.approx(bits, rel=1e-5)


def test_a_text_of_unknown_tokens_alone_is_a_clear_error() -> None:
    row = np.full((1, 17), 5)
    with pytest.raises(CorpusError, match="no token that the vocabulary knows"):
        evaluate(tiny(), [(row[:, :-1], row[:, 1:])], token_bytes=ONE, unk_id=5)


def prepared(tmp_path: Path, *texts: str, **settings: Any) -> Prepared:
    names = []
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
        names.append(f"{tmp_path}/{number}.txt{settings.pop(f'weight{number}', '')}")
    return prepare(DataConfig(corpus=tuple(names), **settings))


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_bytes_of_the_scored_tokens_are_those_of_their_text(kind: str, tmp_path: Path) -> None:
    text = "".join(f"{i} Größe, naïve 😀 " for i in range(900))
    found = prepared(tmp_path, text, tokenizer=kind)
    each = bytes_of_tokens(found.tokens, found.tokenizer)
    assert each[found.tokens.val].sum() == found.manifest.val.bytes
    part = found.tokens.val[: len(found.tokens.val) // 2]
    assert each[part].sum() == len(found.tokenizer.decode(part).encode())


def test_bytes_of_words_are_those_of_the_text_without_its_unknown_words(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("the cat number wörd sat.\nthe dog sat.\n", encoding="utf-8")
    found = prepared(
        tmp_path, "the cat number one sat.\n" * 99, tokenizer="word", val_file=str(tmp_path / "val.txt")
    )
    assert found.manifest.lossy
    assert found.manifest.val_unknown_bytes == len("wörddog".encode())
    each = bytes_of_tokens(found.tokens, found.tokenizer)
    assert each[found.tokens.val].sum() == pytest.approx(found.manifest.val.bytes - 8)


def test_characters_that_are_unknown_have_no_bytes(tmp_path: Path) -> None:
    first = prepared(tmp_path, "plain text " * 50, tokenizer="char")
    first.tokenizer.save(tmp_path / "tokenizer.json")
    found = prepared(tmp_path, "plain tëxt " * 50, tokenizer=str(tmp_path / "tokenizer.json"))
    assert found.manifest.val.unknown == 5
    assert found.manifest.val_unknown_bytes == 10
    each = bytes_of_tokens(found.tokens, found.tokenizer)
    assert each[found.tokens.val].sum() == found.manifest.val.bytes - 10


@pytest.mark.parametrize("pad", [False, True])
def test_corpora_with_weights_are_validated_by_their_weights(pad: bool, tmp_path: Path) -> None:
    found = prepared(tmp_path, "ab" * 2000, "cde" * 4000, weight0="=3", weight1="=1", tokenizer="byte")
    torch.manual_seed(0)
    model = GPT(ModelConfig(vocab_size=257, context_length=16, n_layer=1, n_head=2, d_model=32))
    pad_with = found.manifest.end_of_text if pad else None
    scorer = Evaluator(LowPrecisionReplica(model, torch.float32), found, pad_with=pad_with)
    both = scorer(0)
    first, second = (
        evaluate(model, scorer.batches(part, None), token_bytes=scorer.token_bytes)
        for _, part in scorer.parts
    )
    assert (first.val_tokens, second.val_tokens) == ((401, 1201) if pad else (400, 1200))
    assert both.val_loss == pytest.approx(0.75 * first.val_loss + 0.25 * second.val_loss)
    assert both.val_tokens == first.val_tokens + second.val_tokens
    assert scorer(0, 160).val_tokens < both.val_tokens


def test_corpora_with_weights_but_without_two_validation_tokens_are_a_clear_error(tmp_path: Path) -> None:
    found = prepared(tmp_path, "ab" * 20, "cde" * 40, weight0="=3", weight1="=1", tokenizer="byte")
    shares = tuple(replace(share, val_tokens=1) for share in found.manifest.corpora)
    manifest = replace(found.manifest, corpora=shares)
    tokens = replace(found.tokens, val=found.tokens.val[:2], manifest=manifest)
    with pytest.raises(CorpusError, match="too short to evaluate"):
        Evaluator(LowPrecisionReplica(tiny(), torch.float32), replace(found, tokens=tokens))


def test_a_half_precision_copy_is_refreshed_before_it_is_scored(tmp_path: Path) -> None:
    found = prepared(tmp_path, "ab cde " * 200, tokenizer="byte")
    torch.manual_seed(0)
    model = GPT(ModelConfig(vocab_size=257, context_length=16, n_layer=1, n_head=2, d_model=32))
    replica = LowPrecisionReplica(model, torch.bfloat16)
    replica.evaluated = replica.model  # as on CUDA
    scorer = Evaluator(replica, found)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    wanted = Evaluator(LowPrecisionReplica(model, torch.float32), found)(0).val_loss
    assert scorer(0).val_loss == pytest.approx(wanted, rel=5e-3)
