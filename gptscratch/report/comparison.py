"""What differs between runs: their settings and their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptscratch import paths
from gptscratch.config import SECTIONS, RunConfig
from gptscratch.config.setting import settings_of
from gptscratch.errors import ConfigError
from gptscratch.runs.summary import RunDescription, describe_run
from gptscratch.units import count, duration, size

_SPLIT = ("val_fraction", "val_file")  # the settings of data that decide about the validation text


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Results and settings by name, each with one value for each run; ``None`` where it is not known."""

    runs: tuple[str, ...]
    results: Mapping[str, tuple[Any, ...]]
    settings: Mapping[str, tuple[Any, ...]]  # only those that differ
    best: Mapping[str, frozenset[int]]  # the runs with the best value of a result, where it is comparable
    notes: tuple[str, ...]  # what keeps the results from being comparable


def compare(runs: Sequence[Path]) -> Comparison:
    """Compare runs by their folders.

    Raises:
        UserError: a run is damaged, or there is only one.
    """
    if len(runs) < 2:
        raise ConfigError("A comparison needs two or more runs.", "gptscratch info lists them.")
    return comparison_of([describe_run(run) for run in runs])


def comparison_of(runs: Sequence[RunDescription]) -> Comparison:
    results = {name: tuple(value(run) for run in runs) for name, value in _RESULTS.items()}
    configs = [RunConfig.from_dict({name: run.config.get(name, {}) for name in SECTIONS}) for run in runs]
    settings = {
        f"{section}.{name}": tuple(getattr(getattr(config, section), name) for config in configs)
        for section, cls in SECTIONS.items()
        for name in settings_of(cls)
    }
    not_comparable = _not_comparable(runs)
    different = {name: values for name, values in settings.items() if len(set(values)) > 1}
    return Comparison(
        runs=distinct_names(runs),
        results=results,
        settings=different,
        best={
            name: _best(results[name], pick) for name, pick in _BETTER.items() if name not in not_comparable
        },
        notes=tuple(dict.fromkeys(not_comparable.values())),
    )


def distinct_names(runs: Sequence[RunDescription]) -> tuple[str, ...]:
    """The names of runs; where two are equal, those outside of the cache directory by their folders."""
    names = [run.summary.name for run in runs]
    return tuple(
        paths.typed(Path(run.summary.folder)) if names.count(name) > 1 else name
        for name, run in zip(names, runs, strict=True)
    )


def shown(name: str, value: Any) -> str:
    """A result or a setting as text."""
    if value is None or value == "":
        return "-"
    if name in _FORMATS:
        return _FORMATS[name](value)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _best(values: Sequence[Any], pick: Callable[[Sequence[Any]], Any]) -> frozenset[int]:
    """The positions of the best value; none where all are the same."""
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return frozenset()
    return frozenset(number for number, value in enumerate(values) if value == pick(known))


def _not_comparable(runs: Sequence[RunDescription]) -> dict[str, str]:
    """The results that cannot be compared between these runs, each with the reason."""

    def differ(*values: Callable[[RunDescription], Any]) -> bool:
        return len({tuple(str(value(run)) for value in values) for run in runs}) > 1

    reasons = {}
    if differ(lambda run: run.tokenizer_hash):
        text = "The runs have different tokenizers: compare bits per byte, not the loss per token."
        reasons = {"val_loss": text, "val_accuracy": text, "tokens_per_second": text}
    if differ(_loses_text):
        text = "Some of the tokenizers lose spaces or case: the losses of the runs are not comparable."
        reasons |= dict.fromkeys(("val_bits_per_byte", *reasons), text)
    hashes = {run.config.get("val_hash") for run in runs}
    same_text = len(hashes) == 1 and any(hashes)
    if not same_text and differ(
        lambda run: run.config.get("corpus_hash"),
        lambda run: [run.config.get("data", {}).get(name) for name in _SPLIT],
    ):
        unknown = any(run.config["data"].get("val_file") and not run.config.get("val_hash") for run in runs)
        have = "may have" if unknown else "have"
        text = f"The runs {have} different validation texts: their losses are not comparable."
        reasons |= {"val_loss": text, "val_bits_per_byte": text, "val_accuracy": text}
    return reasons


def _loses_text(run: RunDescription) -> bool:
    data = run.config.get("data", {})
    return bool(data.get("lowercase")) or data.get("tokenizer") == "word"


def _speed(run: RunDescription) -> float | None:
    return run.summary.tokens / run.summary.seconds if run.summary.seconds else None


_RESULTS: Mapping[str, Callable[[RunDescription], Any]] = {
    "val_loss": lambda run: run.summary.best_val_loss,
    "val_bits_per_byte": lambda run: run.val_bits_per_byte,
    "val_accuracy": lambda run: run.val_accuracy,
    "best_step": lambda run: run.summary.best_step,
    "step": lambda run: run.summary.step,
    "tokens": lambda run: run.summary.tokens,
    "seconds": lambda run: run.summary.seconds,
    "tokens_per_second": _speed,  # of the whole run
    "parameters": lambda run: run.summary.parameters,
    "size_bytes": lambda run: run.summary.size_bytes,
}
_BETTER: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "val_loss": min,
    "val_bits_per_byte": min,
    "val_accuracy": max,
    "tokens_per_second": max,
}
_FORMATS: Mapping[str, Callable[[Any], str]] = {
    "val_loss": "{:.4f}".format,
    "val_bits_per_byte": "{:.4f}".format,
    "val_accuracy": "{:.1%}".format,
    "best_step": "{:,}".format,
    "step": "{:,}".format,
    "tokens": count,
    "seconds": duration,
    "tokens_per_second": count,
    "parameters": count,
    "size_bytes": size,
}
