"""Learning-rate schedules: pure functions of how far the run has come.

``progress`` is 0 at the start and 1 at the end of the run, whatever its horizon is counted in
(steps or minutes), so a run that is given ten minutes has decayed fully after ten minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from gptscratch.config import TrainConfig

Schedule = Callable[[int, float], float]  # (step, progress in [0, 1]) -> multiple of the peak rate


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
        warmup_steps: steps of linear rise; ``onecycle`` has its own rise and ignores it.
        decay_fraction: the last share of the run in which ``wsd`` decays.
        final_fraction: what is left of the peak rate at the end.
    """
    curve = CURVES[name]

    def scale(step: int, progress: float) -> float:
        rise = 1.0 if name == "onecycle" else min(1.0, (step + 1) / (warmup_steps + 1))
        return rise * curve(min(max(progress, 0.0), 1.0), decay_fraction, final_fraction)

    return scale


def _constant(progress: float, decay_fraction: float, final: float) -> float:  # noqa: ARG001
    return 1.0


def _linear(progress: float, decay_fraction: float, final: float) -> float:  # noqa: ARG001
    return 1.0 - (1.0 - final) * progress


def _cosine(progress: float, decay_fraction: float, final: float) -> float:  # noqa: ARG001
    """Loshchilov & Hutter 2017, "SGDR", without restarts."""
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _wsd(progress: float, decay_fraction: float, final: float) -> float:
    """Warm-up, stable, decay (Hu et al. 2024, "MiniCPM"), the decay linear."""
    if decay_fraction == 0.0:
        return 1.0
    return 1.0 - (1.0 - final) * max(0.0, (progress - (1.0 - decay_fraction)) / decay_fraction)


def _onecycle(progress: float, decay_fraction: float, final: float) -> float:  # noqa: ARG001
    """Smith & Topin 2018, "Super-Convergence", cosine-shaped: a rise over 30 %, then a fall to near 0."""
    start, end, rise = 1 / 25, 1 / 25e4, 0.3
    if progress < rise:
        return start + (1.0 - start) * 0.5 * (1.0 - math.cos(math.pi * progress / rise))
    return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * (progress - rise) / (1.0 - rise)))


CURVES: Mapping[str, Callable[[float, float, float], float]] = MappingProxyType(
    {"constant": _constant, "cosine": _cosine, "linear": _linear, "wsd": _wsd, "onecycle": _onecycle}
)
