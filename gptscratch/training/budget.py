"""How far a run has come and when it ends, counted in steps or in time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gptscratch.config import TrainConfig
from gptscratch.errors import ConfigError
from gptscratch.training.state import TrainState

UNITS = ("steps", "epochs", "tokens", "minutes")
MOST_CLOSING = 0.5  # of a time horizon, kept for what comes after the last step


class Horizon(Protocol):
    def progress(self, state: TrainState) -> float:
        """0 at the start, 1 at the end."""

    def is_over(self, state: TrainState, step_seconds: float = 0.0) -> bool:
        """Whether ``state`` is the last one, if one more step takes so long."""


@dataclass(frozen=True)
class StepHorizon:
    steps: int

    def progress(self, state: TrainState) -> float:
        return state.step / self.steps

    def is_over(self, state: TrainState, step_seconds: float = 0.0) -> bool:  # noqa: ARG002
        return state.step >= self.steps


@dataclass(frozen=True)
class TimeHorizon:
    """Ends on time whatever the machine's speed: progress is the share of the seconds that have passed.

    With ``max_steps`` it ends after so many steps where they come first.
    """

    seconds: float  # for everything, also what comes after the last step
    max_steps: float = math.inf

    def progress(self, state: TrainState) -> float:
        by_time = state.seconds / max(1e-9, self._seconds_to_train(state))
        return min(1.0, max(by_time, state.step / self.max_steps))

    def is_over(self, state: TrainState, step_seconds: float = 0.0) -> bool:
        if state.step >= self.max_steps:
            return True
        return state.step > 0 and state.seconds + 0.5 * step_seconds >= self._seconds_to_train(state)

    def _seconds_to_train(self, state: TrainState) -> float:
        return self.seconds - min(state.closing_seconds, MOST_CLOSING * self.seconds)


def require_length(given: Mapping[str, Any]) -> None:
    """Raises ConfigError where the settings, by full name, give a training length of 0."""
    named = [unit for unit in UNITS if f"train.{unit}" in given]
    if named and not any(given[f"train.{unit}"] for unit in named):
        raise ConfigError(f"{named[0]} is {given[f'train.{named[0]}']}: it must be above 0.")


def make_horizon(config: TrainConfig, train_tokens: int, tokens_per_row: float) -> Horizon:
    """The horizon of a planned run; epochs and tokens are rounded up to whole steps."""
    if config.minutes:
        return TimeHorizon(seconds=60.0 * config.minutes, max_steps=config.max_steps or math.inf)
    return StepHorizon(steps=horizon_steps(config, train_tokens, tokens_per_row))


def horizon_steps(config: TrainConfig, train_tokens: int, tokens_per_row: float) -> int:
    """Steps of a horizon that is not a time; pads are no tokens of a row."""
    if config.steps:
        return config.steps
    tokens = config.tokens or config.epochs * train_tokens
    return max(1, math.ceil(tokens / (config.batch_size * tokens_per_row)))
