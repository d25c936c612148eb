"""A loss spike is reported once; noise is not."""

from __future__ import annotations

import math
import random

import pytest

from gptscratch.training.spikes import Spikes


def reported(losses: list[float]) -> list[int]:
    """The steps, counted from 1, that are reported."""
    spikes = Spikes()
    return [step for step, loss in enumerate(losses, 1) if spikes.usual_if_above(loss) is not None]


def curve(noise: float, steps: int = 1000, start: float = 6.0, end: float = 2.0) -> list[float]:
    """Falls fast, then slowly, with normal noise."""
    chance = random.Random(0)
    return [end + (start - end) / (1 + step / 50) + chance.gauss(0, noise) for step in range(steps)]


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1, 0.4])
def test_noise_is_not_reported(noise: float) -> None:
    assert reported(curve(noise)) == []


def test_a_spike_is_reported_once_with_the_usual_loss() -> None:
    losses = curve(0.05)
    losses[600:620] = [5.0] * 20
    losses[900] = 4.0
    assert reported(losses) == [601, 901]
    spikes = Spikes()
    usual = [spikes.usual_if_above(loss) for loss in losses][600]
    assert usual == pytest.approx(2.3, abs=0.1)


def test_losses_that_are_not_finite_are_left_to_others() -> None:
    losses = curve(0.05)
    losses[500], losses[501] = math.nan, math.inf
    assert reported(losses) == []
