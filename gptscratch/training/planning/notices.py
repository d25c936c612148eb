"""What the user should know about a plan, in one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptscratch.config import RunConfig
from gptscratch.training.planning.heuristics import VERY_SMALL_BYTES, Facts


def expectation(facts: Facts) -> list[str]:
    """What a very small corpus can give."""
    if facts.train_bytes >= VERY_SMALL_BYTES:
        return []
    return [
        f"The corpus is very small ({facts.train_bytes / 1000:.3g} kB to train on): expect its letters and "
        "common words, not its sentences. Some hundred kB make a difference."
    ]


def late_start(minutes: float, facts: Facts) -> list[str]:
    """Where reading and tokenizing took much of the time that is given."""
    given, gone = 60 * minutes, facts.start_up_seconds
    if gone < given / 3:
        return []
    left = max(0.0, given - gone)
    return [
        f"Starting and preparing the text took {gone:.0f} of the {given:.0f} seconds: {left:.0f} are left to "
        "train. Another run on this text starts sooner, since its tokens are kept."
    ]


def held_back(config: RunConfig, facts: Facts) -> list[str]:
    """Where less than a tenth of a large text is for validation."""
    total = facts.train_bytes + facts.val_bytes
    if config.data.val_fraction > 0 or config.data.val_file or facts.val_bytes > 0.05 * total:
        return []
    return [
        f"{facts.val_bytes / 1e6:,.3g} MB of the {total / 1e6:,.0f} MB of text are held back for validation: "
        "that is enough to measure the loss. --val-fraction changes it."
    ]


def unreachable(config: RunConfig, given: Mapping[str, Any], steps: int) -> list[str]:
    """What was asked for and cannot be had."""
    notices = []
    if (
        "train.warmup_steps" in given
        and config.train.warmup_steps >= steps
        and config.train.lr_schedule != "onecycle"
    ):
        notices.append(
            f"The warm-up takes {config.train.warmup_steps:,} steps, and the run has {steps:,}: "
            "the learning rate never reaches its peak."
        )
    if config.train.learning_rate == 0:
        notices.append("The learning rate is 0: the model does not change.")
    return notices


def ineffective(config: RunConfig, given: Mapping[str, Any]) -> list[str]:
    """Options that do nothing together with the others."""
    model, train = config.model, config.train
    cases = (
        ("model.rope_theta", model.position != "rope", f"--position {model.position}"),
        (
            "train.warmup_steps",
            train.lr_schedule == "onecycle",
            "--lr-schedule onecycle, which has its own rise",
        ),
        ("train.decay_fraction", train.lr_schedule != "wsd", f"--lr-schedule {train.lr_schedule}"),
        (
            "train.final_fraction",
            train.lr_schedule in ("constant", "onecycle"),
            f"--lr-schedule {train.lr_schedule}",
        ),
        ("train.adamw_learning_rate", train.optimizer == "adamw", "--optimizer adamw"),
        ("train.momentum", train.optimizer == "adamw", "--optimizer adamw"),
    )
    idle = [(key.partition(".")[2], why) for key, off, why in cases if off and key in given]
    return [f"{name} has no effect with {why}." for name, why in idle]
