"""The job: from a corpus to a trained model, in one call or resumed. The loop itself is in loop.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from gptscratch import distributed, paths
from gptscratch.config import RunConfig, qualified
from gptscratch.data.prepare import Prepared, open_prepared
from gptscratch.data.token_files import token_counts
from gptscratch.device import out_of_memory, peak_memory, pick_device, pick_dtype, slow_dtype_warning
from gptscratch.distributed import World, joined, peers
from gptscratch.errors import CheckpointError, require
from gptscratch.model.head import unigram_bias
from gptscratch.runs import checkpoint
from gptscratch.runs.run import (
    RunRecord,
    create_run,
    held,
    is_run,
    new_run,
    read_facts,
    read_run,
    resume_config,
)
from gptscratch.runs.run_tokens import record_of, require_trained, tokens_of_run
from gptscratch.training import callbacks, clock, fine_tuning
from gptscratch.training.budget import cooldown as cooled_down
from gptscratch.training.budget import make_budget
from gptscratch.training.context import SampleText, TrainContext, facts_of
from gptscratch.training.events import Evaluated, FineTuned, Notice, OnEvent, Started, ignore
from gptscratch.training.planning.plan_run import plan_run, tokens_per_row
from gptscratch.training.rollback import rewind_run, run_to_the_end
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


@clock.watching()
def train(
    corpus: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    init_from: str | Path | None = None,
    replace_run: bool = False,
    cooldown: bool = False,
    on_event: OnEvent = ignore,
    sample_text: SampleText | None = None,
    started: float | None = None,
    **settings: Any,
) -> TrainResult:
    """Train a GPT on text: ``train("corpus.txt", n_layer=4, steps=2000)``.

    Args:
        corpus: files, folders or glob patterns; none: text that comes with Python.
        out: the run's folder; None: one with the run's name in the cache directory.
        init_from: a checkpoint whose parameters, shape and tokenizer the run starts from: fine-tuning.
        replace_run: allow an existing run in that folder to be replaced.
        cooldown: after an interrupt the learning rate falls to 0 before the run stops.
        on_event: is called with what happens (``training.events``).
        sample_text: makes a text from the model and its run's folder, to be shown while it trains; None: no
            samples.
        started: ``clock.now()`` when the user's time began to count; None: now.
        **settings: fields of ``RunConfig`` by name, as in ``RunConfig.with_settings``.

    Raises:
        UserError: an error that the user can fix; nothing is left half-written.
    """
    started = clock.now() if started is None else started
    names = [corpus] if isinstance(corpus, str | Path) else list(corpus)
    if names:
        settings["corpus"] = tuple(str(name) for name in names)
    config, size = RunConfig().with_settings(settings), distributed.world().size
    distributed.world().place(pick_device(config.train.device))
    rows = qualified(settings).get("train.batch_size", size)
    few = f"{size} processes cannot share a batch of {rows}."
    require(rows >= size, few, f"Take --batch-size {size} or more, or fewer processes.")
    with joined() as world:
        call = f"train {names} {out} {settings}"
        earlier = world.recall(call)  # torchrun has started the processes again
        if not world.is_first:
            result = _follow(world)
        elif earlier is not None and paths.checkpoints(Path(earlier)):
            result = _resume(world, earlier, call, on_event, sample_text)
        else:
            with new_run(config, out or earlier, replace=replace_run) as run:
                result = _begin(
                    world, run, settings, init_from, call, on_event, sample_text, started, replace_run
                )
        if result.interrupted and cooldown:
            return resume(result.run, cooldown=True, on_event=on_event, sample_text=sample_text)
    return result


def _begin(
    world: World,
    run: Path,
    settings: dict[str, Any],
    init_from: str | Path | None,
    call: str,
    on_event: OnEvent,
    sample_text: SampleText | None,
    started: float,
    replace_run: bool,
) -> TrainResult:
    plan, prepared = plan_run(settings, init_from=init_from, on_event=on_event, started=started)
    record = record_of(replace(plan.config, name=run.name), prepared)
    context = TrainContext(run, record, prepared, TrainState(), on_event, sample_text, world)
    source = _initialize(context, prepared, init_from)
    world.broadcast(_Shared(run, record, prepared.folder, context.state, init_from=init_from))
    context.share_parameters()
    found = None if init_from is None else fine_tuning.before(context, init_from)
    if is_run(run) and not replace_run:
        on_event(Notice(f"The run {run.name} had no checkpoint yet. It starts again."))
    create_run(run, record, prepared.tokenizer, plan.record())
    world.remember(call, str(run.resolve()))
    if found is not None:
        fine_tuning.begin(context, found, source)
    context.start(context.state, started)
    return _train(context)


def _initialize(context: TrainContext, prepared: Prepared, init_from: str | Path | None) -> Path | None:
    """The parameters of another run, or the bias of the output; returns the file that has exactly these."""
    if init_from is not None:
        return fine_tuning.load_source(context.model, context.run, init_from)
    if context.record.config.model.output_bias:
        counts = token_counts(prepared.tokens.train, context.record.config.model.vocab_size)
        bias = unigram_bias(context.model.lm_head, torch.from_numpy(counts))
        checkpoint.copy_parameters(context.model, {f"lm_head.{name}": t for name, t in bias.items()})
    return None


@dataclass(frozen=True)
class _Shared:
    """What rank 0 decided and the other ranks need to know."""

    run: Path
    record: RunRecord
    tokens: Path
    state: TrainState
    init_from: str | Path | None = None
    fine_tuned: FineTuned | None = None
    was_evaluated: bool = True


def _follow(world: World) -> TrainResult:
    """The part of every other rank: it trains as rank 0 decides, and writes nothing."""
    shared: _Shared | TrainResult = world.broadcast()
    if isinstance(shared, TrainResult):
        return shared
    prepared = open_prepared(shared.tokens)
    context = TrainContext(shared.run, shared.record, prepared, shared.state, ignore, None, world)
    if context.replica.is_sharded and shared.state.step:
        context.load(paths.checkpoint_dir(shared.run, shared.state.step))
    elif context.replica.is_sharded:
        _initialize(context, prepared, shared.init_from)
    context.share_parameters()
    context.fine_tuned = shared.fine_tuned
    if shared.init_from is not None:
        context.fine_tuned = fine_tuning.before(context, shared.init_from)
    return _train(context, was_evaluated=shared.was_evaluated)


@clock.watching()
def resume(
    name_or_path: str | Path | None = None,
    *,
    cooldown: bool = False,
    on_event: OnEvent = ignore,
    sample_text: SampleText | None = None,
    **settings: Any,
) -> TrainResult:
    """Continue a run from its last checkpoint, as if it had never stopped: ``resume("tales", steps=4000)``.

    Args:
        name_or_path: a run, or a checkpoint that the run goes back to; None: the newest run.
        cooldown: the learning rate falls to 0 from now on, over a length in ``settings`` or a tenth of the
            steps so far, and the run is finished.
        on_event: as for ``train``.
        sample_text: as for ``train``.
        **settings: changes of the settings of training, for example to extend the run.

    Raises:
        UserError: the run, its checkpoint or its corpus is not as it was.
    """
    with joined() as world:
        call = f"resume {name_or_path} {cooldown} {settings}"
        earlier = world.recall(call)
        if not world.is_first:
            return _follow(world)
        if earlier is not None:  # torchrun has started the processes again: the run has these settings
            return _resume(world, earlier, call, on_event, sample_text)
        return _resume(world, name_or_path, call, on_event, sample_text, cooldown=cooldown, settings=settings)


def _resume(
    world: World,
    name_or_path: str | Path | None,
    call: str,
    on_event: OnEvent,
    sample_text: SampleText | None,
    *,
    cooldown: bool = False,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> TrainResult:
    try:
        run, _ = paths.find_checkpoint(name_or_path, which="last")
    except CheckpointError:
        with held(paths.find_run(name_or_path)):  # being trained explains a missing checkpoint
            raise
    with held(run):
        folder = paths.find_checkpoint(name_or_path or run, which="last")[1]  # what there is by now
        require_trained(run, read_run(run))
        state = TrainState.from_dict(checkpoint.load_state(folder))
        resumed = _resumed(run, state, cooldown, on_event, settings)
        if resumed is None:
            return world.broadcast(_unchanged(run, state, on_event))
        record, prepared = resumed
        checkpoint.require_same_shapes(run, record, folder)
        context = TrainContext(run, record, prepared, state, on_event, sample_text, world)
        context.load(folder)
        context.fine_tuned = fine_tuning.read(run)
        was_evaluated = rewind_run(run, record, state)
        world.remember(call, str(run.resolve()))
        world.broadcast(_Shared(run, record, prepared.folder, state, None, context.fine_tuned, was_evaluated))
        context.share_parameters()
        context.start(state)  # its own start-up is not counted
        return _train(context, was_evaluated=was_evaluated)


def _resumed(
    run: Path, state: TrainState, cooldown: bool, on_event: OnEvent, settings: Mapping[str, Any]
) -> tuple[RunRecord, Prepared] | None:
    """The run with its changed settings, and its tokens; None: it is finished."""
    record = read_run(run)
    was_finished = not cooldown and checkpoint.is_finished(run, state.step)
    if was_finished and not settings:
        return None
    config = record.config if cooldown else resume_config(record.config, settings)
    prepared = tokens_of_run(run, replace(record, config=config))
    tokens = prepared.manifest.train.tokens
    row = tokens_per_row(prepared, config.train.documents)(config.model.context_length)
    if was_finished and make_budget(config.train, tokens, row).is_used_up(state):
        return None
    notices = []
    if record.format == 1:
        notices.append(f"{run.name} was begun by an earlier version: the order of its batches changes here.")
    if cooldown:
        config = cooled_down(config, state, tokens, row, settings)
        notices.append("Cooldown: the learning rate falls to 0 and the run ends. Ctrl-C saves and stops.")
    device = pick_device(config.train.device)
    notices.append(slow_dtype_warning(pick_dtype(config.train.dtype, device), device) or "")
    for text in filter(None, notices):
        on_event(Notice(text))
    return replace(record_of(config, prepared), base=record.base, format=max(2, record.format)), prepared


def _unchanged(run: Path, state: TrainState, on_event: OnEvent) -> TrainResult:
    """The result of a finished run, which is not trained again."""
    on_event(
        Notice(
            f"{run.name} is finished at step {state.step:,}. "
            f"To train it further: gptscratch train --resume {paths.typed(run)} --steps N, "
            f"with N above {state.step}."
        )
    )
    evaluation = Evaluated.from_facts(read_facts(run / "best.json"))
    fine_tuned = fine_tuning.read(run)
    return TrainResult(
        run, state.step, state.tokens, state.seconds, state.best_step, evaluation, False, fine_tuned
    )


@peers(all_errors=False)
def _train(context: TrainContext, *, was_evaluated: bool = True) -> TrainResult:
    """Run the loop, and score the best checkpoint."""
    run, record, state = context.run, context.record, context.state
    context.finished = context.budget.is_used_up(state) or context.is_out_of_patience()
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
    return TrainResult(
        run, state.step, state.tokens, context.run_seconds(), state.best_step, evaluation, interrupted,
        fine_tuned,
    )  # fmt: skip


def _evaluate_best(context: TrainContext) -> Evaluated:
    """The best checkpoint on more of the validation split, which replaces its entry in best.json."""
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
    best, peak = facts_of(evaluation), peak_memory(pick_device(context.config.device))
    if context.world.is_first:
        checkpoint.finish(
            run, step=state.step, best_step=state.best_step, best=best, peak_memory=peak or None
        )
    return evaluation
