"""Ending a run early and well: the rate falls from where it stands to 0 over a few more steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gptscratch.config import RunConfig, TrainConfig, qualified
from gptscratch.errors import ConfigError
from gptscratch.training.budget import TimeHorizon, horizon_steps, make_horizon
from gptscratch.training.schedule import schedule_of
from gptscratch.training.state import TrainState

SHARE = 0.1  # of the steps so far, where nothing else is said
HORIZONS = ("steps", "epochs", "tokens", "minutes")


def annealed(
    config: RunConfig,
    state: TrainState,
    train_tokens: int,
    tokens_per_row: float,
    settings: Mapping[str, Any],
) -> RunConfig:
    """A run's config such that it ends soon after ``state``, its rate falling linearly to 0 from now on.

    Args:
        train_tokens: of the corpus, for a horizon in epochs.
        tokens_per_row: fewer than the context where rows are padded.
        settings: how long, counted from now, as one of ``HORIZONS``; without, ``SHARE`` of the steps so far.

    Raises:
        ConfigError: the rate has fallen to 0 already, or the settings change something else.
    """
    given = {key.removeprefix("train."): value for key, value in qualified(settings).items() if value}
    other = sorted(given.keys() - set(HORIZONS))
    if other:
        raise ConfigError(f"--cooldown changes nothing but the rate: leave out {', '.join(other)}.")
    train = config.train
    progress = make_horizon(train, train_tokens, tokens_per_row).progress(state)
    scale = schedule_of(train)(state.step, progress)
    if scale < 1e-3:
        raise ConfigError("The run's rate has fallen to 0 already: there is nothing to anneal.")
    none = dict.fromkeys((*HORIZONS, "max_steps"), 0)
    falling = replace(
        train,
        **none | (given or {"steps": max(10, round(SHARE * state.step))}),
        learning_rate=train.learning_rate * scale,
        adamw_learning_rate=train.adamw_learning_rate * scale,
        lr_schedule="wsd",
        warmup_steps=0,
        final_fraction=0.0,
    )
    return replace(config, train=_counted_from(falling, state, train_tokens, tokens_per_row))


def _counted_from(train: TrainConfig, state: TrainState, train_tokens: int, row: float) -> TrainConfig:
    """The same with a horizon that counts from the run's beginning, and falls from ``state`` on."""
    if train.minutes:
        minutes = train.minutes + state.seconds / 60
        left = 1.0 - TimeHorizon(60 * minutes).progress(state)
        return replace(train, minutes=minutes, decay_fraction=left)
    more = horizon_steps(train, train_tokens, row)
    steps = state.step + more
    return replace(train, steps=steps, epochs=0.0, tokens=0, decay_fraction=more / steps)
