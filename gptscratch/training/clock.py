"""The time of a run: its steps, and the work between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_EVALUATION_SHARE = 0.6  # of the time to train on a token, for scoring one: a guess until it is measured


@dataclass
class Clock:
    """How long a run has taken, how fast it steps, and how long its end will take.

    The typical step is the mean of this process's steps without those that do more than compute: the first
    one asks for memory, and one that ran out of memory was made more than once.
    """

    started: float  # ``time.perf_counter()`` when the run's seconds were 0, had it never stopped
    steps: int = 0
    tokens: int = 0
    step_time: float = 0.0  # seconds of these steps
    hook_seconds: dict[str, float] = field(default_factory=dict)  # how long each callback took last
    continued: threading.Event = field(default_factory=threading.Event)  # set when a suspended process is
    _micro_batch_size: int = 0  # of the newest step

    def run_seconds(self) -> float:
        return time.perf_counter() - self.started

    def leave(self, seconds: float) -> bool:
        """Let the run have taken at most so long; returns whether it had taken longer."""
        latest = time.perf_counter() - seconds
        is_late = self.started < latest
        self.started = max(self.started, latest)
        return is_late

    @property
    def step_seconds(self) -> float:
        return self.step_time / max(1, self.steps)

    def add_step(self, tokens: int, seconds: float, micro_batch_size: int) -> float:
        """Take note of a step; returns its seconds without those in which the process was suspended."""
        seconds = self._awake(seconds, self.step_seconds)
        if micro_batch_size == self._micro_batch_size:
            self.steps += 1
            self.tokens += tokens
            self.step_time += seconds
        self._micro_batch_size = micro_batch_size
        return seconds

    def add_wait(self, seconds: float) -> None:
        """Add what the device still had to do for the steps so far."""
        if self.steps:
            self.step_time += seconds

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Measure what will be done once more after the last step."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self.hook_seconds[what] = self._awake(seconds, self.hook_seconds.get(what, 0.0))

    def closing_seconds(self, eval_tokens: int, final_tokens: int, most_guessed: float) -> float:
        """The seconds for saving, scoring and a sample after the last step.

        Until an evaluation of ``eval_tokens`` was measured its part is a guess, ``most_guessed`` at most.
        """
        final = final_tokens / max(1, eval_tokens)  # in evaluations along the way
        times = {"evaluate": 1.0 + max(1.0, final)}
        expected = sum(times.get(what, 1.0) * seconds for what, seconds in self.hook_seconds.items())
        if "evaluate" not in self.hook_seconds:
            token_seconds = self.step_time / max(1, self.tokens)
            guess = _EVALUATION_SHARE * (final_tokens + 2 * eval_tokens) * token_seconds
            expected += min(guess, most_guessed)
        return expected

    def _awake(self, seconds: float, typical: float) -> float:
        """The seconds without those in which the process was suspended, which the run does not count."""
        if not (self.continued.is_set() and typical):
            return seconds
        self.continued.clear()
        asleep = max(0.0, seconds - typical)
        self.started += asleep
        return seconds - asleep
