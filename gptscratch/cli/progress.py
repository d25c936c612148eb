"""Progress display on stderr; plain lines if it is not a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
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
from rich.table import Table
from rich.text import Text

from gptscratch import paths
from gptscratch.cli.console import err, facts, notice
from gptscratch.cli.render import plan_lines
from gptscratch.training.events import (
    Evaluated,
    Event,
    Logged,
    Notice,
    Planned,
    Progress,
    Sampled,
    Saved,
    Started,
    Working,
)
from gptscratch.units import count, duration

if TYPE_CHECKING:
    from typing_extensions import Self

_PER_SECOND = 4  # drawings
_CTRL_C = 4  # columns left empty: the terminal writes ^C into them, up to twice
_BAR = (8, 30)  # columns of a bar, at least and at most
_AFTER_BAR = 5  # parts of this priority or a later one are left out before the bar is


class _View:
    """A part of the terminal that is drawn again and again, and disappears at the end."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.work = WorkBar()
        self.live = Live(
            console=err, get_renderable=self.drawing, refresh_per_second=_PER_SECOND, transient=True
        )

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

    def drawing(self) -> RenderableType:
        """The current display; called by a thread of ``Live``."""
        return Padding(self.work.bar.get_renderable(), (0, _CTRL_C, 0, 0))

    def report_interrupt(self) -> None:
        if self.work.stage == "tokenizing":
            notice("Stopped before the token files were complete: the next run makes them.")


class WorkView(_View):
    """Shows the stages of preparing a corpus; call it as ``prepare`` calls ``on_progress``."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.work.take(Working(stage, done, total))


class TrainView(_View):
    """A listener that shows a run: the plan, a line per evaluation, a bar, the newest sample."""

    def __init__(self, *, quiet: bool) -> None:
        self.started: Started | None = None
        self.newest: Moment | None = None
        self.saved = 0  # the step of the newest checkpoint
        self.sample = ""
        self.train_loss = ""
        self.evaluated = -1  # the step of the newest evaluation; the final one is not newer
        super().__init__(quiet=quiet)

    def __call__(self, event: Event) -> None:
        if self.quiet:
            return
        if isinstance(event, Notice):
            notice(event.text)
        elif isinstance(event, Working):
            self.work.take(event)
        elif isinstance(event, Planned):
            self.work = WorkBar()
            facts(err, plan_lines(event.plan, event.manifest))
        elif isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Logged | Progress):
            self.newest = Moment(event)
            self.train_loss = f"{event.train_loss:.4f}"
        elif isinstance(event, Evaluated):
            step = "final" if event.step <= self.evaluated else f"{event.step:,}"
            self.evaluated = event.step
            err.print(
                f"{step:>9} {self.train_loss:>11} {event.val_loss:>9.4f} "
                f"{event.val_bits_per_byte:>10.4f} {event.val_accuracy:>9.1%}"
            )
        elif isinstance(event, Saved):
            self.saved = event.step
        elif isinstance(event, Sampled):
            self.sample = event.text

    def _start(self, event: Started) -> None:
        again, self.started, self.newest = self.started is not None, event, None
        if again:  # the same call continues the run, so as to end it
            return
        facts(err, [("run", str(event.run.resolve()))])
        if event.step:
            facts(err, [("resumed", f"at step {event.step:,}")])
        err.print(
            f"\n[dim]{'step':>9} {'train loss':>11} {'val loss':>9} {'bits/byte':>10} {'accuracy':>9}[/]"
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
        parts: list[RenderableType] = [self.newest.line(err.width, self.started.config.train.steps)]
        if self.sample:
            width = max(_CTRL_C, err.width - _CTRL_C)
            text = Text("\n".join(self.sample.strip("\n").split("\n")[:8]))
            parts.append(Panel(text, title="sample", title_align="left", border_style="dim", width=width))
        return Group(*parts)


class Moment:
    """The state of a run at one step, and its estimated progress since then."""

    def __init__(self, event: Logged | Progress) -> None:
        self.event = event
        self.at = time.monotonic()

    def line(self, width: int, steps: int | None) -> Table:
        """Args: steps: of the whole run; None: as many as there is time for."""
        event = self.event
        elapsed = event.seconds + time.monotonic() - self.at
        whole = event.seconds / max(event.progress, 1e-9)
        expected = f"about {round(event.step / max(event.progress, 1e-9)):,}"
        return fitted(
            width,
            event.progress,
            [
                (1, f"{event.progress:4.0%}"),
                (2, f"step {event.step:,} of {f'{steps:,}' if steps else expected}"),
                (3, f"loss {event.train_loss:.4f}"),
                (6, f"learning rate {event.learning_rate:.3g}"),
                (5, f"{count(event.tokens_per_second)} tokens/s"),
                (7, f"{duration(elapsed)} so far"),
                (4, f"{duration(max(0.0, whole - elapsed))} left"),
            ],
        )


class WorkBar:
    """How far a stage is, in bytes, how fast it is, and how long it may still take."""

    def __init__(self) -> None:
        self.stage = ""
        self.bar = ProgressDisplay(
            TextColumn("{task.description}"), BarColumn(bar_width=None), TaskProgressColumn(),
            DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=err, expand=True,
        )  # fmt: skip

    def take(self, event: Working) -> None:
        """A stage without numbers, such as how long training a tokenizer will take, stays on the screen."""
        if event.stage != self.stage:
            self.stage = event.stage
            for task in self.bar.task_ids:
                self.bar.remove_task(task)
            self.bar.add_task(escape(event.stage), total=None)
            if not (event.total or event.done):
                err.print(Text(event.stage, style="dim"))
        self.bar.update(
            self.bar.task_ids[0],
            completed=event.done,
            total=event.total or None,
            visible=bool(event.total or event.done),
        )


def fitted(width: int, share: float, parts: Sequence[tuple[int, str]]) -> Table:
    """One line: a bar and as many of the (priority, text) parts, 1 being the first, as there is room for."""
    room = width - _CTRL_C
    bar = _BAR[0] + 2
    shown: list[int] = []
    for index in sorted(range(len(parts)), key=lambda i: parts[i][0]):
        text = len(parts[index][1]) + 2
        if shown and text > room - bar * (parts[index][0] >= _AFTER_BAR):
            break
        room -= text
        shown.append(index)
    line = Table.grid(padding=(0, 2, 0, 0))
    cells: list[RenderableType] = [Text(parts[index][1], no_wrap=True) for index in sorted(shown)]
    if room >= bar:
        cells.insert(0, ProgressBar(total=1.0, completed=share, width=min(_BAR[1], room - 2)))
    line.add_row(*cells)
    return line
