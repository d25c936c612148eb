"""Back to a checkpoint: for a resume, and when training diverges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gptscratch import paths
from gptscratch.files import write_json
from gptscratch.runs import checkpoint
from gptscratch.runs.metrics import rewind_metrics
from gptscratch.runs.run import RunRecord, disk_errors_in
from gptscratch.training.context import DivergedError, TrainContext
from gptscratch.training.events import Notice
from gptscratch.training.loop import run_loop
from gptscratch.training.state import TrainState

FACTOR = 0.25  # of the learning rates; a power of two, so that a resumed run computes the same numbers
MOST = 3  # times in one call


def run_to_the_end(context: TrainContext) -> bool:
    """``run_loop``, which continues with a smaller learning rate where training diverges.

    Raises:
        DivergedError: the user wants to stop then, no checkpoint exists, or it happened too often.
    """
    for left in reversed(range(MOST + 1)):
        try:
            return run_loop(context)
        except DivergedError as error:
            if not left or context.config.on_divergence == "stop" or not paths.checkpoints(context.run):
                raise
            reason = error.message
        _roll_back(context, reason)  # after the except clause, which holds on to the step's tensors
    raise AssertionError("unreachable")


def _roll_back(context: TrainContext, reason: str) -> None:
    """Continue from the best checkpoint, or from the last one before any evaluation.

    The smaller rates are in the run's config, as if a resume had changed them: a run that is killed now is
    resumed with them.
    """
    run, train = context.run, context.config
    state = TrainState()
    if context.world.is_first:
        folder = paths.find_checkpoint(run, which="best")[1]
        state = TrainState.from_dict(checkpoint.load_state(folder))
    state = context.world.broadcast(state)
    if context.world.is_first or context.replica.is_sharded:
        context.load(paths.checkpoint_dir(run, state.step))
    context.share_parameters()
    context.optimizer.rate_factor *= FACTOR
    train = replace(
        train,
        learning_rate=train.learning_rate * FACTOR,
        adamw_learning_rate=train.adamw_learning_rate * FACTOR,
    )
    context.config = train
    context.record = replace(context.record, config=replace(context.record.config, train=train))
    if context.world.is_first:
        rewind_run(run, context.record, state)
    context.start(state, context.started)
    context.report(
        Notice(
            f"{reason} Continuing from step {state.step:,} with a lower learning rate: "
            f"{train.learning_rate:.2g}. (--on-divergence stop ends the run instead.)"
        )
    )


def rewind_run(run: Path, record: RunRecord, state: TrainState) -> bool:
    """Put a run's folder back to ``state``; returns whether it holds the evaluation of its step."""
    with disk_errors_in(run, f"resuming {run.name}"):
        if not checkpoint.rewind(run, state.to_dict(), keep=record.config.train.keep_checkpoints):
            state.forget_best()
        write_json(run / "config.json", record.to_dict())
    counted = state.best_step == state.step or state.evaluations_since_best > 0
    rewind_metrics(run / "samples.jsonl", state.step)
    return rewind_metrics(run / "metrics.jsonl", state.step) and counted
