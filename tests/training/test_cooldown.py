"""Ending early: the learning rate falls from its current value to 0, over the length that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from gptscratch.config import RunConfig, TrainConfig
from gptscratch.errors import ConfigError
from gptscratch.runs.metrics import read_metrics
from gptscratch.training.budget import cooldown, make_budget
from gptscratch.training.schedule import schedule_of
from gptscratch.training.state import TrainState
from gptscratch.training.trainer import TrainResult, resume

Fit = Callable[..., TrainResult]
Stopping = Callable[..., AbstractContextManager[None]]
LONG: dict[str, Any] = {"steps": 400, "log_interval": 1, "warmup_steps": 3, "eval_interval": 100}


def stopped(fit: Fit, stopping: Stopping, at: int, **settings: Any) -> TrainResult:
    with stopping(at):
        return fit(name="a", **LONG | settings)


def rates(run: Path) -> list[float]:
    return [r["learning_rate"] for r in read_metrics(run / "metrics.jsonl") if "train_loss" in r]


def test_an_interrupted_run_cools_down_over_a_tenth_of_its_steps(fit: Fit, stopping: Stopping) -> None:
    result = stopped(fit, stopping, 150, cooldown=True)
    assert (result.step, result.interrupted) == (165, False)
    assert result.evaluation is not None
    found = rates(result.run)
    peak = found[100]
    assert found[149] == peak
    assert found[150:] == pytest.approx([peak * (1 - (n / 15) ** 0.5) for n in range(15)])


def test_a_saved_run_cools_down_for_as_long_as_is_asked_from_then_on(fit: Fit, stopping: Stopping) -> None:
    assert stopped(fit, stopping, 30).interrupted
    assert resume("a", cooldown=True, tokens=20 * 8 * 16).step == 50


def test_a_run_whose_rate_falls_already_continues_from_the_rate_it_has(fit: Fit, stopping: Stopping) -> None:
    run = stopped(fit, stopping, 300).run  # half of its fall is done
    before = rates(run)[-1]
    assert resume("a", cooldown=True, steps=20).step == 320
    after = rates(run)[300:]
    assert after[0] == pytest.approx(before, rel=0.02)
    assert after == pytest.approx([after[0] * (1 - (n / 20) ** 0.5) for n in range(20)])


def test_a_stopped_cooldown_resumes_as_if_it_had_not_been_stopped(fit: Fit, stopping: Stopping) -> None:
    straight = rates(stopped(fit, stopping, 150, cooldown=True).run)
    with stopping(150, 155):
        result = fit(name="b", cooldown=True, **LONG)
    assert (result.step, result.interrupted) == (155, True)
    assert resume("b").step == 165
    assert rates(result.run) == straight


def test_minutes_count_from_now_on_and_leave_room_for_the_end() -> None:
    state = TrainState(step=50, seconds=90.0, closing_seconds=10.0)
    config = RunConfig(train=TrainConfig(minutes=10, learning_rate=0.3, warmup_steps=5, batch_size=4))
    train = cooldown(config, state, 1000, 8.0, {"minutes": 1.0}).train
    assert train.minutes == pytest.approx(2.5)
    scale, budget = schedule_of(train), make_budget(train, 1000, 8)
    assert scale(50, budget.progress(state)) == pytest.approx(1.0)
    state.seconds = 115.0  # half of the 50 seconds that are left for training
    assert scale(60, budget.progress(state)) == pytest.approx(1 - 0.5**0.5)


def test_a_run_that_has_ended_cannot_cool_down(tale: Path) -> None:
    before = (tale / "config.json").read_text()
    with pytest.raises(ConfigError, match="already 0"):
        resume("tale", cooldown=True)
    assert (tale / "config.json").read_text() == before


def test_a_cooldown_changes_nothing_but_the_rate(tale: Path) -> None:
    for decay in (0.3, 0.0):
        with pytest.raises(ConfigError, match="leave out --weight-decay"):
            resume(tale, cooldown=True, weight_decay=decay)
