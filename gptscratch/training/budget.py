"""How long a run trains: its budget in steps and in time, and a cooldown that ends it early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gptscratch.config import UNITS, RunConfig, TrainConfig, all_settings, qualified
from gptscratch.errors import ConfigError
from gptscratch.training.schedule import schedule_of
from gptscratch.training.state import TrainState

_COOLDOWN_SHARE = 0.1  # of the steps so far, where no length is given
_MOST_CLOSING = 0.5  # of a time budget, kept for what comes after the last step


@dataclass(frozen=True)
class Budget:
    """Ends after some steps, or on time whatever the machine's speed."""

    steps: float = math.inf
    seconds: float = math.inf  # for everything, also what comes after the last step

    def progress(self, state: TrainState) -> float:
        """0 at the start, 1 at the end."""
        by_time = state.seconds / max(1e-9, self._seconds_to_train(state))
        return min(1.0, max(by_time, state.step / self.steps))

    def is_used_up(self, state: TrainState, step_seconds: float = 0.0) -> bool:
        """Whether ``state`` is the last one, if one more step takes so long. At least one step is made."""
        late = state.seconds + 0.5 * step_seconds >= self._seconds_to_train(state)
        return state.step >= self.steps or (state.step > 0 and late)

    def _seconds_to_train(self, state: TrainState) -> float:
        return self.seconds - min(state.closing_seconds, _MOST_CLOSING * self.seconds)


def make_budget(config: TrainConfig, train_tokens: int, tokens_per_row: float) -> Budget:
    """The budget of a planned run; epochs and tokens are rounded up to whole steps.

    ``tokens_per_row``: on average, without padding.
    """
    if config.minutes:
        return Budget(config.max_steps or math.inf, 60.0 * config.minutes)
    if config.steps:
        return Budget(config.steps)
    tokens = config.tokens or (config.epochs or 0.0) * train_tokens
    return Budget(max(1, math.ceil(tokens / (config.batch_size * tokens_per_row))))


def cooldown(
    config: RunConfig,
    state: TrainState,
    train_tokens: int,
    tokens_per_row: float,
    settings: Mapping[str, Any],
) -> RunConfig:
    """A run's config with which it ends soon after ``state``: the learning rate decays to 0 as in ``wsd``.

    Args:
        settings: how long, counted from ``state``, as one of ``UNITS``; none: a tenth of the steps so far.

    Raises:
        ConfigError: the learning rate has fallen to 0 already, or the settings change something else.
    """
    changes = {key: value for key, value in qualified(settings).items() if value is not None}
    if other := [all_settings()[key].label for key in changes if key.removeprefix("train.") not in UNITS]:
        raise ConfigError(f"--cooldown changes nothing but the learning rate: leave out {', '.join(other)}.")
    given = {key.removeprefix("train."): value for key, value in changes.items()}
    train = config.train
    scale = schedule_of(train)(state.step, make_budget(train, train_tokens, tokens_per_row).progress(state))
    if scale < 1e-3:
        raise ConfigError("The learning rate of this run is already 0: a cooldown changes nothing.")
    unset: dict[str, Any] = dict.fromkeys((*UNITS, "max_steps"))
    length = given or {"steps": max(10, round(_COOLDOWN_SHARE * state.step))}
    train = replace(
        train,
        **{**unset, **length},
        learning_rate=train.learning_rate * scale,
        adamw_learning_rate=train.adamw_learning_rate * scale,
        lr_schedule="wsd",
        patience=None,  # a cooldown goes to its end
        warmup_steps=0,
        final_fraction=0.0,
    )
    # The length counts from the run's beginning, and the decay begins at ``state``.
    if train.minutes:
        minutes = train.minutes + state.seconds / 60
        left = 1.0 - Budget(seconds=60 * minutes).progress(state)
        return replace(config, train=replace(train, minutes=minutes, decay_fraction=left))
    more = int(make_budget(train, train_tokens, tokens_per_row).steps)
    steps = state.step + more
    train = replace(train, **{**unset, "steps": steps}, decay_fraction=more / steps)
    return replace(config, train=train)
