"""The work between the steps of a run: logging, evaluation, checkpoints, samples, each at its interval."""

from __future__ import annotations

import math
from collections.abc import Callable

from gptscratch.device import out_of_memory
from gptscratch.training.context import TrainContext
from gptscratch.training.events import Logged, Notice, Progress, Sampled

_PROGRESS_SECONDS = 1.0  # between reports of progress
_SAVE_SECONDS = 600.0  # between checkpoints at most, whatever the interval in steps

Callback = Callable[[TrainContext], None]  # called after each step


def log(context: TrainContext) -> None:
    """Write a line of metrics.jsonl at the interval, and report the progress about once a second."""
    state, config = context.state, context.config
    due = state.step % config.log_interval == 0 or context.finished
    if not due and context.state.seconds - context.reported_at < _PROGRESS_SECONDS:
        return
    norm = context.flush_losses()
    context.reported_at = context.state.seconds
    if not state.loss_count:
        return  # not one loss was finite
    progress = Progress(
        step=state.step,
        tokens=state.tokens,
        seconds=round(state.seconds, 3),
        train_loss=state.loss_sum / state.loss_count,
        learning_rate=config.learning_rate * context.lr_scale,
        tokens_per_second=round(context.work_tokens / max(1e-9, context.work_seconds), 1),
        progress=context.budget.progress(state),
    )
    if not due:
        context.report(progress)
        return
    context.report(Logged(**vars(progress), grad_norm=norm))
    state.loss_sum, state.loss_count = 0.0, 0
    context.work_tokens, context.work_seconds = 0, 0.0


def evaluate(context: TrainContext) -> None:
    """Evaluate at the interval, note the best evaluation, and end the run when patience is used up."""
    state, config = context.state, context.config
    if state.step % config.eval_interval and not context.finished:
        return
    with context.timed("evaluate"), out_of_memory("while it evaluates"):
        evaluation = context.evaluate(state.step, config.eval_tokens)
    if not math.isfinite(evaluation.val_loss):
        raise context.diverged(f"validation loss {evaluation.val_loss}")
    context.report(evaluation)
    if evaluation.val_loss < state.best_val_loss:
        state.best_val_loss, state.best_step = evaluation.val_loss, state.step
        state.evaluations_since_best = 0
        context.best = evaluation
        return
    state.evaluations_since_best += 1
    if state.is_out_of_patience(config.patience) and not context.finished:
        context.finished = True
        context.report(
            Notice(
                f"The last {config.patience} evaluations were not better than the best one, at step "
                f"{state.best_step:,}: training ends here (patience)."
            )
        )


def save(context: TrainContext) -> None:
    """Save at the interval, after ten minutes, and where the model is better than before: it must be kept."""
    late = context.state.seconds - context.saved_at >= _SAVE_SECONDS
    due = context.state.step % context.config.save_interval == 0
    if due or late or context.best or context.finished:
        with context.timed("save"):
            context.save()


def sample(context: TrainContext) -> None:
    step, interval = context.state.step, context.config.sample_interval
    interval = context.config.eval_interval if interval is None else interval
    if interval and (step % interval == 0 or context.finished):
        with context.timed("sample"):
            text = context.sample_text()
            context.world.wait()
        if text is not None:
            context.report(Sampled(step=step, text=text))


CALLBACKS: tuple[Callback, ...] = (log, evaluate, sample, save)
