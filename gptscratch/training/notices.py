"""What the user should know about a plan, in one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptscratch.config import RunConfig
from gptscratch.training.rules import VERY_SMALL_BYTES, Facts


def expectation(facts: Facts) -> list[str]:
    """What a very small corpus can give."""
    if facts.train_bytes >= VERY_SMALL_BYTES:
        return []
    return [
        f"The corpus is very small ({facts.train_bytes / 1000:.3g} kB to train on): expect its letters and "
        "common words, not its sentences. Some hundred kB make a difference."
    ]


def ineffective(config: RunConfig, given: Mapping[str, Any]) -> list[str]:
    """Options that do nothing together with the others."""
    model, train = config.model, config.train
    cases = (
        ("model.rope_theta", model.position != "rope", f"--position {model.position}"),
        ("train.warmup", train.schedule == "onecycle", "--schedule onecycle, which has its own rise"),
        ("train.decay_fraction", train.schedule != "wsd", f"--schedule {train.schedule}"),
        ("train.final_fraction", train.schedule in ("constant", "onecycle"), f"--schedule {train.schedule}"),
        ("train.adamw_learning_rate", train.optimizer == "adamw", "--optimizer adamw"),
        ("train.momentum", train.optimizer == "adamw", "--optimizer adamw"),
    )
    idle = [(key.partition(".")[2], why) for key, off, why in cases if off and key in given]
    return [f"{name} has no effect with {why}." for name, why in idle]
