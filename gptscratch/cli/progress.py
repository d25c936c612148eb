"""What moves while something runs, on stderr; plain lines where that is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gptscratch.cli.render import err, notice, plan_lines
from gptscratch.cli.units import count, duration, size
from gptscratch.training.events import (
    Evaluated,
    Event,
    Logged,
    Notice,
    Planned,
    Progress,
    Sampled,
    Started,
    Working,
)

_REFRESH = 0.1  # seconds, at least, between drawings
_CTRL_C = 8  # columns left for ^C, up to four times


class TrainView:
    """A listener that shows a run: the plan, a line per evaluation, a bar, the newest sample."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.live = Live(console=err, auto_refresh=False, transient=True)
        self.sample = ""
        self.train_loss = ""
        self.drawn = 0.0
        self.pace = Pace()
        self.evaluated = -1  # the step of the newest evaluation; again, it is the final one

    def __enter__(self) -> TrainView:
        if not self.quiet and err.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()
        if not self.quiet:
            self.pace.tell_of_the_end(kind)

    def __call__(self, event: Event) -> None:
        if self.quiet:
            return
        if isinstance(event, Notice):
            notice(event.text)
        elif isinstance(event, Working):
            line = self.pace.line(event)
            if line:
                self._draw(line)
        elif isinstance(event, Planned):
            self.pace = Pace()
            for label, text in plan_lines(event.plan, event.manifest):
                err.print(f"[bold]{label:<11}[/] {escape(text)}")
        elif isinstance(event, Started):
            err.print(f"[bold]{'run':<11}[/] {escape(str(event.run.resolve()))}")
            if event.step:
                err.print(f"[bold]{'resumed':<11}[/] at step {event.step:,}")
            err.print(
                f"\n[dim]{'step':>9} {'train loss':>11} {'val loss':>9} {'bits/byte':>10} {'accuracy':>9}[/]"
            )
        elif isinstance(event, Logged | Progress):
            self.train_loss = f"{event.train_loss:.4f}"
            if time.monotonic() - self.drawn > _REFRESH:
                self._draw(self._running(event))
        elif isinstance(event, Evaluated):
            step = "final" if event.step == self.evaluated else f"{event.step:,}"
            self.evaluated = event.step
            err.print(
                f"{step:>9} {self.train_loss:>11} {event.val_loss:>9.4f} "
                f"{event.val_bits_per_byte:>10.4f} {event.val_accuracy:>9.1%}"
            )
        elif isinstance(event, Sampled):
            self.sample = event.text

    def _running(self, event: Logged | Progress) -> Group:
        left = event.seconds * (1 - event.progress) / max(event.progress, 1e-9)
        line = Table.grid(padding=(0, 1))
        line.add_row(
            ProgressBar(total=1.0, completed=event.progress, width=30),
            f"{event.progress:4.0%}",
            f"[dim]step[/] {event.step:,}",
            f"[dim]loss[/] {event.train_loss:.4f}",
            f"[dim]rate[/] {event.learning_rate:.3g}",
            f"{count(event.tokens_per_second)} tokens/s",
            f"[dim]{duration(left)} left[/]",
        )
        parts: list[Table | Panel] = [line]
        if self.sample:
            text = Text(_lines(self.sample, 8))
            # Not up to the edge: there the terminal's ^C would begin a line that nobody wipes away.
            width = max(_CTRL_C, err.width - _CTRL_C)
            parts.append(Panel(text, title="a sample", title_align="left", border_style="dim", width=width))
        return Group(*parts)

    def _draw(self, what: Group | Table) -> None:
        if self.live.is_started:
            self.live.update(what, refresh=True)
            self.drawn = time.monotonic()


class WorkView:
    """Shows the stages of preparing a corpus; call it as ``prepare`` calls ``on_progress``."""

    def __init__(self) -> None:
        self.live = Live(console=err, auto_refresh=False, transient=True)
        self.pace = Pace()

    def __enter__(self) -> WorkView:
        if err.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()
        self.pace.tell_of_the_end(kind)

    def __call__(self, stage: str, done: int, total: int) -> None:
        line = self.pace.line(Working(stage, done, total))
        if line and self.live.is_started:
            self.live.update(line, refresh=True)


class Pace:
    """How fast a stage goes, and how long it may still take."""

    def __init__(self) -> None:
        self.stage = ""
        self.began = (0.0, 0)  # when this stage began, and with how much done
        self.drawn = 0.0
        self.share = 0.0

    def line(self, event: Working) -> Table | None:
        """What to draw of it; None where it is too early to draw again.

        A stage that tells no total, such as how long a tokenizer will take to train, stays on the screen.
        """
        now = time.monotonic()
        if event.stage != self.stage:
            self.stage, self.began = event.stage, (now, event.done)
            if not event.total and not event.done:
                err.print(f"[dim]{escape(event.stage)}[/]")
        elif now - self.drawn < _REFRESH:
            return None
        self.drawn = now
        self.share = min(1.0, event.done / event.total) if event.total else 0.0
        return self._row(event, now)

    def tell_of_the_end(self, kind: type[BaseException] | None) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self.stage == "tokenizing":
            notice(f"Stopped at {self.share:.0%} of the text. The same command goes on from there.")

    def _row(self, event: Working, now: float) -> Table:
        seconds, done = now - self.began[0], event.done - self.began[1]
        rate = done / seconds if seconds > 0.5 else 0.0  # bytes per second; 0: not known yet
        row: list[str | ProgressBar] = [event.stage]
        if event.total:
            row += [ProgressBar(total=1.0, completed=self.share, width=30), f"{self.share:4.0%}"]
        if event.done:
            of = f" of {size(event.total)}" if event.total else ""
            row.append(f"{size(event.done)}{of}")
        if rate:
            row.append(f"{size(rate)}/s")
        if rate and event.total:
            row.append(f"[dim]{duration((event.total - event.done) / rate)} left[/]")
        line = Table.grid(padding=(0, 1))
        line.add_row(*row)
        return line


def _lines(text: str, limit: int) -> str:
    lines = text.strip("\n").split("\n")
    return "\n".join(lines[:limit])
