"""Documents in training and evaluation, packed, masked and padded: each against the naive computation."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptscratch import paths
from gptscratch.config import ModelConfig
from gptscratch.data.batches import Batch, Batches, windows
from gptscratch.data.document_batches import DocumentRows, padded_windows
from gptscratch.errors import ConfigError
from gptscratch.model.gpt import GPT
from gptscratch.runs.metrics import read_metrics
from gptscratch.runs.tensors import load_tensors
from gptscratch.training import callbacks, loop
from gptscratch.training.context import TrainContext
from gptscratch.training.evaluate import means, sums_over
from gptscratch.training.optimizer import Optimizer
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.step import take_step
from gptscratch.training.trainer import TrainResult, plan_run, resume, train

END, CONTEXT = 0, 12
LENGTHS = (3, 7, 1, 30, 5, 12, 2, 9, 11, 4)
CHANCE = np.random.default_rng(0)
DOCUMENTS = [[*CHANCE.integers(1, 31, length), END] for length in LENGTHS]
TOKENS = np.concatenate(DOCUMENTS).astype(np.uint16)


def tiny(position: str = "rope") -> GPT:
    torch.manual_seed(0)
    shape = {"vocab_size": 31, "context_length": CONTEXT, "n_layer": 2, "n_head": 2, "d_model": 32}
    model = GPT(ModelConfig(**shape, position=position))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


class Watching:
    """A part of an optimizer that only looks."""

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.state: dict[str, Tensor] = {}
        self.gradients: list[Tensor] = []

    def update(self, lr_scale: float, finite: Tensor) -> None:
        del lr_scale, finite
        self.gradients = [p.grad.clone() for p in self.model.parameters() if p.grad is not None]


def gradients_of_a_step(
    model: GPT, batch: Batch, *, micro_batch_size: int, mask: bool
) -> tuple[float, int, list]:
    watching = Watching(model)
    replica = LowPrecisionReplica(model, torch.float32, mask_at=END if mask else None)
    result = take_step(
        replica, Optimizer(watching), *batch, micro_batch_size=micro_batch_size, grad_clip=0.0, lr_scale=1.0
    )
    return result.loss.item(), result.tokens, watching.gradients


def naive(model: GPT, parts: list[list[int]]) -> tuple[float, int, list[Tensor]]:
    """Mean loss over the tokens of all parts, each in a forward pass alone, and its gradients.

    A part is the token before the first target, and the targets.
    """
    losses = []
    for part in parts:
        ids = torch.tensor(part)
        losses.append(F.cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="none"))
    every = torch.cat(losses)
    every.mean().backward()
    return every.mean().item(), len(every), [p.grad for p in model.parameters() if p.grad is not None]


def assert_same(found: tuple[float, int, list[Tensor]], wanted: tuple[float, int, list[Tensor]]) -> None:
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    assert found[1] == wanted[1]
    torch.testing.assert_close(found[2], wanted[2], rtol=1e-4, atol=1e-6)


def cut_at_documents(row: list[int]) -> list[list[int]]:
    """An end-of-text token ends one part as its last target, and begins the next as its first input."""
    borders = [0, *(i for i in range(1, len(row) - 1) if row[i] == END), len(row) - 1]
    return [row[start : end + 1] for start, end in pairwise(borders)]


def packed() -> Batch:
    """Six rows, cut without regard for documents."""
    rows = [TOKENS[start : start + CONTEXT + 1].astype(np.int64) for start in range(0, 6 * CONTEXT, CONTEXT)]
    return np.stack([row[:-1] for row in rows]), np.stack([row[1:] for row in rows])


@pytest.mark.parametrize("micro_batch_size", [1, 4, 6])
def test_packed_rows_train_as_plain_rows(micro_batch_size: int) -> None:
    batch = packed()
    parts = [[*x, y[-1]] for x, y in zip(*batch, strict=True)]
    assert_same(
        gradients_of_a_step(tiny(), batch, micro_batch_size=micro_batch_size, mask=False),
        naive(tiny(), parts),
    )


@pytest.mark.parametrize("micro_batch_size", [1, 4, 6])
@pytest.mark.parametrize("position", ["rope", "learned"])
def test_masked_rows_train_as_their_documents_alone(position: str, micro_batch_size: int) -> None:
    batch = packed()
    parts = []
    for x, y in zip(*batch, strict=True):
        parts += cut_at_documents([*x, y[-1]])
    assert len(parts) > 10
    found = gradients_of_a_step(tiny(position), batch, micro_batch_size=micro_batch_size, mask=True)
    assert_same(found, naive(tiny(position), parts))


@pytest.mark.parametrize("micro_batch_size", [1, 3, 5, 20])
@pytest.mark.parametrize("position", ["rope", "learned"])
def test_padded_rows_train_as_their_documents_alone(position: str, micro_batch_size: int) -> None:
    batches = Batches(TOKENS, CONTEXT, 13, seed=1, pad_with=END)
    assert len(batches.parts[0]) == 13
    parts = []
    for document in DOCUMENTS:
        whole = [END, *document]
        parts += [whole[i : i + CONTEXT + 1] for i in range(0, len(document), CONTEXT)]
    found = gradients_of_a_step(
        tiny(position), batches.batch(0), micro_batch_size=micro_batch_size, mask=False
    )
    assert_same(found, naive(tiny(position), parts))


def test_the_tokens_in_the_padding_change_nothing() -> None:
    inputs, targets = Batches(TOKENS, CONTEXT, 13, seed=1, pad_with=END).batch(0)
    other = np.where(targets < 0, 17, inputs)
    other[:, 0] = inputs[:, 0]
    assert not np.array_equal(other, inputs)
    found = [
        gradients_of_a_step(tiny(), (x, targets), micro_batch_size=4, mask=False)[2] for x in (inputs, other)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_evaluation_scores_every_token_once_in_each_kind_of_row() -> None:
    model = tiny().eval()
    plain = [TOKENS[i : i + CONTEXT + 1].tolist() for i in range(0, len(TOKENS) - 1, CONTEXT)]
    alone = [[END, *document][i : i + CONTEXT + 1] for document in DOCUMENTS
             for i in range(0, len(document), CONTEXT)]  # fmt: skip
    cut = []
    for row in plain:
        cut += cut_at_documents(row)
    rows = DocumentRows(TOKENS, CONTEXT, END)
    for parts, batches, mask_at in (
        (plain, windows(TOKENS, CONTEXT, 3), None),
        (cut, windows(TOKENS, CONTEXT, 3), END),
        (alone, padded_windows(rows, 40), None),
    ):
        loss, tokens, _ = naive(model, parts)
        found = means(0, [(1.0, sums_over(model, batches, np.ones(31), mask_at=mask_at))])
        assert found.val_loss == pytest.approx(loss, rel=1e-5)
        assert found.val_tokens == tokens
        assert tokens >= len(TOKENS) - 1


@pytest.fixture
def tales(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Settings of a tiny run on a table of documents of many lengths."""
    lines = [json.dumps({"text": "the fox runs. " * (i % 7 + 1) + str(i)}) for i in range(120)]
    (tmp_path / "tales.jsonl").write_text("\n".join(lines), encoding="utf-8")

    def settings(**changes: Any) -> dict[str, Any]:
        base = {
            "corpus": str(tmp_path / "tales.jsonl"), "n_layer": 1, "n_head": 2, "d_model": 32,
            "context_length": 64, "batch_size": 8, "micro_batch_size": 4, "steps": 12, "log_interval": 1,
            "eval_interval": 6, "save_interval": 6, "sample_interval": 0, "tokenizer": "byte",
            "device": "cpu", "dtype": "float32", "dropout": 0.1, "seed": 3,
        }  # fmt: skip
        return base | changes

    return settings


