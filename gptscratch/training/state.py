"""How far a run has come, in addition to its parameters: plain numbers, to JSON and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gptscratch.errors import CheckpointError

_LARGEST = 10**18  # of any number in a state; nan is not below it
_NEWER = ("skipped_steps", "skipped_in_a_row")  # which checkpoints of version 0.1 do not have


@dataclass
class TrainState:
    """The counters of a run, which each step changes."""

    step: int = 0  # optimizer updates done
    tokens: int = 0  # training tokens seen
    seconds: float = 0.0  # of the run so far, over all of its sessions
    loss_sum: float = 0.0  # since the last logged step, in nats per token
    loss_count: int = 0  # steps in loss_sum
    skipped_steps: int = 0  # whose gradient was not finite: they updated nothing
    skipped_in_a_row: int = 0  # of these, the newest
    best_val_loss: float = math.inf  # nats per token
    best_step: int = -1
    evaluations_since_best: int = 0
    closing_seconds: float = 0.0  # that saving, scoring and a sample will take at the end, as last measured

    def add_step(self, loss: float, grad_norm: float) -> None:
        """Take note of what a step gave; a loss that is not finite is left out of the mean."""
        if math.isfinite(loss):
            self.loss_sum += loss
            self.loss_count += 1
        is_skipped = not (math.isfinite(loss) and math.isfinite(grad_norm))
        self.skipped_steps += is_skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if is_skipped else 0

    def forget_best(self) -> None:
        """The best checkpoint is gone: the next evaluation is the best one."""
        self.best_val_loss, self.best_step, self.evaluations_since_best = math.inf, -1, 0

    def is_out_of_patience(self, patience: int | None) -> bool:
        """Whether this number of evaluations in a row were not better than the best one; None: never."""
        return patience is not None and self.evaluations_since_best >= patience

    def to_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        if math.isinf(self.best_val_loss):
            values["best_val_loss"] = None  # JSON has no infinity
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainState:
        """Raises CheckpointError where a field is missing, not a number, or out of range."""
        known: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            value = values.get(field.name, 0 if field.name in _NEWER else None)
            if value is None and field.name == "best_val_loss":
                known[field.name] = math.inf
                continue
            kinds = (int, float) if isinstance(field.default, float) else (int,)
            if type(value) not in kinds or not -1 <= value <= _LARGEST:
                raise CheckpointError(f"The checkpoint's state.json is damaged: {field.name} is {value!r}.")
            known[field.name] = value
        if known["best_step"] > known["step"]:
            raise CheckpointError("The checkpoint's state.json is damaged: its best step is not a past one.")
        return cls(**known)
