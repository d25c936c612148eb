"""Schedules against their closed forms and torch's; budgets in every unit."""

from __future__ import annotations

import math

import pytest
import torch

from gptscratch.config import SCHEDULES, TrainConfig
from gptscratch.training.budget import Budget, make_budget
from gptscratch.training.schedule import Schedule, schedule_of
from gptscratch.training.state import TrainState


def schedule(name: str, *, warmup_steps: int = 0, decay: float = 0.5, final: float = 0.0) -> Schedule:
    return schedule_of(
        TrainConfig(lr_schedule=name, warmup_steps=warmup_steps, decay_fraction=decay, final_fraction=final)
    )


def test_every_schedule_of_the_config_exists() -> None:
    for name in SCHEDULES:
        assert 0 < schedule(name)(0, 0.2) <= 1


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [("constant", 1, 1), ("cosine", 1, 0.1), ("linear", 1, 0.1), ("wsd", 1, 0.1), ("onecycle", 0.04, 4e-6)],
)
def test_the_ends_of_each_schedule(name: str, start: float, end: float) -> None:
    scale = schedule(name, final=0.1)
    assert scale(10, 0.0) == pytest.approx(start)
    assert scale(10, 1.0) == pytest.approx(end)
    assert scale(10, 1.5) == scale(10, 1.0)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "wsd"])
def test_warm_up_rises_evenly_and_never_begins_at_zero(name: str) -> None:
    scale = schedule(name, warmup_steps=4)
    assert [scale(step, 0.0) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_wsd_is_that_of_transformers() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = (
        pytest.importorskip("transformers")
        .get_wsd_schedule(optimizer, 0, 8, num_stable_steps=12, min_lr_ratio=0.2, decay_type="1-sqrt")
        .lr_lambdas[0]
    )
    scale = schedule("wsd", decay=0.4, final=0.2)
    assert [scale(9, step / 20) for step in range(21)] == pytest.approx([theirs(step) for step in range(21)])


def test_wsd_decays_over_any_share_of_the_run() -> None:
    assert schedule("wsd", decay=0.0)(9, 1.0) == 1.0
    assert schedule("wsd", decay=1.0)(9, 0.25) == pytest.approx(0.5)


def test_cosine_and_linear_are_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([parameter], lr=1.0), 20, eta_min=0.1)
    linear = torch.optim.lr_scheduler.LinearLR(torch.optim.SGD([parameter], lr=1.0), 1.0, 0.1, total_iters=20)
    for theirs, name in ((cosine, "cosine"), (linear, "linear")):
        for step in range(21):
            assert schedule(name, final=0.1)(step, step / 20) == pytest.approx(theirs.get_last_lr()[0])
            theirs.optimizer.step()
            theirs.step()


def test_onecycle_is_torchs() -> None:
    total = 41
    parameter = torch.nn.Parameter(torch.zeros(1))
    # torch counts its rise to the step before pct_start * total_steps, and its end at total_steps - 1.
    share = (0.3 * (total - 1) + 1) / total
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.SGD([parameter], lr=1.0, momentum=0.9), max_lr=1.0, total_steps=total, pct_start=share
    )
    for step in range(total):
        wanted = theirs.get_last_lr()[0]
        assert schedule("onecycle")(step, step / (total - 1)) == pytest.approx(wanted, abs=1e-9)
        if step < total - 1:
            theirs.optimizer.step()
            theirs.step()


@pytest.mark.parametrize(
    ("unit", "value", "steps"), [("steps", 7, 7), ("epochs", 2.5, 63), ("tokens", 81, 3), ("tokens", 80, 2)]
)
def test_a_budget_in_any_unit_is_rounded_up_to_steps(unit: str, value: float, steps: int) -> None:
    config = TrainConfig(**{unit: value}, batch_size=4)  # type: ignore[arg-type]
    assert make_budget(config, train_tokens=1001, tokens_per_row=10) == Budget(steps)


def test_a_step_budget_counts_steps() -> None:
    budget = Budget(8)
    assert [budget.progress(TrainState(step=step)) for step in (0, 2, 8)] == [0, 0.25, 1]
    assert [budget.is_used_up(TrainState(step=step)) for step in (7, 8, 9)] == [False, True, True]


def test_a_time_budget_ends_on_time_with_room_for_the_closing_work() -> None:
    budget = make_budget(TrainConfig(minutes=1.0), 1000, 10)
    state = TrainState()
    while not budget.is_used_up(state):
        state.step += 1
        state.seconds += 1.7 if state.step % 3 else 2.9  # steps of unequal length
        state.closing_seconds = 5.0
        assert 0 < budget.progress(state) <= 1
    assert state.seconds + state.closing_seconds == pytest.approx(60, abs=2.9)
    assert budget.progress(state) == pytest.approx(1.0, abs=0.05)


def test_a_time_budget_makes_at_least_one_step() -> None:
    budget = Budget(seconds=1.0)
    assert not budget.is_used_up(TrainState(seconds=50.0))
    assert budget.is_used_up(TrainState(seconds=51.0, step=1))
    assert math.isfinite(Budget(seconds=1.0).progress(TrainState(seconds=2.0, closing_seconds=9.0)))
