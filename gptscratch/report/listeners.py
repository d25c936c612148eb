"""What listens to a run besides the terminal: TensorBoard, Weights & Biases, the live page."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from gptscratch.errors import MissingExtraError, did_you_mean, require
from gptscratch.training.events import Evaluated, Event, Logged, Notice, OnEvent, Sampled, Started


class Listener(Protocol):
    def __call__(self, event: Event) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def listening(first: OnEvent, *, log_to: Sequence[str] = (), page: bool = False) -> Iterator[OnEvent]:
    """One ``on_event`` for many listeners. One that fails is reported and left out: the training continues.

    Args:
        first: gets every event before the others, and notices about them.
        log_to: names of ``LOGGERS``.
        page: serve the report while the run trains.

    Raises:
        UserError: an unknown name, or the package of one is not installed.
    """
    for name in log_to:
        known = f"--log-to is {name!r}: it must be one of {', '.join(LOGGERS)}."
        require(name in LOGGERS, known, did_you_mean(name, LOGGERS))
    others: list[Listener] = [Advice(first), *(LOGGERS[name]() for name in dict.fromkeys(log_to))]
    if page:
        others.append(Page(first))

    def safely(each: Listener, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:  # of a foreign library, or of the disk
            others.remove(each)
            first(Notice(f"{type(each).__name__} ended with an error, training continues: {error}"))

    def report(event: Event) -> None:
        first(event)
        for each in tuple(others):
            safely(each, partial(each, event))

    try:
        yield report
    finally:
        for each in tuple(others):
            safely(each, each.close)


class TensorBoard:
    """Writes event files to the folder ``tensorboard`` of a run."""

    def __init__(self) -> None:
        """Raises MissingExtraError where the package is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtraError("tensorboard", "tensorboard") from None
        self._open: Callable[..., Any] = SummaryWriter
        self._writer: Any = None
        self._names = _Names()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self.close()
            purge = event.step + 1 if event.step else None  # what a resumed run reports again
            self._writer = self._open(str(event.run / "tensorboard"), purge_step=purge)
            lines = (f"    {name}: {value}" for name, value in _flat(event.config.to_dict()).items())
            self._writer.add_text("settings", "\n".join(lines), event.step)
        elif isinstance(event, Sampled):
            quoted = "\n".join(f"    {line}" for line in event.text.split("\n"))  # Markdown: as it is
            self._writer.add_text("sample", quoted, event.step)
        elif isinstance(event, Logged | Evaluated):
            for name, value in self._names(event).items():
                self._writer.add_scalar(name, value, event.step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """Writes to the folder ``wandb`` of a run, offline; ``wandb sync`` uploads it."""

    def __init__(self) -> None:
        """Raises MissingExtraError where the package is not installed."""
        try:
            import wandb
        except ImportError:
            raise MissingExtraError("wandb", "wandb") from None
        self._wandb: Any = wandb
        self._run: Any = None
        self._names = _Names()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self.close()
            # Nothing is recorded but what is logged here: no code, no machine, no output.
            settings = self._wandb.Settings(
                mode="offline", silent=True, console="off", save_code=False, disable_git=True,
                x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True,
                x_save_requirements=False,
            )  # fmt: skip
            self._run = self._wandb.init(
                project="gptscratch", name=event.run.name, dir=str(event.run), config=event.config.to_dict(),
                id=_earlier_id(event.run) if event.step else None, resume="allow", settings=settings,
            )  # fmt: skip
            self._run.define_metric("*", step_metric="step")
        elif isinstance(event, Sampled):
            text = self._wandb.Html(f"<pre>{html.escape(event.text)}</pre>", inject=False)
            self._run.log({"step": event.step, "sample": text})
        elif isinstance(event, Logged | Evaluated):
            self._run.log({"step": event.step, **self._names(event)})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


class Page:
    """Serves the report of a run from its start to its end."""

    def __init__(self, first: OnEvent) -> None:
        """Raises MissingExtraError where the package is not installed."""
        from gptscratch.report.page import plotly_script

        plotly_script()
        self._first = first
        self._live: Any = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started) and self._live is None:
            from gptscratch.report.live import LivePage

            self._live = LivePage([event.run])
            self._live.__enter__()
            self._first(Notice(f"The report is at {self._live.url} while the run trains."))

    def close(self) -> None:
        if self._live is not None:
            self._live.close()


class Advice:
    """Notices about the curves of a run while it trains: one at an evaluation, and each rule once."""

    def __init__(self, first: OnEvent) -> None:
        self._first = first
        self._run: Path | None = None
        self._metrics: Any = None
        self._rules: list[Callable[..., Any]] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started) and self._run is None:
            from gptscratch.report.doctor import CURVE_RULES
            from gptscratch.report.metrics_file import MetricsFile

            self._run, self._rules = event.run, list(CURVE_RULES)
            self._metrics = MetricsFile(event.run / "metrics.jsonl")
        elif isinstance(event, Evaluated) and self._run is not None and self._rules:
            from gptscratch.report.record import read_report

            report = read_report(self._run, self._metrics)
            for rule in self._rules:
                if finding := rule(report):
                    self._rules.remove(rule)
                    self._first(Notice(f"{finding.name}. {finding.evidence} {finding.advice}"))
                    return

    def close(self) -> None:
        """There is nothing to close."""


LOGGERS: Mapping[str, Callable[[], Listener]] = MappingProxyType(
    {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
)


class _Names:
    """Names of measurements: training/..., validation/..., and final/... for the evaluation at the end."""

    def __init__(self) -> None:
        self._evaluated = -1

    def __call__(self, event: Logged | Evaluated) -> dict[str, float]:
        part = "training"
        if isinstance(event, Evaluated):
            part = "final" if event.step <= self._evaluated else "validation"
            self._evaluated = event.step
        values = asdict(event)
        del values["step"]
        return {f"{part}/{name.removeprefix('val_').removeprefix('train_')}": v for name, v in values.items()}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{section}.{name}": value
        for section, values in config.items()
        if isinstance(values, Mapping)
        for name, value in values.items()
    }


def _earlier_id(run: Path) -> str | None:
    """The id under which this run was logged before: Weights & Biases then joins the two."""
    folders = sorted((run / "wandb").glob("offline-run-*-*"))
    return folders[-1].name.rpartition("-")[2] if folders else None
