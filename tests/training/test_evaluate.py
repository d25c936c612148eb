"""Evaluation against the plain mean over all targets."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptscratch.config import ModelConfig
from gptscratch.data.batches import windows
from gptscratch.model.gpt import GPT
from gptscratch.training import evaluate as module
from gptscratch.training.evaluate import Evaluation, evaluate
from gptscratch.training.loss import IGNORE

TOKENS = np.random.default_rng(0).integers(0, 31, 200).astype(np.uint16)


def tiny() -> GPT:
    torch.manual_seed(0)
    model = GPT(ModelConfig(vocab_size=31, context_length=16, n_layer=1, n_head=2, d_model=32, dropout=0.5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("rows_at_once", [1, 7, 10_000])
def test_it_is_the_mean_over_every_target_once(monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    monkeypatch.setattr(module, "SLICE_BYTES", rows_at_once * 31 * 4)
    model = tiny()
    found = evaluate(model, windows(TOKENS, 16, 5), bytes_per_token=2.5)

    model.eval()
    losses, hits = [], []
    with torch.no_grad():
        for start in range(0, 199, 16):
            row = torch.from_numpy(TOKENS[start : start + 17].astype(np.int64))
            logits = model(row[None, :-1])[0]
            losses.append(F.cross_entropy(logits, row[1:], reduction="none"))
            hits.append(logits.argmax(-1) == row[1:])
    loss = torch.cat(losses).double().mean().item()
    assert found.tokens == 199
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.accuracy == pytest.approx(torch.cat(hits).double().mean().item())
    assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(loss / math.log(2) / 2.5, rel=1e-5)


def test_padding_counts_for_nothing() -> None:
    model = tiny()
    row = TOKENS[:17].astype(np.int64)[None]
    inputs, targets = np.repeat(row[:, :-1], 2, axis=0), np.repeat(row[:, 1:], 2, axis=0)
    targets[1] = IGNORE
    once = evaluate(model, [(row[:, :-1], row[:, 1:])], bytes_per_token=1.0)
    padded = evaluate(model, [(inputs, targets)], bytes_per_token=1.0)
    assert padded.tokens == once.tokens == 16
    assert padded.loss == pytest.approx(once.loss, rel=1e-6)
    assert padded.accuracy == once.accuracy


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_its_mode_and_without_gradients(training: bool) -> None:
    model = tiny().train(training)
    evaluate(model, windows(TOKENS, 16, 5), bytes_per_token=1.0)
    assert model.training is training
    assert all(p.grad is None for p in model.parameters())


def test_a_perplexity_beyond_all_numbers_still_is_json() -> None:
    evaluation = Evaluation(loss=1e5, accuracy=0.0, bits_per_byte=1.0, tokens=1)
    assert json.loads(json.dumps(evaluation.perplexity, allow_nan=False)) > 1e300


def test_an_adaptive_softmax_is_scored_as_its_full_distribution_says() -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(vocab_size=40, d_model=32, n_layer=1, n_head=2, adaptive_cutoffs=(5, 20)))
    for parameter in model.lm_head.parameters():
        torch.nn.init.normal_(parameter)  # so that rare tokens are the likeliest, too
    inputs, targets = np.random.default_rng(0).integers(40, size=(2, 3, 50))
    with torch.no_grad():
        logits = model(torch.from_numpy(inputs)).flatten(0, 1)
    wanted = torch.from_numpy(targets).flatten()
    found = evaluate(model, [(inputs, targets)], bytes_per_token=1.0)
    assert found.loss == pytest.approx(F.cross_entropy(logits, wanted).item(), rel=1e-5)
    assert found.accuracy == pytest.approx((logits.argmax(-1) == wanted).double().mean().item())
    assert (logits.argmax(-1) >= 20).any()
