"""From the first parameters of a run to its result, on rank 0 and on the ranks that follow it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from gptscratch import paths
from gptscratch.data.prepare import Prepared, open_prepared
from gptscratch.data.token_files import token_counts
from gptscratch.device import out_of_memory, peak_memory, pick_device
from gptscratch.distributed import World, peers
from gptscratch.model.head import unigram_bias
from gptscratch.runs import checkpoint
from gptscratch.runs.run import RunRecord
from gptscratch.training import callbacks, fine_tuning
from gptscratch.training.context import SampleText, TrainContext, facts_of
from gptscratch.training.events import Evaluated, FineTuned, OnEvent, Started, ignore
from gptscratch.training.rollback import run_to_the_end
from gptscratch.training.state import TrainState


@dataclass(frozen=True)
class TrainResult:
    """How a call of ``train`` ended."""

    run: Path
    step: int
    tokens: int
    seconds: float
    best_step: int
    evaluation: Evaluated | None  # of the best checkpoint at the end; None: interrupted
    interrupted: bool
    fine_tuned: FineTuned | None = None  # where it started from another run


@dataclass(frozen=True)
class Call:
    """One call of ``train`` or ``resume``."""

    world: World
    key: str  # by which the processes recall its run when torchrun has started them again
    on_event: OnEvent
    sample_text: SampleText | None

    def context(self, run: Path, record: RunRecord, prepared: Prepared, state: TrainState) -> TrainContext:
        return TrainContext(run, record, prepared, state, self.on_event, self.sample_text, self.world)


def initialize(context: TrainContext, prepared: Prepared, init_from: str | Path | None) -> Path | None:
    """The parameters of another run, or the bias of the output; returns the file that has exactly these."""
    if init_from is not None:
        return fine_tuning.load_source(context.model, context.run, init_from)
    if context.record.config.model.output_bias:
        counts = token_counts(prepared.tokens.train, context.record.config.model.vocab_size)
        bias = unigram_bias(context.model.lm_head, torch.from_numpy(counts))
        checkpoint.copy_parameters(context.model, {f"lm_head.{name}": t for name, t in bias.items()})
    return None


@peers(all_errors=False)
def train_and_score(context: TrainContext, *, was_evaluated: bool = True) -> TrainResult:
    """Run the loop, and score the best checkpoint."""
    run, record, state = context.run, context.record, context.state
    context.finished = context.budget.is_used_up(state) or state.is_out_of_patience(context.config.patience)
    context.report(Started(run=run, config=record.config, step=state.step, parameters=record.parameters))
    if context.fine_tuned is not None and not state.step:
        context.report(context.fine_tuned.before)
    if context.finished and not was_evaluated:
        callbacks.evaluate(context)
        context.save()
    interrupted = run_to_the_end(context)
    state = context.state  # another one after a rollback
    evaluation = None if interrupted else _evaluate_best(context)
    fine_tuned = context.fine_tuned if evaluation is None else fine_tuning.end(context, evaluation)
    if evaluation is not None and context.world.is_first:
        # This is written last: a run that is marked as finished has everything.
        best, peak = facts_of(evaluation), peak_memory(pick_device(context.config.device))
        checkpoint.finish(
            run, step=state.step, best_step=state.best_step, best=best, peak_memory=peak or None
        )
    return TrainResult(
        run, state.step, state.tokens, context.run_seconds(), state.best_step, evaluation, interrupted,
        fine_tuned,
    )  # fmt: skip


def _evaluate_best(context: TrainContext) -> Evaluated:
    """The best checkpoint on more of the validation split."""
    run, state = context.run, context.state
    if state.best_step != state.step:
        if context.world.is_first or context.replica.is_sharded:
            folder = paths.checkpoint_dir(run, state.best_step)
            checkpoint.load_trained(context.model, folder, context.record.base)
        context.share_parameters()
    with out_of_memory("while it evaluates"):
        evaluation = context.evaluate(state.best_step, context.tokens_at_end())
    if evaluation.val_tokens > context.config.eval_tokens:
        context.report(evaluation)  # on more than those along the way
    return evaluation


@dataclass(frozen=True)
class Shared:
    """What rank 0 decided and the other ranks need to know."""

    run: Path
    record: RunRecord
    tokens: Path
    state: TrainState
    init_from: str | Path | None = None
    fine_tuned: FineTuned | None = None
    was_evaluated: bool = True


def follow(world: World) -> TrainResult:
    """The part of every other rank: it trains as rank 0 decides, and writes nothing."""
    shared: Shared | TrainResult = world.broadcast()
    if isinstance(shared, TrainResult):
        return shared
    prepared = open_prepared(shared.tokens)
    context = Call(world, "", ignore, None).context(shared.run, shared.record, prepared, shared.state)
    if context.replica.is_sharded and shared.state.step:
        context.load(paths.checkpoint_dir(shared.run, shared.state.step))
    elif context.replica.is_sharded:
        initialize(context, prepared, shared.init_from)
    context.share_parameters()
    context.fine_tuned = shared.fine_tuned
    if shared.init_from is not None:
        context.fine_tuned = fine_tuning.before(context, shared.init_from)
    return train_and_score(context, was_evaluated=shared.was_evaluated)
