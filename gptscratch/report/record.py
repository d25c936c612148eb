"""Everything that a page shows about one run, read from its folder."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptscratch import paths
from gptscratch.data.token_files import Manifest, read_manifest
from gptscratch.errors import UserError
from gptscratch.report.command import command_of
from gptscratch.report.metrics_file import Columns, MetricsFile
from gptscratch.runs.checkpoint import is_finished
from gptscratch.runs.metrics import read_metrics
from gptscratch.runs.run import read_facts
from gptscratch.runs.summary import FINE_TUNING, RunDescription, describe_run

MOST_POINTS = 1500  # of a curve: more cannot be seen

Curve = Mapping[str, Sequence[float | None]]  # columns of the same length; "step" is one of them


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """One run: what was planned, what happened, what it was trained on."""

    described: RunDescription
    training: Curve  # step, tokens, seconds, and the names of metrics.jsonl
    validation: Curve  # the same; without the evaluation at the end
    final: Mapping[str, float | None] | None  # that one: the best checkpoint, on more tokens
    samples: Sequence[Mapping[str, Any]]  # step and text, in order
    manifest: Manifest | None  # of its token files; None: they are gone
    command: str  # that trains such a run again
    init_from: str | None  # the run whose weights this one started from
    finished: bool
    step: int  # the newest that is known
    planned: Sequence[tuple[str, float, float | None]]  # name, plan, result

    @property
    def name(self) -> str:
        return self.described.summary.name

    @property
    def typed(self) -> str:
        """How the run is named on the command line."""
        return shlex.quote(paths.typed(Path(self.described.summary.folder)))

    @property
    def imported_from(self) -> str | None:
        """The source of an imported model, which was not trained here: it has no curves."""
        imported = self.described.config.get("imported")
        return str(imported.get("source")) if isinstance(imported, dict) else None

    @property
    def steps_planned(self) -> int | None:
        steps = self.described.config.get("train", {}).get("steps")
        return steps or self.described.plan.get("steps")


def read_report(run: Path, metrics: MetricsFile | None = None) -> RunReport:
    """Read a run's folder; a run that is being trained can be read at any moment.

    Args:
        metrics: that of this run, where it is read again and again.

    Raises:
        UserError: its config.json is damaged.
    """
    described = describe_run(run)
    logged, evaluated = (metrics or MetricsFile(run / "metrics.jsonl")).read()
    training, validation = thinned(logged), thinned(evaluated)
    for name in ("tokens", "seconds"):  # an evaluation is logged by its step alone
        validation[name] = _interpolated(validation["step"], training["step"], training[name])
    final = _taken_out(validation)
    texts = [r for r in read_metrics(run / "samples.jsonl") if isinstance(r.get("text"), str)]
    summary, source = described.summary, read_facts(run / FINE_TUNING).get("init_from")
    init_from = str(source) if source else None
    newest = [*training["step"][-1:], *validation["step"][-1:]]
    return RunReport(
        described=described,
        training=training,
        validation=validation,
        final=final,
        samples=texts,
        manifest=_manifest(described.config),
        command=command_of(described.config, init_from),
        init_from=init_from,
        finished=is_finished(run, summary.step),
        step=max([summary.step, *(int(step or 0) for step in newest)]),
        planned=_planned(described, training, read_facts(run / "last.json")),
    )


def thinned(curve: Columns, most: int = MOST_POINTS) -> dict[str, list[float | None]]:
    """At most about ``most`` points: of each bucket those with the lowest and the highest loss, and the ends.

    A spike stays visible. A missing value is None.
    """
    n = len(curve["step"])
    kept = np.arange(n)
    if n > most:
        losses = next(np.asarray(curve[name]) for name in ("train_loss", "val_loss") if name in curve)
        buckets = np.array_split(kept, most // 2)
        extremes = {int(b[pick(losses[b])]) for b in buckets for pick in (np.argmin, np.argmax)}
        kept = np.array(sorted(extremes | {0, n - 2, n - 1}))  # the last step may be evaluated twice
    return {name: list(map(_value, np.array(values, float)[kept].tolist())) for name, values in curve.items()}


def _value(number: float) -> float | None:
    return None if math.isnan(number) else int(number) if number.is_integer() else number


def _taken_out(validation: dict[str, list[float | None]]) -> dict[str, float | None] | None:
    """Remove the evaluation at the end, which is the second one of its step, and return it."""
    steps = validation["step"]
    if not steps or steps[-1] not in steps[:-1]:
        return None
    return {name: values.pop() for name, values in validation.items()}


def _number(value: Any) -> float | None:
    """A finite number from a file that anyone may have written."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18:
        return value
    return None


def _interpolated(at: Sequence[Any], steps: Sequence[Any], values: Sequence[Any]) -> list[float | None]:
    known = [(s, v) for s, v in zip(steps, values, strict=True) if v is not None]
    if not known:
        return [None] * len(at)
    return [float(x) for x in np.interp(at, [s for s, _ in known], [v for _, v in known])]


def _manifest(config: Mapping[str, Any]) -> Manifest | None:
    with contextlib.suppress(UserError):
        if isinstance(config.get("tokens"), str) and config["tokens"]:
            return read_manifest(Path(config["tokens"]))
    return None


def _planned(
    described: RunDescription, training: Mapping[str, Sequence[Any]], last: Mapping[str, Any]
) -> list[tuple[str, float, float | None]]:
    """What the plan expected next to what happened so far."""
    if not described.plan:
        return []
    newest = {name: values[-1] if values else None for name, values in training.items()}
    split = described.config.get("split") or {}
    tokens, of = newest["tokens"], _number(split.get("train_tokens"))
    happened = {
        "steps": newest["step"],
        "tokens": tokens,
        "epochs": tokens / of if tokens is not None and of else None,
        "seconds": newest["seconds"],
        "memory_bytes": _number(last.get("peak_memory_bytes")),
    }
    return [(name, described.plan[name], result) for name, result in happened.items()]
