"""How far a run has come and when it ends, counted in steps or in time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from gptscratch.config import TrainConfig
from gptscratch.training.state import TrainState


class Horizon(Protocol):
    def progress(self, state: TrainState) -> float:
        """0 at the start, 1 at the end."""

    def is_over(self, state: TrainState) -> bool: ...


@dataclass(frozen=True)
class StepHorizon:
    steps: int

    def progress(self, state: TrainState) -> float:
        return state.step / self.steps

    def is_over(self, state: TrainState) -> bool:
        return state.step >= self.steps


@dataclass(frozen=True)
class TimeHorizon:
    """Ends on time whatever the machine's speed: progress is the share of the seconds that is gone."""

    seconds: float  # for everything, also what comes after the last step

    def progress(self, state: TrainState) -> float:
        return min(1.0, state.seconds / max(1e-9, self.seconds - state.closing_seconds))

    def is_over(self, state: TrainState) -> bool:
        typical_step = state.seconds / max(1, state.step)
        return state.step > 0 and state.seconds + 0.5 * typical_step >= self.seconds - state.closing_seconds


def make_horizon(config: TrainConfig, train_tokens: int, tokens_per_row: float) -> Horizon:
    """The horizon of a planned run; epochs and tokens are rounded up to whole steps."""
    if config.minutes:
        return TimeHorizon(seconds=60.0 * config.minutes)
    return StepHorizon(steps=horizon_steps(config, train_tokens, tokens_per_row))


def horizon_steps(config: TrainConfig, train_tokens: int, tokens_per_row: float) -> int:
    """Steps of a horizon that is not a time; pads are no tokens of a row."""
    if config.steps:
        return config.steps
    tokens = config.tokens or config.epochs * train_tokens
    return max(1, math.ceil(tokens / (config.batch_size * tokens_per_row)))
