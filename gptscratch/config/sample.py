"""Sampling: how the next token is chosen, and when to stop."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from gptscratch.config.checks import require, require_seed
from gptscratch.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How the next token is drawn from the model's logits, and when to stop."""

    max_tokens: int = 256  # new tokens
    temperature: float = 0.8  # 0: greedy
    top_k: int | None = None  # keep the k likeliest
    top_p: float | None = None  # keep the likeliest that together reach this probability
    min_p: float | None = None  # keep those at least this likely, relative to the likeliest
    repetition_penalty: float = 1.0  # above 1: tokens already seen become less likely
    frequency_penalty: float = 0.0  # taken from a logit for each time that its token was drawn
    presence_penalty: float = 0.0  # taken from a logit once its token was drawn
    no_repeat_ngram: int = 0  # so many tokens in a row never come twice; 0: they may
    no_copy_ngram: int = 0  # so many tokens in a row never come from the training tokens; 0: they may
    stop: tuple[str, ...] = ()  # texts that end the sample; not part of it
    num_samples: int = 1
    seed: int | None = None  # None: another one each time

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        require(self.max_tokens >= 1, f"max_tokens is {self.max_tokens}: it must be at least 1.")
        require(
            0.0 <= self.temperature < math.inf,
            f"temperature is {self.temperature}: it must be a number that is not negative.",
            "0 is greedy, 1 the model's own distribution.",
        )
        require(
            self.top_k is None or self.top_k >= 1,
            f"top_k is {self.top_k}: it must be at least 1.",
            "Leave it out to keep every token.",
        )
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            require(
                value is None or 0.0 < value <= 1.0,
                f"{name} is {value}: it must be in (0, 1].",
                "Leave it out to keep every token.",
            )
        require(
            0.0 < self.repetition_penalty < math.inf,
            f"repetition_penalty is {self.repetition_penalty}: it must be above 0.",
            "1 changes nothing, 1.1 is mild.",
        )
        for name in ("frequency_penalty", "presence_penalty"):
            value = getattr(self, name)
            require(-math.inf < value < math.inf, f"{name} is {value}: it must be finite.")
        for name in ("no_repeat_ngram", "no_copy_ngram"):
            value = getattr(self, name)
            require(value >= 0, f"{name} is {value}: it must not be negative.")
        require(self.no_copy_ngram <= 64, f"no_copy_ngram is {self.no_copy_ngram}: it must be at most 64.")
        require(self.num_samples >= 1, f"num_samples is {self.num_samples}: it must be at least 1.")
        require(all(self.stop), "a stop text is empty.")
        require_seed(self.seed or 0)


class SampleOptions(TypedDict, total=False):
    """The fields of ``SampleConfig`` as keyword arguments, so that a type checker sees a misspelt one."""

    max_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    no_repeat_ngram: int
    no_copy_ngram: int
    stop: str | Sequence[str]
    num_samples: int
    seed: int | None


def sample_config(config: SampleConfig | None = None, **options: Unpack[SampleOptions]) -> SampleConfig:
    """A config with some of its fields changed; None: the defaults.

    Raises:
        ConfigError: an option is unknown or out of range.
    """
    names = [field.name for field in dataclasses.fields(SampleConfig)]
    for name in options:
        if name not in names:
            hint = did_you_mean(name, names) or f"The options: {', '.join(names)}."
            raise ConfigError(f"There is no sampling option {name!r}.", hint)
    return dataclasses.replace(config or SampleConfig(), **options)  # type: ignore[arg-type]
