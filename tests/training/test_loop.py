"""What the loop does when the memory runs out, and the replica when compiling fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gptscratch import paths
from gptscratch.config import ModelConfig
from gptscratch.errors import CheckpointError, RunError
from gptscratch.model.gpt import GPT
from gptscratch.runs import checkpoint
from gptscratch.runs.tensors import load_tensors
from gptscratch.training import callbacks, loop
from gptscratch.training import optimizer as module
from gptscratch.training.events import Event, Logged, Notice, Started
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.state import TrainState
from gptscratch.training.trainer import TrainResult, resume

Fit = Callable[..., TrainResult]
Stopping = Callable[..., AbstractContextManager[None]]


def small_memory(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """A machine on which at most ``rows`` sequences fit."""
    loss = LowPrecisionReplica.loss

    def limited(self: LowPrecisionReplica, inputs: Tensor, targets: Tensor, factor: Tensor | float) -> Tensor:
        result = loss(self, inputs, targets, factor)  # which has used random numbers, if there is dropout
        if len(inputs) > rows:
            raise torch.OutOfMemoryError("too much")
        return result

    monkeypatch.setattr(LowPrecisionReplica, "loss", limited)


def test_full_memory_halves_the_micro_batch_until_it_fits(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    small_memory(monkeypatch, rows=2)
    events: list[Event] = []
    assert fit(batch_size=8, micro_batch_size=8, steps=4, on_event=events.append).step == 4
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert [n for n in notices if "memory" in n] == [
        "Out of memory: continuing with micro-batch size 4.",
        "Out of memory: continuing with micro-batch size 2.",
    ]


def test_a_run_that_ran_out_of_memory_is_one_with_a_smaller_micro_batch(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = fit(name="a", batch_size=8, micro_batch_size=4, dropout=0.2)
    small_memory(monkeypatch, rows=4)
    halved = fit(name="b", batch_size=8, micro_batch_size=8, dropout=0.2)
    assert small.evaluation is not None
    assert small.evaluation == halved.evaluation


def test_an_update_that_runs_out_of_memory_is_not_tried_twice(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, updates = module.orthogonalized, []

    def limited(matrices: Tensor, *options: Any) -> Tensor:
        updates.append(matrices.shape)
        if len(updates) == 2:
            raise torch.OutOfMemoryError("too much")
        return real(matrices, *options)

    monkeypatch.setattr("gptscratch.training.planning.plan_run.measured_speed", lambda *_: None)
    monkeypatch.setattr(module, "orthogonalized", limited)
    with pytest.raises(RunError, match="Out of memory while it updates the parameters"):
        fit(batch_size=8, micro_batch_size=8)
    assert len(updates) == 2


def test_what_does_not_fit_at_all_is_one_clear_line(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    small_memory(monkeypatch, rows=0)
    with pytest.raises(RunError, match="Out of memory while it trains on one sequence at a time") as caught:
        fit()
    assert caught.value.exit_code == 1


def test_a_failed_compilation_is_reported_and_training_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(_function: object) -> Callable[..., Tensor]:
        def fail(*_: object, **__: object) -> Tensor:
            raise RuntimeError("no C++ compiler")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    said: list[str] = []
    model = GPT(ModelConfig(n_layer=1, d_model=32, n_head=2, vocab_size=11))
    replica = LowPrecisionReplica(model, torch.float32)
    replica.compile(1, 10, said.append)
    ids = torch.from_numpy(np.arange(10)[None])
    assert replica.loss(ids, ids).isfinite()
    assert said == ["torch.compile failed (RuntimeError): training continues without it."]


class Eager:
    """Replaces torch.compile: the function itself, after a look at each first call."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.error: Exception | None = None

    def __call__(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def compiled(ids: Tensor, **options: Any) -> Tensor:
            if ids.shape not in self.shapes:
                self.shapes.append(tuple(ids.shape))
                if self.error:
                    raise self.error
            return function(ids, **options)

        return compiled


def test_the_model_is_compiled_before_the_first_step(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    eager = Eager()
    monkeypatch.setattr(torch, "compile", eager)
    before: list[list[tuple[int, ...]]] = []

    def listen(event: Event) -> None:
        if isinstance(event, Started):
            before.append(list(eager.shapes))

    fit(compile=True, batch_size=5, micro_batch_size=2, on_event=listen)
    assert before == [[(2, 16)]]


def test_a_compilation_that_runs_out_of_memory_is_left_to_the_first_step(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = Eager()
    eager.error = torch.OutOfMemoryError("too much")
    monkeypatch.setattr(torch, "compile", eager)
    events: list[Event] = []
    fit(compile=True, batch_size=8, micro_batch_size=8, steps=2, on_event=events.append)
    assert eager.shapes == [(8, 16)]  # the compiled function is what trains
    assert not [e for e in events if isinstance(e, Notice) and "compile" in e.text]


def test_a_compiled_run_with_dropout_is_the_plain_run_and_resumes_as_it(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, stopping: Stopping
) -> None:
    monkeypatch.setattr(torch, "compile", Eager())
    plain = fit(name="plain", dropout=0.2)
    with stopping(5):
        assert fit(name="compiled", dropout=0.2, compile=True).step == 5
    assert resume("compiled").evaluation == plain.evaluation


def break_gradients(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """In these steps, counted from 0, the loss and its gradients are not numbers."""
    real, loss = loop.step_that_fits, LowPrecisionReplica.loss
    factors = [1.0]

    def step(context: callbacks.TrainContext, *rest: Any) -> Any:
        factors[0] = math.nan if context.state.step in steps else 1.0
        return real(context, *rest)

    monkeypatch.setattr(callbacks, "_PROGRESS_SECONDS", math.inf)  # or a busy machine reports them one by one
    monkeypatch.setattr(loop, "step_that_fits", step)
    monkeypatch.setattr(LowPrecisionReplica, "loss", lambda *given: loss(*given) * factors[0])


@pytest.mark.parametrize("stop", [5, 7])
def test_a_run_survives_a_step_without_a_finite_gradient_and_resumes_exactly(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, stopping: Stopping, stop: int
) -> None:
    break_gradients(monkeypatch, range(4, 6))
    events: list[Event] = []
    whole = fit(name="whole", on_event=events.append)
    assert [e.text for e in events if isinstance(e, Notice) and "skipped" in e.text] == [
        "Updates skipped because the gradient was not finite: 2 (since the run began 2)."
    ]
    assert all(math.isfinite(e.train_loss) for e in events if isinstance(e, Logged))
    with stopping(stop):
        assert fit(name="stopped").step == stop
    assert resume("stopped").evaluation == whole.evaluation
    states = [checkpoint.load_state(paths.find_checkpoint(n, which="last")[1]) for n in ("whole", "stopped")]
    assert [(s["skipped_steps"], s["skipped_in_a_row"]) for s in states] == [(2, 0)] * 2


def test_too_many_steps_in_a_row_without_a_finite_gradient_end_the_run(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_gradients(monkeypatch, range(5, 100))
    with pytest.raises(RunError, match="10 steps in a row the loss or its gradient") as caught:
        fit(name="a")
    assert caught.value.exit_code == 1
    last = paths.find_checkpoint("a", which="last")[1]
    assert all(tensor.isfinite().all() for tensor in load_tensors(last / "model.safetensors").values())


def test_a_checkpoint_from_before_skipped_updates_were_counted_is_read() -> None:
    values = TrainState(step=3).to_dict()
    del values["skipped_steps"], values["skipped_in_a_row"]
    assert TrainState.from_dict(values) == TrainState(step=3)
    del values["tokens"]
    with pytest.raises(CheckpointError, match="tokens"):
        TrainState.from_dict(values)
