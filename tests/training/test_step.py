"""One step: independent of the micro-batch, clipped, in float32 whatever does the work."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptscratch.config import ModelConfig
from gptscratch.model.gpt import GPT
from gptscratch.training.loss import IGNORE
from gptscratch.training.optimizer import Optimizer, make_optimizer
from gptscratch.training.step import StepResult, Worker, clip, take_step

INPUTS = np.random.default_rng(0).integers(0, 31, (8, 12))
TARGETS = np.random.default_rng(1).integers(0, 31, (8, 12))


def tiny(**changes: object) -> GPT:
    torch.manual_seed(0)
    shape = {"vocab_size": 31, "context_length": 12, "n_layer": 2, "n_head": 2, "d_model": 32} | changes
    return GPT(ModelConfig(**shape))  # type: ignore[arg-type]


def optimizer_of(model: GPT, kind: str = "muon") -> Optimizer:
    return make_optimizer(
        model, optimizer=kind, learning_rate=0.02, adamw_learning_rate=0.01, weight_decay=0.0,
        betas=(0.9, 0.95), momentum=0.95,
    )  # fmt: skip


class Watching:
    """An optimizer that only looks."""

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.gradients: list[torch.Tensor] = []

    def step(self, scale: float) -> None:
        del scale
        self.gradients = [p.grad.clone() for p in self.model.parameters() if p.grad is not None]

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def load(self, state: object) -> None:
        del state


def stepped(
    model: GPT, *, micro_batch: int = 8, grad_clip: float = 0.0, dtype: torch.dtype = torch.float32,
    targets: np.ndarray = TARGETS,
) -> tuple[StepResult, list[torch.Tensor]]:  # fmt: skip
    watching = Watching(model)
    result = take_step(
        Worker(model, dtype),
        watching,
        INPUTS,
        targets,
        micro_batch=micro_batch,
        grad_clip=grad_clip,
        scale=1.0,
    )
    return result, watching.gradients


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 8, 100])
def test_the_result_does_not_depend_on_the_micro_batch(micro_batch: int) -> None:
    targets = TARGETS.copy()
    targets[0, :9] = IGNORE  # so that the micro-batches count unequally
    result, gradients = stepped(tiny(), micro_batch=micro_batch, targets=targets)
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


def test_a_gradient_below_the_limit_is_left_alone() -> None:
    parameter = torch.zeros(3)
    parameter.grad = torch.tensor([3.0, 0.0, 4.0])
    assert clip([parameter], 5.1).item() == 5.0
    assert parameter.grad.tolist() == [3.0, 0.0, 4.0]


@pytest.mark.parametrize("tied", [False, True])
def test_half_precision_work_gives_float32_gradients_near_the_full_ones(tied: bool) -> None:
    model = tiny(tie_embeddings=tied)
    full, wanted = stepped(model)
    for micro_batch in (8, 1):
        half, found = stepped(model, micro_batch=micro_batch, dtype=torch.bfloat16)
        assert half.loss.item() == pytest.approx(full.loss.item(), rel=1e-2)
        assert len(found) == len(wanted)
        for own, their in zip(found, wanted, strict=True):
            assert own.dtype == torch.float32
            assert (own - their).norm() < 0.05 * their.norm()
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_gradients_add_up_in_float32() -> None:
    model = tiny()
    worker = Worker(model, torch.bfloat16)
    for own in worker.copies:
        own.grad = torch.ones_like(own)
    worker.collect()
    for own in worker.copies:
        own.grad = torch.full_like(own, 2**-10)
    worker.collect()
    assert all((p.grad == 1 + 2**-10).all() for p in model.parameters())  # in bfloat16 it would be 1


def test_gradients_of_float16_do_not_vanish() -> None:
    model = tiny()
    _, wanted = stepped(model)
    _, found = stepped(model, dtype=torch.float16)
    for own, their in zip(found, wanted, strict=True):
        assert (own - their).norm() < 0.02 * their.norm()


@pytest.mark.parametrize(("kind", "dtype"), [("muon", "float32"), ("adamw", "float32"), ("muon", "bfloat16")])
def test_a_tiny_batch_is_learnt_by_heart(kind: str, dtype: str) -> None:
    model = tiny()
    worker, optimizer = Worker(model, getattr(torch, dtype)), optimizer_of(model, kind)
    losses = [
        take_step(worker, optimizer, INPUTS, TARGETS, micro_batch=4, grad_clip=1.0, scale=1.0).loss.item()
        for _ in range(80)
    ]
    assert losses[0] == pytest.approx(np.log(31), abs=0.3)
    assert losses[-1] < 0.05


def test_no_gradient_outlives_its_step() -> None:
    model = tiny()
    worker = Worker(model, torch.bfloat16)
    take_step(worker, optimizer_of(model), INPUTS, TARGETS, micro_batch=4, grad_clip=1.0, scale=1.0)
    assert all(p.grad is None for p in [*worker.parameters, *worker.copies])


def test_the_working_copy_follows_the_model() -> None:
    model = tiny()
    worker = Worker(model, torch.bfloat16)
    before = copy.deepcopy(model)
    take_step(worker, optimizer_of(model), INPUTS, TARGETS, micro_batch=8, grad_clip=1.0, scale=1.0)
    worker.refresh()
    for own, now, old in zip(worker.copies, model.parameters(), before.parameters(), strict=True):
        assert torch.equal(own, now.bfloat16())
        assert not torch.equal(now, old)
