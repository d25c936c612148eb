"""Events of a training run: small frozen records, passed to ``on_event``.

The fields of ``Logged`` and ``Evaluated`` are the lines of metrics.jsonl; their names are a contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gptscratch.config import RunConfig
from gptscratch.data.token_files import Manifest
from gptscratch.training.planning.planner import Plan


@dataclass(frozen=True)
class Notice:
    """Something the user should know, in one line."""

    text: str


@dataclass(frozen=True)
class Working:
    """The corpus is being prepared; a total of 0 is unknown."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Planned:
    plan: Plan
    manifest: Manifest


@dataclass(frozen=True)
class Started:
    """The plan is made and training begins, or continues at a step above 0."""

    run: Path
    config: RunConfig
    step: int
    parameters: int


@dataclass(frozen=True)
class Progress:
    """How far the run is, about once a second: for display, not written to a file."""

    step: int
    tokens: int  # seen so far
    seconds: float  # of the whole run so far
    train_loss: float  # nats per token: mean over the steps since the last ``Logged``
    learning_rate: float
    tokens_per_second: float  # of these steps alone: evaluations, saves and samples are left out
    progress: float  # share of the budget, 0 to 1


@dataclass(frozen=True)
class Logged(Progress):
    """A line of metrics.jsonl, without ``progress``."""

    grad_norm: float  # before clipping, of the newest step


@dataclass(frozen=True)
class Evaluated:
    """The result of an evaluation on the validation split, or on as many of its tokens as ``val_tokens``."""

    step: int
    val_loss: float  # nats per token
    val_accuracy: float
    val_perplexity: float
    val_bits_per_byte: float
    val_tokens: int
    val_unknown: int = 0  # tokens left out: what the vocabulary lacks

    @classmethod
    def from_facts(cls, values: Any) -> Evaluated | None:
        """From a file that anyone may have written; None where a value is missing or wrong."""
        if not isinstance(values, Mapping):
            return None
        found = {each.name: values.get(each.name, each.default) for each in fields(cls)}
        known = all(isinstance(value, int | float) and 0 <= value < 1e18 for value in found.values())
        return cls(**found) if known else None


@dataclass(frozen=True)
class FineTuned:
    """What a run changed that started from another: losses on the same tokens, before and after."""

    init_from: str
    before: Evaluated
    after: Evaluated | None = None  # of the best checkpoint; None: not finished
    keep_before: Evaluated | None = None  # on the text of --keep-file
    keep_after: Evaluated | None = None


@dataclass(frozen=True)
class Sampled:
    step: int
    text: str


@dataclass(frozen=True)
class Saved:
    step: int
    folder: Path


Event = Notice | Working | Planned | Started | Progress | Logged | Evaluated | Sampled | Saved
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """For callers who want no events."""
