"""What happens between steps: logging, saving, evaluating, sampling, each at its own interval."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from gptscratch import checkpoint
from gptscratch.config import TrainConfig
from gptscratch.errors import RunError, disk_errors
from gptscratch.model.gpt import GPT
from gptscratch.training.evaluate import Evaluation
from gptscratch.training.events import Evaluated, Listener, Logged, Notice, Sampled, Saved
from gptscratch.training.horizon import Horizon
from gptscratch.training.optimizer import Optimizer
from gptscratch.training.state import TrainState
from gptscratch.training.step import StepResult

_SCORING = 0.6  # of the time to train on a token; a guess until the first evaluation is measured


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
    sample: Callable[[], str]
    final_tokens: int  # of the validation split, which are scored at the end
    started: float = field(default_factory=time.perf_counter)  # when state.seconds was 0, had it run through
    micro_batch: int = 1  # sequences at a time: the plan's, or fewer where memory ran out
    scale: float = 0.0  # of the peak rate, in the newest step
    work_seconds: float = 0.0  # in steps, since the last log
    work_tokens: int = 0
    pending: list[StepResult] = field(default_factory=list)  # not yet read from the device
    over: bool = False  # the newest step was the last
    aside: dict[str, float] = field(default_factory=dict)  # seconds that each kind of hook took last

    def count(self, result: StepResult, tokens: int, seconds: float) -> None:
        """Take note of a step that was just made."""
        self.pending.append(result)
        self.state.step += 1
        self.state.tokens += tokens
        self.state.seconds = time.perf_counter() - self.started
        self.work_tokens += tokens
        self.work_seconds += seconds
        if "evaluate" not in self.aside:
            to_score = self.final_tokens + 2 * self.config.eval_tokens
            self.state.closing_seconds = _SCORING * to_score * seconds / tokens
        self.over = self.horizon.is_over(self.state)

    def settle(self) -> float:
        """Add the pending losses to the state's sum; returns the newest gradient norm.

        Raises:
            RunError: a loss or a gradient is not finite.
        """
        waited = time.perf_counter()
        norm = 0.0
        for result in self.pending:
            loss, norm = result.loss.item(), result.grad_norm.item()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise self.diverged(f"loss {loss}, gradient norm {norm}")
            self.state.loss_sum += loss
            self.state.loss_count += 1
        self.pending.clear()
        self.work_seconds += time.perf_counter() - waited
        return norm

    def save(self) -> None:
        """Raises RunError where the parameters are not finite: the last good checkpoint stays the last."""
        self.settle()
        if not torch.stack([p.isfinite().all() for p in self.model.parameters()]).all():
            raise self.diverged("a parameter is not finite")
        folder = checkpoint.save_checkpoint(self.run, self.state, self.model, self.optimizer.state())
        checkpoint.prune(self.run, keep=self.config.keep, best_step=self.state.best_step)
        self.listen(Saved(step=self.state.step, folder=folder))

    def diverged(self, sign: str) -> RunError:
        return RunError(
            f"Training diverged by step {self.state.step}: {sign}.",
            "Nothing was saved over the checkpoints before. Try a lower --learning-rate.",
        )

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Measure what will be done once more after the last step: a time horizon leaves room for it."""
        started = time.perf_counter()
        yield
        self.aside[what] = time.perf_counter() - started
        final = self.final_tokens / max(1, self.config.eval_tokens)  # in evaluations along the way
        times = {"evaluate": 1.0 + max(1.0, final)}
        self.state.closing_seconds = sum(times.get(w, 1.0) * s for w, s in self.aside.items())


Hook = Callable[[Session], None]  # called after each step


def log(session: Session) -> None:
    state, config = session.state, session.config
    if state.step % config.log_interval and not session.over:
        return
    norm = session.settle()
    session.listen(
        Logged(
            step=state.step,
            tokens=state.tokens,
            seconds=round(state.seconds, 3),
            train_loss=state.loss_sum / max(1, state.loss_count),
            learning_rate=config.learning_rate * session.scale,
            grad_norm=norm,
            tokens_per_second=round(session.work_tokens / max(1e-9, session.work_seconds), 1),
            progress=session.horizon.progress(state),
        )
    )
    state.loss_sum, state.loss_count = 0.0, 0
    session.work_tokens, session.work_seconds = 0, 0.0


def save(session: Session) -> None:
    """Also before each evaluation, so that the best checkpoint is one that exists."""
    step, config = session.state.step, session.config
    if step % config.save_interval == 0 or step % config.eval_interval == 0 or session.over:
        with session.timed("save"):
            session.save()


def evaluate(session: Session) -> None:
    if session.state.step % session.config.eval_interval == 0 or session.over:
        score(session)


def score(session: Session) -> None:
    """Evaluate the model; note the best; end the run when patience is out."""
    state, config = session.state, session.config
    with session.timed("evaluate"):
        evaluation = session.evaluate()
    if not math.isfinite(evaluation.loss):
        raise session.diverged(f"validation loss {evaluation.loss}")
    session.listen(evaluated(state.step, evaluation))
    if evaluation.loss < state.best_val_loss:
        state.best_val_loss, state.best_step = evaluation.loss, state.step
        state.evaluations_since_best = 0
        with disk_errors("writing best.json"):
            checkpoint.point(session.run, "best", state.step, **best_facts(evaluation))
        checkpoint.prune(session.run, keep=config.keep, best_step=state.best_step)
    else:
        state.evaluations_since_best += 1
        if 0 < config.patience <= state.evaluations_since_best and not session.over:
            session.over = True
            session.listen(Notice(f"No better evaluation in {config.patience}: training ends here."))


def sample(session: Session) -> None:
    step, interval = session.state.step, session.config.sample_interval
    interval = session.config.eval_interval if interval < 0 else interval
    if interval and (step % interval == 0 or session.over):
        with session.timed("sample"):
            text = session.sample()
        session.listen(Sampled(step=step, text=text))


def evaluated(step: int, evaluation: Evaluation) -> Evaluated:
    return Evaluated(
        step=step,
        val_loss=evaluation.loss,
        val_accuracy=evaluation.accuracy,
        val_perplexity=evaluation.perplexity,
        val_bits_per_byte=evaluation.bits_per_byte,
        val_tokens=evaluation.tokens,
    )


def best_facts(evaluation: Evaluation) -> dict[str, float]:
    """What best.json says beside the step."""
    return {
        "val_loss": evaluation.loss,
        "val_accuracy": evaluation.accuracy,
        "val_bits_per_byte": evaluation.bits_per_byte,
        "val_tokens": evaluation.tokens,
    }


HOOKS: tuple[Hook, ...] = (log, save, evaluate, sample)
