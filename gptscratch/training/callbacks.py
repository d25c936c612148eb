"""What happens between steps: logging, evaluating, saving, sampling, each at its own interval."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gptscratch import paths
from gptscratch.config import TrainConfig
from gptscratch.device import out_of_memory
from gptscratch.errors import RunError
from gptscratch.model.gpt import GPT
from gptscratch.runs import checkpoint
from gptscratch.training.budget import Horizon, TimeHorizon
from gptscratch.training.evaluate import Evaluation
from gptscratch.training.events import Evaluated, Listener, Logged, Notice, Progress, Sampled, Saved
from gptscratch.training.optimizer import Optimizer
from gptscratch.training.state import TrainState
from gptscratch.training.step import StepResult

_SCORING = 0.6  # of the time to train on a token; a guess until the first evaluation is measured
_GUESSED = 0.1  # of a time horizon: the most that is kept for the end on that guess
_PROGRESS_SECONDS = 1.0  # between reports of progress, for whoever looks at a bar
SAVE_SECONDS = 600.0  # between checkpoints at most, whatever the interval in steps

MOST_SKIPPED = 10  # updates in a row without a finite gradient, before a run is given up


@dataclass
class Session:
    """What one call of ``train`` works with: the loop advances it, the hooks look at it."""

    run: Path
    config: TrainConfig
    model: GPT
    optimizer: Optimizer
    horizon: Horizon
    state: TrainState
    listen: Listener
    evaluate: Callable[[], Evaluation]  # over the part of the validation split that the plan allows
    sample: Callable[[], str] | None
    final_tokens: int  # of the validation split, which are scored at the end
    started: float = field(default_factory=time.perf_counter)  # when state.seconds was 0, had it run through
    micro_batch_size: int = 1  # sequences at a time: the plan's, or fewer where memory ran out
    scale: float = 0.0  # of the peak rate, in the newest step
    work_seconds: float = 0.0  # in steps, since the last log
    work_tokens: int = 0
    pending: list[StepResult] = field(default_factory=list)  # not yet read from the device
    over: bool = False  # the newest step was the last
    best: Evaluation | None = None  # of the newest step, where it is better than all before
    aside: dict[str, float] = field(default_factory=dict)  # seconds that each kind of hook took last
    pace: Pace = field(default_factory=lambda: Pace())
    saved_at: float = field(default_factory=time.perf_counter)
    told_at: float = -math.inf  # when progress was last reported
    continued: threading.Event = field(default_factory=threading.Event)  # set when a suspended process is

    def count(self, result: StepResult, tokens: int, seconds: float) -> None:
        """Take note of a step that was just made."""
        seconds = self._awake(seconds, self.pace.step_seconds)
        self.pending.append(result)
        self.state.step += 1
        self.state.tokens += tokens
        self.state.seconds = time.perf_counter() - self.started
        self.work_tokens += tokens
        self.work_seconds += seconds
        self.best = None
        self.pace.add(tokens, seconds, self.micro_batch_size)
        self._expect_the_end()
        self.over = self.horizon.is_over(self.state, self.pace.step_seconds)
        if self.over and isinstance(self.horizon, TimeHorizon):
            # Resumed from here, the run is over too, whatever its steps take then.
            left = self.horizon.seconds - self.state.seconds
            self.state.closing_seconds = max(self.state.closing_seconds, left)

    def _awake(self, seconds: float, typical: float) -> float:
        """The seconds without those in which the process was suspended; these do not count for the run."""
        if not (self.continued.is_set() and typical):
            return seconds
        self.continued.clear()
        asleep = max(0.0, seconds - typical)
        self.started += asleep
        return seconds - asleep

    def _expect_the_end(self) -> None:
        """Note how long saving, scoring and a sample will take after the last step."""
        final = self.final_tokens / max(1, self.config.eval_tokens)  # in evaluations along the way
        times = {"evaluate": 1.0 + max(1.0, final)}
        expected = sum(times.get(what, 1.0) * seconds for what, seconds in self.aside.items())
        if "evaluate" not in self.aside:
            if not self.pace.steps:
                return  # nothing is known of this machine's speed yet
            guess = _SCORING * (self.final_tokens + 2 * self.config.eval_tokens) * self.pace.token_seconds
            if isinstance(self.horizon, TimeHorizon):
                guess = min(guess, _GUESSED * self.horizon.seconds)
            expected += guess
        self.state.closing_seconds = expected

    def tokens_to_score(self) -> int | None:
        """Of the validation split at the end, or so many that the time suffices for; None: all."""
        along, final = self.config.eval_tokens, self.config.final_eval_tokens
        if isinstance(self.horizon, TimeHorizon) and self.aside.get("evaluate"):
            left = self.horizon.seconds - (time.perf_counter() - self.started)
            fits = int(left / self.aside["evaluate"] * along)
            return max(along, min(final or fits, fits))
        return final or None

    def is_over(self) -> bool:
        """Of a run that is resumed, before any step."""
        return self.horizon.is_over(self.state) or self.out_of_patience()

    def out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.state.evaluations_since_best

    def settle(self) -> float:
        """Add the pending losses to the state's sum; returns the newest gradient norm.

        Raises:
            RunError: too many in a row were not finite.
        """
        waited = time.perf_counter()
        newest, skipped = 0.0, self.state.skipped_steps
        for result in self.pending:
            loss, norm = result.loss.item(), result.grad_norm.item()
            self.state.add_step(loss, norm)
            newest = norm if math.isfinite(norm) else newest
            if self.state.skipped_in_a_row == MOST_SKIPPED:
                raise self.diverged(
                    f"in {MOST_SKIPPED} steps in a row the loss or its gradient was not finite "
                    f"(the newest loss is {loss}, the gradient norm {norm})"
                )
        self.pending.clear()
        waited = time.perf_counter() - waited
        self.work_seconds += waited
        self.pace.wait(waited)
        if self.state.skipped_steps > skipped:
            self.listen(Notice(skipped_notice(self.state.skipped_steps - skipped, self.state.skipped_steps)))
        return newest

    def save(self) -> None:
        """Raises RunError where the parameters are not finite: the last good checkpoint stays the last."""
        self.settle()
        if not torch.stack([p.isfinite().all() for p in self.model.parameters()]).all():
            raise self.diverged("a parameter is not finite")
        folder = checkpoint.save_checkpoint(
            self.run,
            self.model,
            self.optimizer.state(),
            self.state.to_dict(),
            best=best_facts(self.best) if self.best else None,
            keep=self.config.keep_checkpoints,
        )
        self.saved_at = time.perf_counter()
        self.listen(Saved(step=self.state.step, folder=folder))

    def diverged(self, sign: str) -> RunError:
        saved = paths.checkpoints(self.run)
        rate = self.config.learning_rate / 3
        if not saved:
            hint = f"No checkpoint was saved yet. Start again with --learning-rate {rate:.2g} or less."
        else:
            hint = (
                f"The checkpoint of step {saved[-1][0]:,} is intact. Continue from it with a lower rate: "
                f"gptscratch train --resume {self.run.name} --learning-rate {rate:.2g}"
            )
        return RunError(f"Training diverged by step {self.state.step:,}: {sign}.", hint)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Measure what will be done once more after the last step: a time horizon leaves room for it."""
        started = time.perf_counter()
        yield
        self.aside[what] = self._awake(time.perf_counter() - started, self.aside.get(what, 0.0))
        self._expect_the_end()


