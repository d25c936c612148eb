"""The job: from a corpus to a trained model, in one call or resumed. The loop itself is in loop.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gptscratch import distributed, paths
from gptscratch.config import RunConfig, qualified
from gptscratch.data.prepare import Prepared
from gptscratch.device import pick_device
from gptscratch.distributed import World, joined
from gptscratch.errors import require
from gptscratch.runs.folder import create_run, is_run, new_run
from gptscratch.runs.run import read_run
from gptscratch.runs.run_tokens import record_of, remember
from gptscratch.training import clock, fine_tuning
from gptscratch.training.context import SampleText
from gptscratch.training.events import Notice, OnEvent, ignore
from gptscratch.training.planning.plan_run import plan_run
from gptscratch.training.planning.planner import Plan
from gptscratch.training.resuming import resume, resume_run
from gptscratch.training.state import TrainState
from gptscratch.training.whole_run import Call, Shared, TrainResult, follow, initialize, train_and_score

__all__ = ["TrainResult", "resume", "train"]


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
    config = RunConfig().with_settings(settings)
    _require_room(distributed.world(), config, settings)
    require(
        not cooldown or distributed.world().size == 1,
        "--cooldown waits for Ctrl-C, and torchrun ends its processes 30 seconds after that.",
        "Leave it out. After Ctrl-C: torchrun ... -m gptscratch train --resume NAME --cooldown",
    )
    with joined() as world:
        call = Call(world, f"train {names} {out} {settings}", on_event, sample_text)
        earlier = world.recall(call.key)  # torchrun has started the processes again
        if not world.is_first:
            result = follow(world)
        elif earlier is not None and paths.checkpoints(Path(earlier)):
            result = resume_run(call, earlier)
        else:
            with new_run(config, out or earlier, replace=replace_run) as run:
                plan, prepared = plan_run(settings, init_from=init_from, on_event=on_event, started=started)
                if is_run(run) and not replace_run:
                    on_event(Notice(f"The run {run.name} had no checkpoint yet. It starts again."))
                result = _begin(call, run, plan, prepared, init_from, started)
        if result.interrupted and cooldown:
            return resume(result.run, cooldown=True, on_event=on_event, sample_text=sample_text)
    return result


def _require_room(world: World, config: RunConfig, settings: dict[str, Any]) -> None:
    """Raises ConfigError where the processes have too few devices, or too few sequences in a batch."""
    world.place(pick_device(config.train.device))
    rows = qualified(settings).get("train.batch_size", world.size)
    few = f"{world.size} processes cannot share a batch of {rows}."
    require(rows >= world.size, few, f"Take --batch-size {world.size} or more, or fewer processes.")


def _begin(
    call: Call, run: Path, plan: Plan, prepared: Prepared, init_from: str | Path | None, started: float
) -> TrainResult:
    """Train a new run, on rank 0."""
    source = None if init_from is None else read_run(paths.find_checkpoint(init_from)[0])
    record = record_of(replace(plan.config, name=run.name), prepared, source)
    context = call.context(run, record, prepared, TrainState())
    file = initialize(context, prepared, init_from)
    call.world.broadcast(Shared(run, record, prepared.folder, context.state, init_from=init_from))
    context.share_parameters()
    found = None if init_from is None else fine_tuning.before(context, init_from)
    create_run(run, record, prepared.tokenizer, plan.record())
    remember(prepared.folder, run)
    call.world.remember(call.key, str(run.resolve()))
    if found is not None:
        fine_tuning.begin(context, found, file)
    context.start(context.state, started)
    return train_and_score(context)
