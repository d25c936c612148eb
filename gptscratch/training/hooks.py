"""What happens between steps: logging, saving, evaluating, sampling, each at its own interval."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gptscratch import checkpoint
from gptscratch.config import TrainConfig
from gptscratch.errors import RunError
from gptscratch.model.gpt import GPT
from gptscratch.training.evaluate import Evaluation
from gptscratch.training.events import Evaluated, Listener, Logged, Notice, Sampled, Saved
from gptscratch.training.horizon import Horizon
from gptscratch.training.optimizer import Optimizer
from gptscratch.training.state import TrainState
from gptscratch.training.step import StepResult


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
    started: float = field(default_factory=time.perf_counter)  # when state.seconds was 0, had it run through
    scale: float = 0.0  # of the peak rate, in the newest step
    work_seconds: float = 0.0  # in steps, since the last log
    work_tokens: int = 0
    pending: list[StepResult] = field(default_factory=list)  # not yet read from the device
    over: bool = False  # the newest step was the last

    def count(self, result: StepResult, tokens: int, seconds: float) -> None:
        """Take note of a step that was just made."""
        self.pending.append(result)
        self.state.step += 1
        self.state.tokens += tokens
        self.state.seconds = time.perf_counter() - self.started
        self.work_tokens += tokens
        self.work_seconds += seconds
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
                raise RunError(
                    f"Training diverged by step {self.state.step}: loss {loss}, gradient norm {norm}.",
                    "The last checkpoint is intact. Try a lower --learning-rate.",
                )
            self.state.loss_sum += loss
            self.state.loss_count += 1
        self.pending.clear()
        self.work_seconds += time.perf_counter() - waited
        return norm

    def save(self) -> Path:
        self.settle()
        folder = checkpoint.save_checkpoint(self.run, self.state, self.model, self.optimizer.state())
        checkpoint.prune(self.run, keep=self.config.keep, best_step=self.state.best_step)
        self.listen(Saved(step=self.state.step, folder=folder))
        return folder


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
        session.save()


def evaluate(session: Session) -> None:
    """Score the model; note the best; end the run when patience is out."""
    state, config = session.state, session.config
    if state.step % config.eval_interval and not session.over:
        return
    evaluation = session.evaluate()
    session.listen(evaluated(state.step, evaluation))
    if evaluation.loss < state.best_val_loss:
        state.best_val_loss, state.best_step = evaluation.loss, state.step
        state.evaluations_since_best = 0
        checkpoint.point(session.run, "best", state.step, **best_facts(evaluation))
    else:
        state.evaluations_since_best += 1
        if state.evaluations_since_best == config.patience and not session.over:
            session.over = True
            session.listen(Notice(f"No better evaluation in {config.patience}: training ends here."))


def sample(session: Session) -> None:
    step, interval = session.state.step, session.config.sample_interval
    interval = session.config.eval_interval if interval < 0 else interval
    if interval and (step % interval == 0 or session.over):
        session.listen(Sampled(step=step, text=session.sample()))


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