@dataclass
class Pace:
    """How fast this session's steps are, without those that do more than compute.

    The first step asks for memory and may compile; one that ran out of memory was made more than once.
    """

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    _micro_batch: int = 0  # of the newest step; 0: there was none

    def add(self, tokens: int, seconds: float, micro_batch_size: int) -> None:
        if micro_batch_size == self._micro_batch:
            self.steps += 1
            self.tokens += tokens
            self.seconds += seconds
        self._micro_batch = micro_batch_size

    def wait(self, seconds: float) -> None:
        """Add what the device still had to do for the steps so far."""
        if self.steps:
            self.seconds += seconds

    @property
    def step_seconds(self) -> float:
        return self.seconds / max(1, self.steps)

    @property
    def token_seconds(self) -> float:
        return self.seconds / max(1, self.tokens)


BEST_FACTS = ("val_loss", "val_accuracy", "val_bits_per_byte", "val_tokens")

Hook = Callable[[Session], None]  # called after each step


def log(session: Session) -> None:
    """A line of metrics.jsonl at the interval, and the progress about once a second."""
    state, config = session.state, session.config
    due = state.step % config.log_interval == 0 or session.over
    if not due and time.perf_counter() - session.told_at < _PROGRESS_SECONDS:
        return
    norm = session.settle()
    session.told_at = time.perf_counter()
    if not state.loss_count:
        return  # not one loss was finite
    facts: dict[str, Any] = {
        "step": state.step,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 3),
        "train_loss": state.loss_sum / state.loss_count,
        "learning_rate": config.learning_rate * session.scale,
        "tokens_per_second": round(session.work_tokens / max(1e-9, session.work_seconds), 1),
        "progress": session.horizon.progress(state),
    }
    if not due:
        session.listen(Progress(**facts))
        return
    session.listen(Logged(**facts, grad_norm=norm))
    state.loss_sum, state.loss_count = 0.0, 0
    session.work_tokens, session.work_seconds = 0, 0.0


