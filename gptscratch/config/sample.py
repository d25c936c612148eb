"""Sampling: how the next token is chosen, and when to stop."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from gptscratch.config.setting import COPYING, SAMPLING, STOPPING, check_settings, setting, settings_of
from gptscratch.errors import did_you_mean, require

_ALL: dict[str, Any] = {"default_is": "all", "hint": "Leave it out to keep every token."}
_P: dict[str, Any] = {"metavar": "P", "above": 0, "at_most": 1}
# Bounds of penalties and of the temperature keep logits within float32.
_SUBTRACTED: dict[str, Any] = {"at_least": -1_000_000, "at_most": 1_000_000}


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How the next token is sampled from the model's logits, and when to stop."""

    max_tokens: int = setting(256, STOPPING, "Maximum number of new tokens.", at_least=1)
    temperature: float = setting(
        0.8, SAMPLING, "Temperature: 0 is greedy, 1 the model's own distribution.",
        flag="-t,--temperature", at_least=0, at_most=1_000_000,
    )  # fmt: skip
    top_k: int | None = setting(
        None, SAMPLING, "Sample from the K most likely tokens.",
        flag="-k,--top-k", metavar="K", at_least=1, **_ALL,
    )  # fmt: skip
    top_p: float | None = setting(
        None, SAMPLING, "Sample from the smallest set of tokens with total probability P (nucleus sampling).",
        **_P, **_ALL,
    )  # fmt: skip
    min_p: float | None = setting(
        None, SAMPLING, "Sample from tokens with at least P times the probability of the most likely one.",
        **_P, **_ALL,
    )  # fmt: skip
    repetition_penalty: float = setting(
        1.0, COPYING, "Above 1: make tokens that already occurred less likely.",
        at_least=0.001, at_most=1000, hint="1 changes nothing, 1.1 is mild.",
    )  # fmt: skip
    frequency_penalty: float = setting(
        0.0, COPYING, "Subtract X from a token's logit each time it was sampled.", **_SUBTRACTED
    )
    presence_penalty: float = setting(
        0.0, COPYING, "Subtract X from a token's logit once it was sampled.", **_SUBTRACTED
    )
    no_repeat_ngram: int = setting(0, COPYING, "Never repeat N consecutive tokens; 0 allows it.", at_least=0)
    no_copy_ngram: int = setting(
        0, COPYING, "Never copy N consecutive tokens from the training text; 0 allows it.",
        at_least=0, at_most=64,
    )  # fmt: skip
    stop: tuple[str, ...] = setting((), STOPPING, r"Stop at this string; \n is a line end (repeatable).")
    num_samples: int = setting(1, STOPPING, "Number of samples.", flag="-n,--num-samples", at_least=1)
    seed: int | None = setting(
        None, SAMPLING, "Random seed: the same seed gives the same text.",
        flag="-s,--seed", at_least=0, below=2**63, default_is="random",
    )  # fmt: skip

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        check_settings(self)
        require(all(self.stop), "A stop string is empty.")


def sample_config(config: SampleConfig | None = None, **options: Any) -> SampleConfig:
    """A config with some of its fields changed; None: the defaults.

    Raises:
        ConfigError: an option is unknown or out of range.
    """
    names = settings_of(SampleConfig)
    for name in options:
        hint = did_you_mean(name, names) or f"The options: {', '.join(names)}."
        require(name in names, f"There is no sampling option {name!r}.", hint)
    return dataclasses.replace(config or SampleConfig(), **options)
