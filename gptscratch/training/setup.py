"""What the loop works with, built from a run's record: session, worker, batches, scorer."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from gptscratch.config import RunConfig, TrainConfig
from gptscratch.data.batches import Batches
from gptscratch.data.mixture import MixedBatches, make_batches
from gptscratch.data.prepare import Prepared
from gptscratch.device import pick_device, pick_dtype, set_up
from gptscratch.model.gpt import GPT
from gptscratch.runs.metrics import append_metrics
from gptscratch.runs.run import RunRecord
from gptscratch.training.budget import make_horizon
from gptscratch.training.callbacks import Session
from gptscratch.training.evaluate import Scorer
from gptscratch.training.events import Evaluated, Event, Listener, Logged, Notice
from gptscratch.training.optimizer import Optimizer, Together, make_optimizer
from gptscratch.training.state import TrainState
from gptscratch.training.step import Worker

SampleText = Callable[[GPT, Path], str]


@dataclass(frozen=True)
class Setup:
    """All that training takes."""

    session: Session
    worker: Worker
    batches: Batches | MixedBatches
    scorer: Scorer


def make_setup(
    run: Path,
    record: RunRecord,
    *,
    prepared: Prepared,
    model: GPT,
    state: TrainState,
    listen: Listener,
    sample_text: SampleText | None,
    started: float,
) -> Setup:
    """Put together what trains ``model`` from ``state`` on; what is told goes to metrics.jsonl too."""
    config, documents = record.config.train, record.config.train.documents
    mask_at = record.end_of_text if documents == "masked" else None
    pad_with = record.end_of_text if documents == "padded" else None

    def tell(event: Event) -> None:
        if isinstance(event, Logged | Evaluated):
            values = {name: value for name, value in asdict(event).items() if name != "progress"}
            append_metrics(run / "metrics.jsonl", values)
        try:
            listen(event)
        except OSError as error:
            if error.errno != errno.EIO:  # the terminal was closed: the run is saved all the same
                raise

    context_length = record.config.model.context_length
    batches = make_batches(prepared.tokens, context_length, config.batch_size, config.seed, pad_with=pad_with)
    device = model.token_embedding.weight.device
    worker = Worker(model, pick_dtype(config.dtype, device), mask_at=mask_at)
    optimizer = _new_optimizer(model, config)
    scorer = Scorer(
        worker.model if device.type == "cuda" else model,  # there half precision halves the time
        prepared.tokens,
        prepared.tokenizer,
        mask_at=mask_at,
        pad_with=pad_with,
        refresh=worker.refresh,
    )
    session = Session(
        run=run,
        config=config,
        model=model,
        optimizer=Together(optimizer, worker.loss_scale) if worker.loss_scale else optimizer,
        horizon=make_horizon(config, prepared.manifest.train.tokens, batches.tokens_per_row),
        state=state,
        listen=tell,
        evaluate=lambda: scorer(config.eval_tokens),
        sample=sample_text and partial(sample_text, model, run),
        final_tokens=int(min(config.final_eval_tokens or math.inf, prepared.manifest.val.tokens)),
        started=started,
        micro_batch_size=config.micro_batch_size,
    )
    if config.compile:
        shapes = compiled_shapes(config, context_length)
        worker.compile(shapes, on_fallback=lambda text: tell(Notice(text)))
        session.started = clock_start(started, time.perf_counter(), config.minutes)
        if session.started > started:
            tell(Notice(f"Compiling took long: half of the {config.minutes:g} minutes remain for training."))
    return Setup(session, worker, batches, scorer)


def compiled_shapes(config: TrainConfig, context_length: int) -> list[tuple[int, int]]:
    """The (rows, tokens) of a step's micro-batches; of padded ones two, which make a third length dynamic."""
    rows = [min(config.micro_batch_size, config.batch_size), config.batch_size % config.micro_batch_size]
    lengths = [context_length] + [max(1, context_length // 2)] * (config.documents == "padded")
    return [(n, length) for n in rows if n for length in lengths]


def clock_start(started: float, now: float, minutes: float) -> float:
    """When the minutes of a run began, once its model is compiled: half of them remain at least."""
    return max(started, now - 30.0 * minutes) if minutes else started


def new_model(config: RunConfig) -> GPT:
    """The model as the seed makes it, on its device."""
    device = pick_device(config.train.device)
    set_up(device)
    torch.manual_seed(config.train.seed)
    return GPT(config.model).to(device)


def _new_optimizer(model: GPT, config: TrainConfig) -> Optimizer:
    return make_optimizer(
        model,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        adamw_learning_rate=config.adamw_learning_rate,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
        momentum=config.momentum,
    )
