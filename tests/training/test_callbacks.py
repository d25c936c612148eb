"""Between the steps: when a run by time ends, what is saved and when, what is reported."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gptscratch import paths
from gptscratch.config import TrainConfig
from gptscratch.distributed import ALONE
from gptscratch.errors import RunError
from gptscratch.runs.metrics import read_metrics
from gptscratch.training import callbacks, loop
from gptscratch.training.budget import Budget
from gptscratch.training.context import TrainContext
from gptscratch.training.events import Evaluated, Event, Logged, Progress, Saved
from gptscratch.training.state import TrainState
from gptscratch.training.step import StepResult
from gptscratch.training.trainer import TrainResult, resume

Fit = Callable[..., TrainResult]


class FakeTime:
    """Replaces the clock of training: it moves when the test moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr("gptscratch.training.clock.now", clock)
    return clock


def session_of(clock: FakeTime, *, seconds: float, final_tokens: int = 50_000, **state: Any) -> TrainContext:
    """A context of a run by time whose steps have 1,024 tokens and take as long as the test says."""
    context = TrainContext.__new__(TrainContext)  # of what it holds, these tests use no model and no data
    context.world = ALONE
    context.config = TrainConfig(
        minutes=seconds / 60, eval_tokens=5_000, eval_interval=100, log_interval=100, micro_batch_size=1
    )
    context.budget = Budget(seconds=seconds)
    context.final_tokens = final_tokens
    context.start(TrainState(**state), clock() - state.get("seconds", 0.0))
    return context


def scored(step: int, loss: float) -> Evaluated:
    return Evaluated(
        step=step,
        val_loss=loss,
        val_accuracy=0.5,
        val_perplexity=1.0,
        val_bits_per_byte=1.0,
        val_tokens=5_000,
    )


def step(context: TrainContext, clock: FakeTime, seconds: float) -> None:
    clock.now += seconds
    context.record_step(StepResult(torch.ones(()), torch.ones(()), 1024), seconds)


def test_a_first_step_that_compiles_for_a_minute_does_not_end_five_minutes(clock: FakeTime) -> None:
    context = session_of(clock, seconds=300)
    step(context, clock, 60.0)
    assert not context.finished
    for _ in range(50):
        step(context, clock, 0.1)
    assert not context.finished


def test_a_tenth_of_the_time_is_kept_for_the_end_until_it_is_measured(clock: FakeTime) -> None:
    context = session_of(clock, seconds=300)
    step(context, clock, 1.0)
    assert context.state.closing_seconds == pytest.approx(30)
    for what, seconds in (("save", 2.0), ("evaluate", 0.5)):
        with context.timed(what):
            clock.now += seconds
    assert context.state.closing_seconds == pytest.approx(2.0 + 0.5 * (1 + 10))  # 50,000 tokens at the end


@pytest.mark.parametrize("start_up", [0.0, 20.0, 26.0, 33.0])
def test_the_time_after_a_slow_start_up_is_used(clock: FakeTime, start_up: float) -> None:
    context = session_of(clock, seconds=36, final_tokens=5_000)
    clock.now += start_up
    context.start(TrainState(), started=0.0)
    while not context.finished:
        step(context, clock, 0.05)
    closing = context.state.closing_seconds
    assert context.state.seconds + closing == pytest.approx(36, abs=0.2)
    assert context.state.step == pytest.approx((36 - start_up - closing) / 0.05, abs=2)


def test_a_resumed_run_does_not_count_its_start_up_as_a_step(clock: FakeTime) -> None:
    context = session_of(clock, seconds=36, final_tokens=5_000, step=3)
    context.state.seconds = 27.0  # of them 26 seconds of start-up
    context.started = clock() - 27.0
    assert not context.budget.is_used_up(context.state)
    step(context, clock, 0.05)
    step(context, clock, 0.05)
    assert not context.finished


def test_a_run_by_time_that_is_over_is_over_when_it_is_resumed(clock: FakeTime) -> None:
    context = session_of(clock, seconds=20, final_tokens=5_000)
    while not context.finished:
        step(context, clock, 0.7)
    state = TrainState.from_dict(json.loads(json.dumps(context.state.to_dict())))
    assert Budget(seconds=20).is_used_up(state)
    assert not Budget(seconds=60).is_used_up(state)


def test_max_steps_limits_the_steps_made_in_the_time(clock: FakeTime) -> None:
    context = session_of(clock, seconds=300)
    context.budget = Budget(7, 300)
    progress = []
    while not context.finished:
        step(context, clock, 0.1)
        progress.append(context.budget.progress(context.state))
    assert context.state.step == 7
    assert progress == pytest.approx([n / 7 for n in range(1, 8)])


def test_the_end_scores_as_many_tokens_as_there_is_time_for(clock: FakeTime) -> None:
    context = session_of(clock, seconds=20)
    context.config = dataclasses.replace(context.config, final_eval_tokens=50_000)
    assert context.tokens_at_end() == 50_000  # nothing was measured
    context.last_seconds["evaluate"] = 1.0  # for 5,000 tokens
    for now, tokens in ((5.0, 50_000), (16.0, 20_000), (19.9, 5_000), (30.0, 5_000)):
        clock.now = now
        assert context.tokens_at_end() == tokens