Tales = Callable[..., dict[str, Any]]


def weights(result: TrainResult) -> dict[str, Tensor]:
    return load_tensors(paths.find_checkpoint(result.run, which="last")[1] / "model.safetensors")


@pytest.mark.parametrize("documents", ["masked", "padded"])
def test_a_resumed_run_equals_the_straight_one(
    tales: Tales, documents: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train(**tales(documents=documents, name="straight"))

    def stop(context: TrainContext) -> None:
        if context.state.step == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "CALLBACKS", (stop, *callbacks.CALLBACKS))
        assert train(**tales(documents=documents, name="stopped")).interrupted
    resumed = resume("stopped")
    assert resumed.step == straight.step == 12
    assert resumed.tokens == straight.tokens
    own, their = weights(resumed), weights(straight)
    assert all(torch.equal(tensor, their[name]) for name, tensor in own.items())
    with pytest.raises(ConfigError, match="keeps its --documents"):
        resume("stopped", documents="packed", steps=14)


def test_each_kind_of_row_trains_another_model(tales: Tales) -> None:
    results = [train(**tales(documents=kind, name=kind)) for kind in ("packed", "masked", "padded")]
    losses = [result.evaluation.val_loss for result in results if result.evaluation]
    assert len(set(losses)) == 3
    assert max(losses) < 5.6  # ln 257 is 5.55
    assert results[0].tokens == results[1].tokens == 12 * 8 * 64


def test_pads_are_not_counted_as_tokens(tales: Tales) -> None:
    plan, prepared = plan_run(tales(documents="padded", epochs=2.0, steps=None))
    result = train(**tales(documents="padded", epochs=2.0, steps=None, name="a"))
    manifest = prepared.manifest
    assert result.step == plan.steps
    assert result.tokens == pytest.approx(2 * manifest.train.tokens, rel=0.05)
    assert plan.tokens == pytest.approx(result.tokens, rel=0.05)
    assert plan.padding == pytest.approx(1 - result.tokens / (result.step * 8 * 64), abs=0.02)
    assert plan.padding > 0.2
    logged = [record["tokens"] for record in read_metrics(result.run / "metrics.jsonl") if "tokens" in record]
    assert logged[-1] == result.tokens < result.step * 8 * 64
    assert result.evaluation is not None
    assert result.evaluation.val_tokens == manifest.val.tokens
