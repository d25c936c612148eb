"""Notes for the user about a plan, one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptscratch.config import RunConfig, all_settings
from gptscratch.training.planning.heuristics import Facts

_VERY_SMALL_BYTES = 50_000  # a model sees too little in them for sentences


def notices_about(config: RunConfig, given: Mapping[str, Any], steps: int, facts: Facts) -> list[str]:
    """Notes about the corpus and the time, and about settings without effect."""
    model, train = config.model, config.train
    total = facts.train_bytes + facts.val_bytes
    minutes, started = 60 * (train.minutes or 0), facts.start_up_seconds
    chosen_share = given.get("data.val_fraction") is None and not config.data.val_file
    vocab_size = given.get("model.vocab_size", model.vocab_size)
    warms_up = "train.warmup_steps" in given and train.lr_schedule != "onecycle"
    cases = (
        (
            facts.train_bytes < _VERY_SMALL_BYTES,
            f"The corpus is very small ({facts.train_bytes / 1000:.3g} kB to train on): the model will "
            "learn letters and common words, but not sentences. A few hundred kB make a difference.",
        ),
        (
            bool(train.minutes) and started > minutes / 3,
            f"Starting and preparing the text took {started:.0f} of the {minutes:.0f} seconds: "
            f"{max(0.0, minutes - started):.0f} are left to train. Another run on this text starts sooner, "
            "since its tokens are kept.",
        ),
        (
            chosen_share and facts.val_bytes < 0.05 * total,
            f"{facts.val_bytes / 1e6:,.3g} MB of the {total / 1e6:,.0f} MB of text are the validation set: "
            "that is enough to measure the loss. --val-fraction changes it.",
        ),
        (
            warms_up and train.warmup_steps >= steps,
            f"The warm-up takes {train.warmup_steps:,} steps, and the run has {steps:,}: "
            "the learning rate never reaches its peak.",
        ),
        (train.learning_rate == 0, "The learning rate is 0: the model does not change."),
        (
            given.get("train.r_drop", 0.0) > train.r_drop,
            "R-Drop is off: without dropout, both predictions of a token are the same. Give --dropout, too.",
        ),
        (
            vocab_size != model.vocab_size,
            f"model.vocab_size is {model.vocab_size:,} instead of {vocab_size:,}: the tokenizer decides it.",
        ),
    )
    schedule = f"--lr-schedule {train.lr_schedule}"
    without_effect = (
        ("model.rope_theta", model.position != "rope", f"--position {model.position}"),
        ("model.rope_scaling", model.position != "rope", f"--position {model.position}"),
        ("train.warmup_steps", train.lr_schedule == "onecycle", f"{schedule}, which has its own"),
        ("train.decay_fraction", train.lr_schedule != "wsd", schedule),
        ("train.final_fraction", train.lr_schedule in ("constant", "onecycle"), schedule),
        ("train.adamw_learning_rate", train.optimizer == "adamw", "--optimizer adamw"),
        ("train.momentum", train.optimizer == "adamw", "--optimizer adamw"),
        ("train.muon_dtype", train.optimizer == "adamw", "--optimizer adamw"),
        ("train.muon_block_rows", train.optimizer == "adamw", "--optimizer adamw"),
    )
    defaults = {key: each.default for key, each in all_settings().items()}
    # --init-from and the config.json of a run give every setting: one with its default is left out.
    return [text for applies, text in cases if applies] + [
        f"{key.partition('.')[2]} has no effect with {reason}."
        for key, is_idle, reason in without_effect
        if is_idle and given.get(key, defaults[key]) != defaults[key]
    ]