def test_progress_is_reported_by_the_clock_and_not_written(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter(range(10**6))
    monkeypatch.setattr("gptscratch.training.clock.now", lambda: 0.25 * next(readings))
    events: list[Event] = []
    result = fit(name="a", log_interval=12, on_event=events.append)
    shown = [e for e in events if type(e) is Progress]
    assert len(shown) > 5
    assert all(math.isfinite(e.train_loss) and 0 < e.progress < 1 for e in shown)
    written = read_metrics(result.run / "metrics.jsonl")
    assert [r["step"] for r in written if "train_loss" in r] == [12, 24]


def test_reporting_progress_changes_no_logged_loss(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for pause in (0.0, 10.0):
        monkeypatch.setattr(callbacks, "_PROGRESS_SECONDS", pause)
        records = read_metrics(fit(name=f"a{pause}", log_interval=7).run / "metrics.jsonl")
        losses.append([r["train_loss"] for r in records if "train_loss" in r])
    assert losses[0] == losses[1]


def test_a_checkpoint_is_saved_when_ten_minutes_have_passed(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = iter(range(10**6))
    monkeypatch.setattr("gptscratch.training.clock.now", lambda: 90.0 * next(readings))
    saved: list[Event] = []
    result = fit(name="a", save_interval=1000, eval_interval=1000, on_event=saved.append)
    steps = [e.step for e in saved if isinstance(e, Saved)]
    assert len(steps) > 3
    assert steps[-1] == result.step


def test_an_evaluation_saves_only_where_it_is_the_best(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: Iterator[float] = iter([3.0, 2.0, 4.0, 1.5, 9.0, 9.0, 9.0, 9.0])

    def evaluate(context: TrainContext) -> None:
        context.evaluate = lambda step, limit: scored(step, next(losses))  # noqa: ARG005
        callbacks.evaluate(context)

    monkeypatch.setattr(loop, "CALLBACKS", (callbacks.log, evaluate, callbacks.save))
    events: list[Event] = []
    result = fit(
        name="a", eval_interval=4, save_interval=1000, steps=24, keep_checkpoints=9, on_event=events.append
    )
    assert [e.step for e in events if isinstance(e, Saved)] == [4, 8, 16, 24]
    assert result.best_step == 16
    assert json.loads((result.run / "best.json").read_text())["step"] == 16
    assert [step for step, _ in paths.checkpoints(result.run)] == [4, 8, 16, 24]


def test_a_run_that_patience_ended_is_over_and_more_patience_continues_it(fit: Fit) -> None:
    rising = {"lr_schedule": "constant", "learning_rate": 0.3, "adamw_learning_rate": 0.6}
    ended = fit(name="a", steps=400, eval_interval=4, patience=2, **rising)
    assert ended.step < 400
    events: list[Event] = []
    assert resume("a", on_event=events.append).step == ended.step
    assert not [e for e in events if isinstance(e, Logged)]
    assert resume("a", grad_clip=2.0).step == ended.step
    assert resume("a", patience=6, steps=ended.step + 4).step == ended.step + 4


def test_a_run_that_patience_ended_is_trained_for_the_length_that_is_asked_for(fit: Fit) -> None:
    rising = {"lr_schedule": "constant", "learning_rate": 0.3, "adamw_learning_rate": 0.6}
    ended = fit(name="a", steps=400, eval_interval=4, patience=2, **rising).step
    assert resume("a", steps=ended + 4).step == ended + 4
    assert resume("a", cooldown=True, steps=30).step == ended + 34


def test_divergence_says_what_is_left_and_how_to_continue(fit: Fit) -> None:
    with pytest.raises(RunError) as caught:
        fit(name="a", optimizer="adamw", learning_rate=1e38, warmup_steps=0, lr_schedule="constant")
    assert "diverged" in caught.value.message
    assert "No checkpoint was saved yet. Start again with --learning-rate" in caught.value.hint


def test_a_diverged_run_is_continued_by_its_path_with_both_rates_lower(fit: Fit, tmp_path: Path) -> None:
    run = tmp_path / "elsewhere"
    with pytest.raises(RunError) as caught:
        fit(out=run, on_divergence="stop", learning_rate=0.03, weight_decay=1e6, eval_interval=1,
            save_interval=1, warmup_steps=0)  # fmt: skip
    assert f"train --resume {run} --learning-rate 0.01 --set adamw_learning_rate=" in caught.value.hint


def test_memory_that_runs_out_in_an_evaluation_is_one_clear_line(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("gptscratch.training.evaluate.sums_over", full)
    with pytest.raises(RunError, match="Out of memory while it evaluates"):
        fit(name="a")


def test_the_evaluation_at_the_end_is_not_written_again_by_a_resume(tale: Path) -> None:
    before = (tale / "metrics.jsonl").read_text()
    events: list[Event] = []
    resume("tale", on_event=events.append)
    assert (tale / "metrics.jsonl").read_text() == before
    assert len([e for e in events if isinstance(e, Evaluated)]) <= 1
