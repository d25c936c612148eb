"""Where a run stands, beside its parameters: all of it plain numbers, JSON both ways."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gptscratch.errors import CheckpointError


@dataclass
class TrainState:
    """Mutable, and the only such thing besides the model and the optimizer."""

    step: int = 0  # optimizer updates done
    tokens: int = 0  # training tokens seen
    seconds: float = 0.0  # of the run so far, over all of its sessions
    loss_sum: float = 0.0  # since the last logged step, in nats per token
    loss_count: int = 0  # steps in loss_sum
    best_val_loss: float = math.inf  # nats per token
    best_step: int = -1
    evaluations_since_best: int = 0
    closing_seconds: float = 0.0  # that saving, scoring and a sample will take at the end, as last measured

    def to_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        if math.isinf(self.best_val_loss):
            values["best_val_loss"] = None  # JSON has no infinity
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainState:
        """Raises CheckpointError where a field is missing."""
        names = [f.name for f in dataclasses.fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise CheckpointError(f"The checkpoint's state.json lacks {', '.join(missing)}.")
        known = {name: values[name] for name in names}
        if known["best_val_loss"] is None:
            known["best_val_loss"] = math.inf
        return cls(**known)
