"""One step: independent of the micro-batch, clipped, in float32 whatever does the work."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptscratch.config import ModelConfig, TrainConfig
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import document_layout, document_numbers
from gptscratch.runs.checkpoint import load_optimizer
from gptscratch.runs.tensors import save_tensors
from gptscratch.training.loss import IGNORE
from gptscratch.training.optimizer import LossScale, Optimizer, make_optimizer
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.step import StepResult, take_step

INPUTS = np.random.default_rng(0).integers(0, 31, (8, 12))
TARGETS = np.random.default_rng(1).integers(0, 31, (8, 12))


def tiny(**changes: object) -> GPT:
    torch.manual_seed(0)
    shape = {"vocab_size": 31, "context_length": 12, "n_layer": 2, "n_head": 2, "d_model": 32} | changes
    return GPT(ModelConfig(**shape))  # type: ignore[arg-type]


def optimizer_of(model: GPT, kind: str = "muon", loss_scale: LossScale | None = None) -> Optimizer:
    rates = {"learning_rate": 0.02, "adamw_learning_rate": 0.01, "weight_decay": 0.0}
    return make_optimizer(model, TrainConfig(optimizer=kind, **rates), loss_scale)


class Watching:
    """A part of an optimizer that only looks."""

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.state: dict[str, torch.Tensor] = {}
        self.gradients: list[torch.Tensor] = []

    def update(self, lr_scale: float, finite: torch.Tensor) -> None:
        del lr_scale, finite
        self.gradients = [p.grad.clone() for p in self.model.parameters() if p.grad is not None]


def stepped(
    model: GPT, *, micro_batch_size: int = 8, grad_clip: float = 0.0, dtype: torch.dtype = torch.float32,
    targets: np.ndarray = TARGETS,
) -> tuple[StepResult, list[torch.Tensor]]:  # fmt: skip
    watching = Watching(model)
    result = take_step(
        LowPrecisionReplica(model, dtype),
        Optimizer(watching),
        INPUTS,
        targets,
        micro_batch_size=micro_batch_size,
        grad_clip=grad_clip,
        lr_scale=1.0,
    )
    return result, watching.gradients


@pytest.mark.parametrize("mask_at", [None, 3])
@pytest.mark.parametrize("settings", [{}, {"adaptive_cutoffs": (5,)}, {"tie_embeddings": True}])
def test_r_drop_adds_the_divergence_of_two_dropout_masks_to_the_gradient(
    settings: dict[str, Any], mask_at: int | None
) -> None:
    model = tiny(dropout=0.3, **settings)
    inputs, targets = torch.from_numpy(INPUTS), torch.from_numpy(TARGETS.copy())
    targets[0, :9] = IGNORE
    torch.manual_seed(5)
    loss = LowPrecisionReplica(model, torch.float32, mask_at=mask_at, r_drop=0.7).loss(inputs, targets)
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    torch.manual_seed(5)
    twice = inputs.repeat(2, 1)
    layout = None if mask_at is None else document_layout(document_numbers(twice, mask_at))
    logits = model(twice, layout=layout).flatten(0, 1)  # both dropout masks from one draw
    wanted = F.cross_entropy(logits, targets.repeat(2, 1).flatten(), ignore_index=IGNORE, reduction="sum") / 2
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    p, q = logits.view(2, targets.numel(), -1)[:, targets.flatten() != IGNORE].log_softmax(-1)
    kl = F.kl_div(p, q, log_target=True, reduction="sum") + F.kl_div(q, p, log_target=True, reduction="sum")
    gradients = torch.autograd.grad(wanted + 0.7 * kl / 2, list(model.parameters()), allow_unused=True)
    for a, b in zip(found, gradients, strict=True):
        if a is not None or b is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_r_drop_changes_nothing_without_dropout() -> None:
    model, inputs, targets = tiny(), torch.from_numpy(INPUTS), torch.from_numpy(TARGETS)
    results = []
    for r_drop in (0.0, 1.0):
        loss = LowPrecisionReplica(model, torch.float32, r_drop=r_drop).loss(inputs, targets)
        results.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 8, 100])
def test_the_result_does_not_depend_on_the_micro_batch(micro_batch_size: int) -> None:
    targets = TARGETS.copy()
    targets[0, :9] = IGNORE  # so that the micro-batches count unequally
    result, gradients = stepped(tiny(), micro_batch_size=micro_batch_size, targets=targets)
    model = tiny()
    logits = model(torch.from_numpy(INPUTS))
    wanted = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten(), ignore_index=IGNORE)
    wanted.backward()
    torch.testing.assert_close(result.loss, wanted.detach())
    torch.testing.assert_close(gradients, [p.grad for p in model.parameters()], rtol=1e-4, atol=1e-6)
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))
    torch.testing.assert_close(result.grad_norm, norm)


def test_clipping_is_torchs_and_reports_the_norm_before() -> None:
    model = tiny()
    free, gradients = stepped(model)
    limit = 0.5 * free.grad_norm.item()
    clipped, found = stepped(model, grad_clip=limit)
    assert clipped.grad_norm == free.grad_norm
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient
    torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    torch.testing.assert_close(found, [p.grad for p in model.parameters()])


@pytest.mark.parametrize("tied", [False, True])
def test_half_precision_work_gives_float32_gradients_near_the_full_ones(tied: bool) -> None:
    model = tiny(tie_embeddings=tied)
    full, wanted = stepped(model)
    for micro_batch_size in (8, 1):
        half, found = stepped(model, micro_batch_size=micro_batch_size, dtype=torch.bfloat16)
        assert half.loss.item() == pytest.approx(full.loss.item(), rel=1e-2)
        assert len(found) == len(wanted)
        for own, their in zip(found, wanted, strict=True):
            assert own.dtype == torch.float32
            assert (own - their).norm() < 0.05 * their.norm()
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_gradients_add_up_in_float32() -> None:
    model = tiny()
    replica = LowPrecisionReplica(model, torch.bfloat16)
    for number in (1, 2**-10):
        for _, copied in replica.copies:
            copied.grad = torch.full_like(copied, number)
        replica.accumulate_grads()
    assert replica.copies
    assert all((p.grad == 1 + 2**-10).all() for p, _ in replica.copies)  # in bfloat16 it would be 1


def test_gradients_of_float16_do_not_vanish() -> None:
    model = tiny()
    _, wanted = stepped(model)
    _, found = stepped(model, dtype=torch.float16)
    for own, their in zip(found, wanted, strict=True):
        assert (own - their).norm() < 0.02 * their.norm()


@pytest.mark.parametrize(
    ("kind", "dtype"), [("muon", "float32"), ("adamw", "float32"), ("muon", "bfloat16"), ("muon", "float16")]
)
def test_a_tiny_batch_is_memorized(kind: str, dtype: str) -> None:
    model = tiny()
    replica = LowPrecisionReplica(model, getattr(torch, dtype))
    optimizer = optimizer_of(model, kind, replica.loss_scale)
    losses = [
        take_step(
            replica, optimizer, INPUTS, TARGETS, micro_batch_size=4, grad_clip=1.0, lr_scale=1.0
        ).loss.item()
        for _ in range(80)
    ]
    assert losses[0] == pytest.approx(np.log(31), abs=0.3)
    assert losses[-1] < 0.2


def test_no_gradient_outlives_its_step() -> None:
    model = tiny()
    replica = LowPrecisionReplica(model, torch.bfloat16)
    take_step(replica, optimizer_of(model), INPUTS, TARGETS, micro_batch_size=4, grad_clip=1.0, lr_scale=1.0)
    assert all(p.grad is None for p in [*replica.parameters, *(copied for _, copied in replica.copies)])


def test_the_working_copy_follows_the_model() -> None:
    model = tiny()
    replica = LowPrecisionReplica(model, torch.bfloat16)
    before = copy.deepcopy(model)
    take_step(replica, optimizer_of(model), INPUTS, TARGETS, micro_batch_size=8, grad_clip=1.0, lr_scale=1.0)
    replica.copy_weights()
    for now, copied in replica.copies:
        assert torch.equal(copied, now.bfloat16())
    for now, old in zip(model.parameters(), before.parameters(), strict=True):
        assert not torch.equal(now, old)


def broken_gradient(model: GPT, number: float) -> torch.utils.hooks.RemovableHandle:
    return model.final_norm.weight.register_hook(lambda gradient: gradient * number)  # type: ignore[no-untyped-call, no-any-return]


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_an_update_without_a_finite_gradient_changes_nothing_at_all(kind: str, number: float) -> None:
    skipping, straight = tiny(), tiny()
    results = []
    for model, broken in ((skipping, True), (straight, False)):
        optimizer = optimizer_of(model, kind)
        step = partial(
            take_step, LowPrecisionReplica(model, torch.float32), optimizer, INPUTS, TARGETS,
            micro_batch_size=8, grad_clip=1.0, lr_scale=1.0,
        )  # fmt: skip

        step()
        if broken:
            hook = broken_gradient(model, number)
            results.append(step())
            hook.remove()
        step()
        results.append(optimizer.state)
    skipped, state, wanted = results
    assert isinstance(skipped, StepResult)
    assert not skipped.grad_norm.isfinite()
    assert skipped.loss.isfinite()
    torch.testing.assert_close(state, wanted, rtol=0, atol=0)
    torch.testing.assert_close(list(skipping.parameters()), list(straight.parameters()), rtol=0, atol=0)


def test_float16_lowers_its_scale_until_the_gradients_fit() -> None:
    model, watching = tiny(), None
    _, wanted = stepped(tiny())
    replica, watching = LowPrecisionReplica(model, torch.float16), Watching(model)
    assert replica.loss_scale is not None
    replica.loss_scale.scale.fill_(2.0**24)
    optimizer = Optimizer(watching, replica.loss_scale)
    norms = [
        take_step(
            replica, optimizer, INPUTS, TARGETS, micro_batch_size=8, grad_clip=0.0, lr_scale=1.0
        ).grad_norm
        for _ in range(12)
    ]
    finite = [bool(norm.isfinite()) for norm in norms]
    assert finite == sorted(finite)
    assert not finite[0]
    assert finite[-1]
    assert replica.loss_scale.scale == 2.0 ** (24 - finite.count(False))
    for own, their in zip(watching.gradients, wanted, strict=True):
        assert (own - their).norm() < 0.02 * their.norm()


def test_a_loss_scale_grows_after_many_finite_gradients_and_is_loaded_as_it_was(tmp_path: Path) -> None:
    scale, loaded = LossScale(torch.device("cpu")), LossScale(torch.device("cpu"))
    before = scale.scale.item()
    finite, not_finite = torch.tensor(True), torch.tensor(False)
    scale.update(1.0, not_finite)
    assert scale.scale.item() == before / 2
    for _ in range(1999):
        scale.update(1.0, finite)
    save_tensors(tmp_path / "optimizer.safetensors", scale.state)
    load_optimizer(loaded.state, tmp_path)
    for each in (scale, loaded):
        assert each.scale.item() == before / 2
        each.update(1.0, finite)
        assert each.scale.item() == before
    save_tensors(tmp_path / "optimizer.safetensors", {})  # of a run in another type
    load_optimizer(loaded.state, tmp_path)
    assert loaded.scale.item() == before


def test_embedding_gradients_are_summed_in_float32() -> None:
    often = np.zeros((64, 12), dtype=np.int64)
    gradients = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny()
        replica = LowPrecisionReplica(model, dtype)
        # The same bfloat16 gradient for each of 768 occurrences: their sum in bfloat16 would stop at 256.
        rows = replica.model.token_embedding(torch.from_numpy(often))
        rows.backward(torch.full_like(rows, 1.0))
        assert rows.dtype == dtype
        assert model.token_embedding.weight.grad is not None
        gradients[dtype] = model.token_embedding.weight.grad[0]
    assert torch.equal(gradients[torch.bfloat16], gradients[torch.float32])
    assert (gradients[torch.float32] == often.size).all()


@pytest.mark.parametrize("tied", [False, True])
def test_learned_positions_and_tied_weights_train_in_half_precision(tied: bool) -> None:
    shape = {"position": "learned", "tie_embeddings": tied}
    _, wanted = stepped(tiny(**shape))
    _, found = stepped(tiny(**shape), dtype=torch.bfloat16)
    for own, their in zip(found, wanted, strict=True):
        assert (own - their).norm() < 0.05 * their.norm()
