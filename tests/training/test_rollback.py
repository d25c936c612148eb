"""A run that diverges continues from its best checkpoint with a smaller learning rate, or stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptscratch import paths
from gptscratch.errors import RunError
from gptscratch.runs.metrics import read_metrics
from gptscratch.runs.tensors import load_tensors
from gptscratch.training import rollback
from gptscratch.training.events import Event, Notice
from gptscratch.training.trainer import TrainResult, resume

Fit = Callable[..., TrainResult]
# Weight decay multiplies each matrix by 1 - rate * decay in each step: in the end by -6, until it overflows.
# With a quarter of the rate it is -0.75.
DIVERGING: dict[str, Any] = {
    "optimizer": "adamw", "learning_rate": 0.1, "weight_decay": 70.0, "lr_schedule": "constant",
    "warmup_steps": 48, "steps": 96, "log_interval": 4, "dropout": 0.2,
}  # fmt: skip


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice) and "diverged" in event.text]


def parameters(run: Path) -> dict[str, torch.Tensor]:
    return load_tensors(paths.checkpoint_dir(run, 96) / "model.safetensors")


class KilledError(BaseException):
    """Nothing catches it."""


def test_a_run_that_diverges_continues_with_a_smaller_learning_rate_also_after_a_kill(fit: Fit) -> None:
    events: list[Event] = []
    result = fit(name="straight", on_event=events.append, **DIVERGING)
    straight = result.run
    assert result.step == 96
    assert ["from step 8 with a lower learning rate: 0.025." in text for text in notices(events)] == [True]
    assert json.loads((straight / "config.json").read_text())["train"]["learning_rate"] == 0.025
    logged = [record for record in read_metrics(straight / "metrics.jsonl") if "train_loss" in record]
    assert [record["step"] for record in logged] == list(range(4, 97, 4))
    assert logged[-1]["learning_rate"] == 0.025
    assert logged[-1]["train_loss"] < logged[0]["train_loss"]

    def die(event: Event) -> None:
        if notices([event]):
            raise KilledError

    with pytest.raises(KilledError):
        fit(name="killed", on_event=die, **DIVERGING)
    killed = resume("killed").run
    wanted = parameters(straight)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in parameters(killed).items())
    assert (killed / "best.json").read_text() == (straight / "best.json").read_text()


def test_a_run_stops_where_it_diverges_if_asked_to(fit: Fit) -> None:
    with pytest.raises(RunError, match="Training diverged") as caught:
        fit(name="a", on_divergence="stop", **DIVERGING)
    assert "--learning-rate" in caught.value.hint
    assert len(paths.checkpoints(paths.run_dir("a"))) > 1


def test_a_run_that_diverges_again_and_again_stops(fit: Fit) -> None:
    events: list[Event] = []
    with pytest.raises(RunError, match="Training diverged"):
        fit(name="a", on_event=events.append, **DIVERGING | {"weight_decay": 1e9, "save_interval": 1})
    assert len(notices(events)) == rollback.MOST