def save(session: Session) -> None:
    """At the interval, after ten minutes, and where the model is better than it was: that one must exist."""
    state, config = session.state, session.config
    late = time.perf_counter() - session.saved_at >= SAVE_SECONDS
    if state.step % config.save_interval == 0 or late or session.best or session.over:
        with session.timed("save"):
            session.save()


def evaluate(session: Session) -> None:
    if session.state.step % session.config.eval_interval == 0 or session.over:
        score(session)


def score(session: Session) -> None:
    """Evaluate the model; note the best; end the run when patience is out."""
    state, patience = session.state, session.config.patience
    with session.timed("evaluate"), out_of_memory("while it evaluates"):
        evaluation = session.evaluate()
    if not math.isfinite(evaluation.loss):
        raise session.diverged(f"validation loss {evaluation.loss}")
    session.listen(evaluated(state.step, evaluation))
    if evaluation.loss < state.best_val_loss:
        state.best_val_loss, state.best_step = evaluation.loss, state.step
        state.evaluations_since_best = 0
        session.best = evaluation
    else:
        state.evaluations_since_best += 1
        if session.out_of_patience() and not session.over:
            session.over = True
            session.listen(
                Notice(
                    f"The last {patience} evaluations were not better than the best one, at step "
                    f"{state.best_step:,}: training ends here (patience)."
                )
            )


def sample(session: Session) -> None:
    step, interval = session.state.step, session.config.sample_interval
    interval = session.config.eval_interval if interval < 0 else interval
    if session.sample and interval and (step % interval == 0 or session.over):
        with session.timed("sample"):
            text = session.sample()
        session.listen(Sampled(step=step, text=text))


def skipped_notice(newly: int, in_all: int) -> str:
    updates = "1 update was" if newly == 1 else f"{newly} updates were"
    return f"{updates} skipped: the gradient was not finite ({in_all} since the run began)."


def evaluated(step: int, evaluation: Evaluation) -> Evaluated:
    return Evaluated(
        step=step,
        val_loss=evaluation.loss,
        val_accuracy=evaluation.accuracy,
        val_perplexity=evaluation.perplexity,
        val_bits_per_byte=evaluation.bits_per_byte,
        val_tokens=evaluation.tokens,
        val_unknown=evaluation.unknown,
    )


def best_facts(evaluation: Evaluation) -> dict[str, float]:
    """What best.json records in addition to the step."""
    values = (evaluation.loss, evaluation.accuracy, evaluation.bits_per_byte, evaluation.tokens)
    return dict(zip(BEST_FACTS, values, strict=True))


HOOKS: tuple[Hook, ...] = (log, evaluate, save, sample)
