"""Rules about the curves of a run: overfitting, learning rate, length, speed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptscratch.report.doctor.finding import Finding
from gptscratch.report.record import Curve, RunReport
from gptscratch.units import count, duration

RISE = 0.02  # of the lowest validation loss: an increase that is more than noise
SPIKE = 0.1  # of the loss before: an increase within one log interval that is more than noise
GAIN = 0.02  # of the loss: what twice the training must bring to be worth a finding
MOST_EPOCHS = 8.0  # after which more epochs overfit more than they teach
UNEVEN = 1.6  # the fast parts of a run in relation to the slow ones
SLOW = 0.6  # of the planned speed
USUAL_RATES = {"muon": 0.03, "adamw": 0.003}


def overfitting(run: RunReport) -> Finding | None:
    losses, steps = _column(run.validation, "val_loss"), _column(run.validation, "step")
    best = int(np.argmin(losses)) if len(losses) else 0
    if len(losses) - best < 3 or losses[-1] < (1 + RISE) * losses[best]:
        return None
    before = _mean_near(run.training, steps[best])
    after = _mean_near(run.training, steps[-1])
    if after >= before:
        return None  # it rises for another reason
    return Finding(
        name=f"Overfitting from step {steps[best]:,.0f}",
        evidence=f"The validation loss rose from {losses[best]:.4f} at step {steps[best]:,.0f} to "
        f"{losses[-1]:.4f} at step {steps[-1]:,.0f}, while the training loss fell from {before:.4f} to "
        f"{after:.4f}.",
        meaning="The model memorizes its training text; it does not get better at new text. The best "
        "checkpoint, which is used for sampling, is from before.",
        advice=f"Stop earlier (--steps {steps[best]:.0f}, or --patience 3), use more text, or a smaller "
        "model; --dropout 0.2 delays overfitting.",
    )


def learning_rate_too_high(run: RunReport) -> Finding | None:
    losses, steps = _column(run.training, "train_loss"), _column(run.training, "step")
    if len(losses) < 10:
        return None
    level = np.array([np.median(losses[max(0, i - 5) : i]) for i in range(1, len(losses))])
    rise = losses[1:] - level
    noise = 1.5 * np.median(np.abs(rise - np.median(rise)))  # a standard deviation that ignores the jumps
    spikes = np.flatnonzero(rise > np.clip(6 * noise, SPIKE * level, 3 * SPIKE * level)) + 1
    spikes = spikes[steps[spikes] > 0.05 * steps[-1]]
    if len(spikes) < 2:
        return None
    worst = spikes[np.argmax(losses[spikes] - level[spikes - 1])]
    rate = run.described.config.get("train", {}).get("learning_rate", 0.0)
    return Finding(
        name="Learning rate too high",
        evidence=f"The training loss jumped {len(spikes)} times; at step {steps[worst]:,.0f} from about "
        f"{level[worst - 1]:.4f} to {losses[worst]:.4f}.",
        meaning="Some updates were so large that they destroyed a part of what was learned.",
        advice=f"Use a third of the rate: --learning-rate {rate / 3:.2g}. A longer warm-up helps, too.",
    )


def learning_rate_too_low(run: RunReport) -> Finding | None:
    train = run.described.config.get("train", {})
    usual = USUAL_RATES.get(str(train.get("optimizer")), 0.0)
    rate, gain = train.get("learning_rate") or 0.0, _gain_of_twice(run)
    is_planned = "train.learning_rate" not in run.described.plan.get("given", ["train.learning_rate"])
    if is_planned or gain is None or not 0 < rate < usual / 8 or gain[1] < GAIN:
        return None
    return Finding(
        name="Learning rate too low",
        evidence=f"The learning rate is {rate:.2g}, a factor of {usual / rate:.0f} below {usual:g}, which is "
        f"usual for {train['optimizer']}. The loss was still falling: twice the tokens would lower it by "
        f"{gain[0]:.0%} to {gain[1]:.0%}.",
        meaning="The model learns, but slower than it could.",
        advice=f"Leave out --learning-rate, or take --learning-rate {3 * rate:.2g} and compare.",
    )


def too_short(run: RunReport) -> Finding | None:
    gain, seconds = _gain_of_twice(run), run.described.summary.seconds
    tokens, epochs = run.described.summary.tokens, _epochs(run)
    if gain is None or gain[1] < GAIN or epochs is None or 2 * epochs > MOST_EPOCHS:
        return None
    if any(rule(run) for rule in (overfitting, learning_rate_too_high, learning_rate_too_low)):
        return None  # a longer training would not help, or not as much
    if run.finished and run.step < (run.described.config.get("train", {}).get("steps") or 0):
        return None  # --patience ended it: the validation loss had stopped falling
    advice = f"The run is not finished. Unless it is training now: gptscratch train --resume {run.typed}"
    if run.finished:
        advice = (
            f"Train for longer, for example twice as long (about {duration(2 * seconds)}): "
            f"gptscratch train --resume {run.typed} --steps {2 * run.step}"
        )
    losses = _column(run.validation, "val_loss")
    return Finding(
        name="Trained too briefly",
        evidence=f"After {count(tokens)} tokens ({epochs:.2g} epochs) the loss was still falling. Curves "
        f"that were fitted to it expect {gain[0]:.1%} to {gain[1]:.1%} less after twice as many: about "
        f"{losses.min() * (1 - gain[1]):.2f} to {losses.min() * (1 - gain[0]):.2f} nats per token instead of "
        f"{losses.min():.2f}.",
        meaning="More training on the same text makes this model better.",
        advice=advice,
    )


def uneven_speed(run: RunReport) -> Finding | None:
    speeds = _column(run.training, "tokens_per_second")
    if len(speeds) < 20:
        return None
    parts = [np.median(part) for part in np.array_split(speeds, 10)]  # a moment of noise does not count
    slow, fast = np.quantile(parts, [0.2, 0.9])
    if fast < UNEVEN * slow:
        return None
    return Finding(
        name="The speed varies",
        evidence=f"A tenth of the run had more than {count(fast)} tokens per second, and a fifth had less "
        f"than {count(slow)}.",
        meaning="Probably other programs used the processor at the same time, or it became too hot.",
        advice="Close other programs. With several trainings at once, give each its threads: "
        "OMP_NUM_THREADS=1 gptscratch train ...",
    )


def slower_than_planned(run: RunReport) -> Finding | None:
    plan, summary = run.described.plan, run.described.summary
    if not plan or not plan["seconds"] or summary.seconds < 20 or not run.finished:
        return None
    planned, happened = plan["tokens"] / plan["seconds"], summary.tokens / summary.seconds
    if happened > SLOW * planned:
        return None
    return Finding(
        name="Slower than planned",
        evidence=f"The plan expected {count(planned)} tokens per second, and there were {count(happened)}.",
        meaning="When the plan was made, this machine was faster: it was not in use by other programs.",
        advice="Close other programs, or plan more time. --minutes ends on time at any speed.",
    )


def _gain_of_twice(run: RunReport) -> tuple[float, float] | None:
    """(least, most): the share of the loss by which twice the tokens would lower it; None: too few points.

    Two curves are fitted: E + A / tokens flattens soon, and a line over log(tokens) never does. The fit is
    where the learning rate is near its peak: its decay lowers the loss too, and would be taken for learning.
    Schedules without such a part: the second half of the run.
    """
    losses, tokens = _column(run.training, "train_loss"), _column(run.training, "tokens")
    rates = _column(run.training, "learning_rate")
    if len(losses) < 12 or rates.max() <= 0:
        return None
    steady = np.flatnonzero(rates > 0.95 * rates.max())
    chosen = steady[len(steady) // 3 :] if len(steady) >= 12 else np.arange(len(losses) // 2, len(losses))
    inverse = tokens[-1] / tokens[chosen]  # 1 at the end, one half at twice the tokens
    slopes = (np.polyfit(x, losses[chosen], 1)[0] for x in (inverse, np.log(inverse)))
    drops = [slope * drop / losses[-5:].mean() for slope, drop in zip(slopes, (0.5, np.log(2)), strict=True)]
    return float(min(drops)), float(max(drops))


def _epochs(run: RunReport) -> float | None:
    of = (run.described.config.get("split") or {}).get("train_tokens")
    return run.described.summary.tokens / of if of else None


def _mean_near(curve: Curve, step: float) -> float:
    """The mean training loss of the five logs nearest to a step."""
    losses, steps = _column(curve, "train_loss"), _column(curve, "step")
    return float(losses[np.argsort(np.abs(steps - step))[:5]].mean()) if len(losses) else np.inf


def _column(curve: Curve, name: str) -> NDArray[np.float64]:
    values: list[Any] = [np.nan if value is None else value for value in curve[name]]
    return np.array(values, np.float64)
