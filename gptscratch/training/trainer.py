"""The job: from a corpus to a trained model. The loop itself stands in loop.py."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gptscratch import paths
from gptscratch.config import RunConfig
from gptscratch.data.prepare import Prepared
from gptscratch.data.token_files import token_counts
from gptscratch.device import out_of_memory, pick_device, pick_dtype, slow_dtype_warning
from gptscratch.errors import CheckpointError, ConfigError
from gptscratch.files import write_json
from gptscratch.model.gpt import GPT
from gptscratch.model.head import init_bias_from_unigrams
from gptscratch.runs import checkpoint
from gptscratch.runs.lock import held
from gptscratch.runs.metrics import rewind_metrics
from gptscratch.runs.run import (
    RunRecord,
    create_run,
    disk_errors_in,
    is_run,
    new_run,
    read_facts,
    read_run,
    resume_config,
)
from gptscratch.runs.run_tokens import split_of, tokens_of_run
from gptscratch.training.anneal import annealed
from gptscratch.training.budget import make_horizon
from gptscratch.training.callbacks import BEST_FACTS, Session, best_facts, evaluated, score
from gptscratch.training.evaluate import Scorer
from gptscratch.training.events import Evaluated, Listener, Notice, Started, ignore
from gptscratch.training.loop import run_loop
from gptscratch.training.planning.plan_run import plan_run, tokens_per_row
from gptscratch.training.schedule import schedule_of
from gptscratch.training.setup import SampleText, Setup, make_setup, new_model
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


def train(
    corpus: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    init_from: str | Path | None = None,
    replace_run: bool = False,
    cooldown: bool = False,
    listen: Listener = ignore,
    sample_text: SampleText | None = None,
    started: float | None = None,
    **settings: Any,
) -> TrainResult:
    """Train a GPT on text: ``train("corpus.txt", n_layer=4, steps=2000)``.

    Args:
        corpus: files, folders or glob patterns; none: Python's own standard-library source.
        out: the run's folder; None: one with the run's name in the cache directory.
        init_from: a checkpoint whose parameters, shape and tokenizer the run starts from.
        replace_run: allow a run that stands there to be replaced.
        cooldown: an interrupt does not stop the run at once but lets its rate fall to 0 first.
        listen: is told what happens (``training.events``).
        sample_text: makes a text from the model and its run's folder, to be shown while it trains; None: no
            samples.
        started: ``time.perf_counter()`` when the user's time began to count; None: now.
        **settings: fields of ``RunConfig`` by name, as in ``RunConfig.with_settings``.

    Raises:
        UserError: what the user can mend; nothing is half-written.
    """
    started = time.perf_counter() if started is None else started
    names = [corpus] if isinstance(corpus, str | Path) else list(corpus)
    if names:
        settings["corpus"] = tuple(str(name) for name in names)
    with new_run(RunConfig().with_settings(settings), out, replace=replace_run) as run:
        plan, prepared = plan_run(settings, init_from=init_from, listen=listen, started=started)
        model = new_model(plan.config)
        _begin(model, run, plan.config, prepared, init_from)
        record = RunRecord(
            config=replace(plan.config, name=run.name),
            corpus_hash=prepared.manifest.corpus_hash,
            tokens=str(prepared.folder.resolve()),
            end_of_text=prepared.manifest.end_of_text,
            parameters=plan.parameters,
            split=split_of(prepared.manifest),
        )
        if is_run(run) and not replace_run:
            listen(Notice(f"The run {run.name} had no checkpoint yet. It starts again."))
        create_run(run, record, prepared.tokenizer)
        write_json(run / "plan.json", plan.record())
        setup = make_setup(
            run,
            record,
            prepared=prepared,
            model=model,
            state=TrainState(),
            listen=listen,
            sample_text=sample_text,
            started=started,
        )
        result = _train(setup, record)
    if result.interrupted and cooldown:
        return resume(run, cooldown=True, listen=listen, sample_text=sample_text)
    return result


def resume(
    name_or_path: str | Path | None = None,
    *,
    cooldown: bool = False,
    listen: Listener = ignore,
    sample_text: SampleText | None = None,
    **settings: Any,
) -> TrainResult:
    """Go on with a run from its last checkpoint, as if it had never stopped; None: the newest run.

    A checkpoint's folder may be named instead: the run then forgets what it did after it.
    ``settings`` may change the trainer's part, so as to extend the run: ``resume("tales", steps=4000)``.
    With ``cooldown`` the rate falls to 0 from now on, over a horizon in ``settings`` or a tenth of the
    steps so far, and the run is finished.

    Raises:
        UserError: the run, its checkpoint or its corpus is not as it was.
    """
    try:
        run, _ = paths.find_checkpoint(name_or_path, which="last")
    except CheckpointError:
        with held(paths.find_run(name_or_path)):  # being trained explains a missing checkpoint
            raise
    with held(run):
        folder = paths.find_checkpoint(name_or_path or run, which="last")[1]  # what there is by now
        return _resume(
            run, folder, cooldown=cooldown, listen=listen, sample_text=sample_text, settings=settings
        )


def _resume(
    run: Path,
    folder: Path,
    *,
    cooldown: bool,
    listen: Listener,
    sample_text: SampleText | None,
    settings: dict[str, Any],
) -> TrainResult:
    record = read_run(run)
    state = TrainState.from_dict(checkpoint.load_state(folder))
    finished = not cooldown and checkpoint.is_finished(run, state.step)
    if finished and not settings:
        return _finished(run, state, listen)
    if not cooldown:
        record = replace(record, config=resume_config(record.config, settings))
    prepared = tokens_of_run(run, record)
    record = replace(record, tokens=str(prepared.folder.resolve()), split=split_of(prepared.manifest))
    if record.format == 1:
        listen(Notice(f"{run.name} was begun by an earlier version: the order of its batches changes here."))
    train_tokens = prepared.manifest.train.tokens
    row = tokens_per_row(prepared, record.config.train.documents)(record.config.model.context_length)
    if finished and make_horizon(record.config.train, train_tokens, row).is_over(state):
        return _finished(run, state, listen)
    if cooldown:
        record = replace(record, config=annealed(record.config, state, train_tokens, row, settings))
        listen(Notice("The learning rate falls to 0 from here on, and the run ends. Ctrl-C saves and stops."))
    device = pick_device(record.config.train.device)
    if warning := slow_dtype_warning(pick_dtype(record.config.train.dtype, device), device):
        listen(Notice(warning))
    checkpoint.require_same_shapes(record.config.model, folder)
    model = new_model(record.config)
    checkpoint.load_parameters(model, folder)
    setup = make_setup(
        run,
        record,
        prepared=prepared,
        model=model,
        state=state,
        listen=listen,
        sample_text=sample_text,
        started=time.perf_counter(),
    )
    setup.session.optimizer.load(checkpoint.load_optimizer_state(folder))
    evaluated = _rewind(run, record, state)
    # Its own start-up is not counted: a horizon in time goes on where the run was saved.
    setup.session.started = time.perf_counter() - state.seconds
    over = setup.session.is_over()
    return _train(setup, record, score_first=over and not evaluated)


def _finished(run: Path, state: TrainState, listen: Listener) -> TrainResult:
    """The result of a run that has nothing left to do; the run is not changed."""
    listen(
        Notice(
            f"{run.name} is finished at step {state.step:,}. "
            f"To train it further: gptscratch train --resume {paths.typed(run)} --steps N, "
            f"with N above {state.step}."
        )
    )
    best = read_facts(run / "best.json")
    facts: dict[str, Any] = {name: best.get(name) for name in ("step", *BEST_FACTS)}
    known = all(isinstance(value, int | float) for value in facts.values())
    perplexity = math.exp(min(facts["val_loss"], 700.0)) if known else 0.0
    return TrainResult(
        run=run,
        step=state.step,
        tokens=state.tokens,
        seconds=state.seconds,
        best_step=state.best_step,
        evaluation=Evaluated(**facts, val_perplexity=perplexity) if known else None,
        interrupted=False,
    )


def _train(setup: Setup, record: RunRecord, *, score_first: bool = False) -> TrainResult:
    """Run the loop, and score the best checkpoint.

    ``score_first``: the run is over, and its last step was not evaluated.
    """
    session, state = setup.session, setup.session.state
    session.over = session.is_over()
    session.listen(
        Started(run=session.run, config=record.config, step=state.step, parameters=record.parameters)
    )
    if score_first:
        score(session)
        session.save()
    interrupted = run_loop(session, setup.worker, setup.batches, schedule_of(record.config.train))
    evaluation = None if interrupted else _score_best(session, setup.scorer)
    return TrainResult(
        run=session.run,
        step=state.step,
        tokens=state.tokens,
        seconds=time.perf_counter() - session.started,
        best_step=state.best_step,
        evaluation=evaluation,
        interrupted=interrupted,
    )


def _score_best(session: Session, scorer: Scorer) -> Evaluated:
    """The best checkpoint on more of the validation split, which replaces its entry in best.json."""
    state = session.state
    if state.best_step != state.step:
        checkpoint.load_parameters(session.model, paths.checkpoint_dir(session.run, state.best_step))
    with out_of_memory("while it evaluates"):
        evaluation = scorer(session.tokens_to_score())
    record = evaluated(state.best_step, evaluation)
    if evaluation.tokens > session.config.eval_tokens:
        session.listen(record)  # on more than those along the way
    checkpoint.finish(session.run, step=state.step, best_step=state.best_step, best=best_facts(evaluation))
    return record


def _begin(
    model: GPT, run: Path, config: RunConfig, prepared: Prepared, init_from: str | Path | None
) -> None:
    """Give a fresh model the parameters that it starts from, where those are not the seed's.

    Raises:
        ConfigError: they would be those of the run that is to be replaced.
    """
    if init_from is not None:
        source, weights = paths.find_checkpoint(init_from)
        if source.resolve() == run.resolve():
            raise ConfigError(f"{run.name} cannot start from itself.", "Take another --name.")
        checkpoint.load_parameters(model, weights)
    elif config.model.output_bias:
        counts = token_counts(prepared.tokens.train, config.model.vocab_size)
        init_bias_from_unigrams(model.lm_head, torch.from_numpy(counts))


def _rewind(run: Path, record: RunRecord, state: TrainState) -> bool:
    """Put a run's folder back to ``state``; returns whether it holds the evaluation of its step."""
    with disk_errors_in(run, f"resuming {run.name}"):
        if not checkpoint.rewind(run, state.to_dict(), keep=record.config.train.keep_checkpoints):
            state.forget_best()
        write_json(run / "config.json", record.to_dict())
    counted = state.best_step == state.step or state.evaluations_since_best > 0
    return rewind_metrics(run / "metrics.jsonl", state.step) and counted
