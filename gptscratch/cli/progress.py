"""Progress display on stderr; plain lines if it is not a terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as ProgressDisplay
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from gptscratch import paths
from gptscratch.cli.console import err, facts, notice
from gptscratch.cli.render import plan_lines
from gptscratch.training import events
from gptscratch.units import count, duration

if TYPE_CHECKING:
    from typing_extensions import Self

_CTRL_C = 4  # columns left empty: the terminal writes ^C into them, up to twice
_BAR = 10  # columns, with the space after them


class WorkView:
    """A display that is drawn again and again, and disappears at the end: the stages of preparing a corpus.

    Call it as ``prepare`` calls ``on_progress``.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.stage = ""
        columns = [TextColumn("{task.description}"), BarColumn(bar_width=None), TaskProgressColumn()]
        columns += [DownloadColumn(table_column=Column(no_wrap=True)), TimeRemainingColumn()]
        if err.width > 70:
            columns.insert(-1, TransferSpeedColumn())
        self.bar = ProgressDisplay(*columns, expand=True)
        self.live = Live(console=err, get_renderable=self.fitted, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if not self.quiet and err.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()
        if not self.quiet and kind is not None and issubclass(kind, KeyboardInterrupt):
            self.report_interrupt()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """A stage without numbers, such as how long training a tokenizer will take, stays on the screen."""
        if stage != self.stage:
            self.stage = stage
            for task in self.bar.task_ids:
                self.bar.remove_task(task)
            if done or total:
                self.bar.add_task(escape(stage), total=None)
            else:
                err.print(Text(stage, style="dim"))
        for task in self.bar.task_ids:
            self.bar.update(task, completed=done, total=total or None)

    def fitted(self) -> RenderableType:
        """The current display; called by a thread of ``Live``."""
        return Constrain(self.drawing(), max(_BAR, err.width - _CTRL_C))

    def drawing(self) -> RenderableType:
        return self.bar.get_renderable()

    def report_interrupt(self) -> None:
        if self.stage == "tokenizing":
            notice("Stopped before the token files were complete: the next run makes them.")


class TrainView(WorkView):
    """A listener that shows a run: the plan, a line per evaluation, a bar, the newest sample."""

    def __init__(self, *, quiet: bool) -> None:
        self.started: events.Started | None = None
        self.newest: Moment | None = None
        self.saved = 0  # the step of the newest checkpoint
        self.sample = ""
        self.train_loss = ""
        self.evaluated = -1  # the step of the newest evaluation; the final one is not newer
        super().__init__(quiet=quiet)  # draws

    def on_event(self, event: events.Event) -> None:
        if self.quiet:
            return
        match event:
            case events.Notice():
                notice(event.text)
            case events.Working():
                self(event.stage, event.done, event.total)
            case events.Planned():
                self.stage = ""
                facts(err, plan_lines(event.plan, event.manifest))
            case events.Started():
                self._start(event)
            case events.Progress():  # and Logged
                self.newest = Moment(event)
                self.train_loss = f"{event.train_loss:.4f}"
            case events.Evaluated():
                self._print_evaluation(event)
            case events.Saved():
                self.saved = event.step
            case events.Sampled():
                self.sample = event.text

    def _start(self, event: events.Started) -> None:
        again, self.started, self.newest = self.started is not None, event, None
        if again:  # the same call continues the run, so as to end it
            return
        facts(err, [("run", str(event.run.resolve()))])
        if event.step:
            facts(err, [("resumed", f"at step {event.step:,}")])
        err.print(
            f"\n[dim]{'step':>9} {'train loss':>11} {'val loss':>9} {'bits/byte':>10} {'accuracy':>9}[/]"
        )

    def _print_evaluation(self, event: events.Evaluated) -> None:
        step = "final" if event.step <= self.evaluated else f"{event.step:,}"
        self.evaluated = event.step
        err.print(
            f"{step:>9} {self.train_loss:>11} {event.val_loss:>9.4f} "
            f"{event.val_bits_per_byte:>10.4f} {event.val_accuracy:>9.1%}"
        )

    def report_interrupt(self) -> None:
        """After a second interrupt, which ends the program at once."""
        if self.started is None:
            super().report_interrupt()
        elif step := self.saved or self.started.step:
            name = paths.typed(self.started.run)
            notice(f"Stopped at once. Everything after step {step:,} is lost.")
            notice(f"Continue from there: gptscratch train --resume {name}")
        else:
            notice("Stopped at once, before the first checkpoint: nothing of this run is saved.")

    def drawing(self) -> RenderableType:
        if self.started is None:
            return super().drawing()
        if self.newest is None:
            return Text("starting ...", style="dim")
        line = self.newest.line(err.width - _CTRL_C, self.started.config.train.steps)
        if not self.sample:
            return line
        text = Text("\n".join(self.sample.strip("\n").split("\n")[:8]))
        return Group(line, Panel(text, title="sample", title_align="left", border_style="dim"))


class Moment:
    """The state of a run at one step, and its estimated progress since then."""

    def __init__(self, event: events.Progress) -> None:
        self.event = event
        self.at = time.monotonic()

    def line(self, width: int, steps: int | None) -> Table:
        """A bar and as many parts as there is room for. ``steps`` of the run; None: as time allows."""
        event = self.event
        elapsed = event.seconds + time.monotonic() - self.at
        left = max(0.0, event.seconds / max(event.progress, 1e-9) - elapsed)
        expected = f"{steps:,}" if steps else f"about {round(event.step / max(event.progress, 1e-9)):,}"
        parts = [
            f"{event.progress:4.0%}",
            f"step {event.step:,} of {expected}",
            f"loss {event.train_loss:.4f}",
            f"{duration(left)} left",
            f"{count(event.tokens_per_second)} tokens/s",
            f"learning rate {event.learning_rate:.3g}",
            f"{duration(elapsed)} so far",
        ]
        while len(parts) > 1 and _BAR * (len(parts) > 4) + sum(len(part) + 2 for part in parts) > width:
            parts.pop()
        room = width - sum(len(part) + 2 for part in parts)
        line = Table.grid(padding=(0, 2, 0, 0))
        cells: list[RenderableType] = [Text(part, no_wrap=True) for part in parts]
        if room >= _BAR:
            cells.insert(0, ProgressBar(total=1.0, completed=event.progress, width=min(30, room - 2)))
        line.add_row(*cells)
        return line
