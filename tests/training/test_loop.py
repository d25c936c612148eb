"""What the loop does when the memory runs out, and the worker when compiling fails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from gptscratch.config import ModelConfig
from gptscratch.errors import RunError
from gptscratch.model.gpt import GPT
from gptscratch.training.events import Event, Notice
from gptscratch.training.step import Worker
from gptscratch.training.trainer import TrainResult

Fit = Callable[..., TrainResult]


def small_memory(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """A machine on which at most so many sequences fit."""
    loss = Worker.loss

    def limited(self: Worker, inputs: Tensor, targets: Tensor) -> Tensor:
        if len(inputs) > rows:
            raise torch.OutOfMemoryError("too much")
        return loss(self, inputs, targets)

    monkeypatch.setattr(Worker, "loss", limited)


def test_full_memory_halves_the_micro_batch_until_it_fits(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    small_memory(monkeypatch, rows=2)
    events: list[Event] = []
    assert fit(batch_size=8, micro_batch=8, steps=4, listen=events.append).step == 4
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert [n for n in notices if "memory" in n] == [
        "The memory is full: going on with 4 sequences at a time.",
        "The memory is full: going on with 2 sequences at a time.",
    ]


def test_a_halved_micro_batch_changes_no_loss(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(name="a", batch_size=8, micro_batch=8)
    small_memory(monkeypatch, rows=4)
    halved = fit(name="b", batch_size=8, micro_batch=8)
    assert whole.evaluation is not None
    assert halved.evaluation is not None
    assert halved.evaluation.val_loss == pytest.approx(whole.evaluation.val_loss, rel=5e-3)


def test_what_does_not_fit_at_all_is_one_clear_line(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    small_memory(monkeypatch, rows=0)
    with pytest.raises(RunError, match="Out of memory while it trains on one sequence at a time"):
        fit()


def test_a_failed_compilation_goes_on_without_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(_function: object) -> Callable[..., Tensor]:
        def fail(*_: object, **__: object) -> Tensor:
            raise RuntimeError("no C++ compiler")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    said: list[str] = []
    model = GPT(ModelConfig(n_layer=1, d_model=32, n_head=2, vocab_size=11))
    worker = Worker(model, torch.float32, compile=True, on_fallback=said.append)
    ids = torch.from_numpy(np.arange(10)[None])
    assert worker.loss(ids, ids).isfinite()
    assert said == ["torch.compile failed (RuntimeError): training goes on without it."]
