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
    return make_schedule(
        config.lr_schedule,
        warmup_steps=config.warmup_steps,
        decay_fraction=config.decay_fraction,
        final_fraction=config.final_fraction,
    )


def make_schedule(name: str, *, warmup_steps: int, decay_fraction: float, final_fraction: float) -> Schedule:
    """The schedule of this name as one function.

    Args:
        name: one of ``config.SCHEDULES``.
        warmup_steps: of linear warm-up; ``onecycle`` has its own and ignores them.
        decay_fraction: the last share of the run in which ``wsd`` decays.
        final_fraction: what is left of the peak learning rate at the end.
    """

    def wsd(progress: float) -> float:
        """Warm-up, stable, decay (Hu et al. 2024, "MiniCPM"), the decay linear."""
        if decay_fraction == 0.0:
            return 1.0
        return 1.0 - (1.0 - final_fraction) * max(0.0, (progress - (1.0 - decay_fraction)) / decay_fraction)

    def cosine(progress: float) -> float:
        """Loshchilov & Hutter 2017, "SGDR", without restarts."""
        return final_fraction + (1.0 - final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))

    def linear(progress: float) -> float:
        return 1.0 - (1.0 - final_fraction) * progress

    def constant(progress: float) -> float:  # noqa: ARG001
        return 1.0

    curves = {"wsd": wsd, "cosine": cosine, "linear": linear, "constant": constant, "onecycle": _onecycle}
    curve = curves[name]

    def lr_scale(step: int, progress: float) -> float:
        warmup = 1.0 if name == "onecycle" else min(1.0, (step + 1) / (warmup_steps + 1))
        return warmup * curve(min(max(progress, 0.0), 1.0))

    return lr_scale


def _onecycle(progress: float) -> float:
    """Smith & Topin 2018, "Super-Convergence", cosine-shaped: 30 % up from a 25th, then down to near 0."""
    start, end, peak = 1 / 25, 1 / 25e4, 0.3
    if progress < peak:
        return start + (1.0 - start) * 0.5 * (1.0 - math.cos(math.pi * progress / peak))
    return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * (progress - peak) / (1.0 - peak)))
