"""Learning-rate schedules: pure functions of how far the run has come.

``progress`` is 0 at the start and 1 at the end of the run, whether its budget is counted in steps or in
minutes, so a run that is given ten minutes has decayed fully after ten minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gptscratch.config import TrainConfig

Schedule = Callable[[int, float], float]  # (step, progress in [0, 1]) -> factor of the peak learning rate


def schedule_of(config: TrainConfig) -> Schedule:
    """The learning rate of a run: linear warm-up over its first steps, times the curve of its schedule."""
    curve = _CURVES[config.lr_schedule]
    warmup_steps = 0 if config.lr_schedule == "onecycle" else config.warmup_steps  # it has its own

    def lr_scale(step: int, progress: float) -> float:
        warmup = min(1.0, (step + 1) / (warmup_steps + 1))
        return warmup * curve(min(max(progress, 0.0), 1.0), config)

    return lr_scale


def _wsd(progress: float, config: TrainConfig) -> float:
    """Warm-up, stable, decay (Hu et al. 2024, "MiniCPM").

    The decay is "1-sqrt" (Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations").
    """
    length = config.decay_fraction
    decayed = max(0.0, (progress - (1.0 - length)) / length) if length else 0.0
    return 1.0 - (1.0 - config.final_fraction) * math.sqrt(decayed)


def _cosine(progress: float, config: TrainConfig) -> float:
    """Loshchilov & Hutter 2017, "SGDR", without restarts."""
    return config.final_fraction + (1.0 - config.final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _onecycle(progress: float, _config: TrainConfig) -> float:
    """Smith & Topin 2018, "Super-Convergence", cosine-shaped: 30 % up from a 25th, then down to near 0."""
    start, end, peak = 1 / 25, 1 / 25e4, 0.3
    if progress < peak:
        return start + (1.0 - start) * 0.5 * (1.0 - math.cos(math.pi * progress / peak))
    return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * (progress - peak) / (1.0 - peak)))


_CURVES: dict[str, Callable[[float, TrainConfig], float]] = {
    "constant": lambda _progress, _config: 1.0,
    "linear": lambda progress, config: 1.0 - (1.0 - config.final_fraction) * progress,
    "wsd": _wsd,
    "cosine": _cosine,
    "onecycle": _onecycle,
}
