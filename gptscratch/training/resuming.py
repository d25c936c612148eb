"""A run that continues from a checkpoint, as if it had never stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gptscratch import paths
from gptscratch.config import LENGTHS, qualified
from gptscratch.data.prepare import Prepared
from gptscratch.device import pick_device, pick_dtype, slow_dtype_warning
from gptscratch.distributed import joined
from gptscratch.errors import CheckpointError
from gptscratch.runs import checkpoint
from gptscratch.runs.folder import held
from gptscratch.runs.run import RunRecord, read_facts, read_run, resume_config
from gptscratch.runs.run_tokens import record_of, require_trained, tokens_of_run
from gptscratch.training import clock, fine_tuning
from gptscratch.training.budget import cooldown as cooled_down
from gptscratch.training.budget import make_budget
from gptscratch.training.context import SampleText
from gptscratch.training.events import Evaluated, Notice, OnEvent, ignore
from gptscratch.training.planning.plan_run import tokens_per_row
from gptscratch.training.rollback import rewind_run
from gptscratch.training.state import TrainState
from gptscratch.training.whole_run import Call, Shared, TrainResult, follow, train_and_score


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
        call = Call(world, f"resume {name_or_path} {cooldown} {settings}", on_event, sample_text)
        if not world.is_first:
            return follow(world)
        if earlier := world.recall(call.key):  # torchrun has started the processes again
            return resume_run(call, earlier)  # which has these settings already
        return resume_run(call, name_or_path, cooldown=cooldown, settings=settings)


def resume_run(
    call: Call,
    name_or_path: str | Path | None,
    *,
    cooldown: bool = False,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> TrainResult:
    """``resume`` on rank 0."""
    try:
        run, _ = paths.find_checkpoint(name_or_path, which="last")
    except CheckpointError:
        with held(paths.find_run(name_or_path)):  # being trained explains a missing checkpoint
            raise
    with held(run):
        folder = paths.find_checkpoint(name_or_path or run, which="last")[1]  # what there is by now
        require_trained(run, read_run(run))
        state = TrainState.from_dict(checkpoint.load_state(folder))
        resumed = _resumed(run, state, cooldown, call.on_event, settings)
        if resumed is None:
            return call.world.broadcast(_unchanged(run, state, call.on_event))
        record, prepared = resumed
        checkpoint.require_same_shapes(run, record, folder)
        context = call.context(run, record, prepared, state)
        context.load(folder)
        context.fine_tuned = fine_tuning.read(run)
        was_evaluated = rewind_run(run, record, state)
        if _is_lengthened(settings) and state.is_out_of_patience(record.config.train.patience):
            state.evaluations_since_best = 0
        call.world.remember(call.key, str(run.resolve()))
        found = context.fine_tuned
        call.world.broadcast(Shared(run, record, prepared.folder, state, None, found, was_evaluated))
        context.share_parameters()
        context.start(state)  # its own start-up is not counted
        return train_and_score(context, was_evaluated=was_evaluated)


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
    ended_by_patience = state.is_out_of_patience(config.train.patience) and not _is_lengthened(settings)
    if was_finished and (ended_by_patience or make_budget(config.train, tokens, row).is_used_up(state)):
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
    return replace(
        record_of(config, prepared, record), base=record.base, format=max(2, record.format)
    ), prepared


def _is_lengthened(settings: Mapping[str, Any]) -> bool:
    return bool(LENGTHS & qualified(settings).keys())


def _unchanged(run: Path, state: TrainState, on_event: OnEvent) -> TrainResult:
    """The result of a finished run, which is not trained again."""
    length = f"--steps N, with N above {state.step}"
    if read_run(run).config.train.minutes:
        length = f"--minutes M, with M above {math.ceil(state.seconds / 6) / 10}"
    on_event(
        Notice(
            f"{run.name} is finished at step {state.step:,}. "
            f"To train it further: gptscratch train --resume {paths.typed(run)} {length}."
        )
    )
    evaluation = Evaluated.from_facts(read_facts(run / "best.json"))
    fine_tuned = fine_tuning.read(run)
    return TrainResult(
        run, state.step, state.tokens, state.seconds, state.best_step, evaluation, False, fine_tuned
    )
