"""What one call of ``train`` works with: model, data, budget, state, clock."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch

from gptscratch import paths
from gptscratch.config import RunConfig, TrainConfig
from gptscratch.data.batches import Batches
from gptscratch.data.mixture import MixedBatches, make_batches
from gptscratch.data.prepare import Prepared
from gptscratch.device import fast_dtype, pick_device, pick_dtype, set_up
from gptscratch.errors import RunError
from gptscratch.model.gpt import GPT
from gptscratch.runs import checkpoint
from gptscratch.runs.metrics import append_metrics
from gptscratch.runs.run import RunRecord
from gptscratch.training.budget import Budget, TimeBudget, make_budget
from gptscratch.training.clock import Clock
from gptscratch.training.evaluate import Evaluator
from gptscratch.training.events import Evaluated, Event, Logged, Notice, OnEvent, Saved
from gptscratch.training.optimizer import CombinedOptimizer, Optimizer, make_optimizer
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.schedule import Schedule, schedule_of
from gptscratch.training.state import TrainState
from gptscratch.training.step import StepResult

_GUESSED = 0.1  # of a time budget: the most that is kept for the end before it was measured
_MOST_SKIPPED = 10  # updates in a row without a finite gradient, before a run ends

BEST_FACTS = ("val_loss", "val_accuracy", "val_bits_per_byte", "val_tokens")  # in best.json

SampleText = Callable[[GPT, Path], str]  # from the model and its run's folder


@dataclass
class TrainContext:
    """Everything that the training loop reads or changes; callbacks are functions of it."""

    run: Path
    config: TrainConfig
    model: GPT  # the parameters, in float32
    replica: LowPrecisionReplica  # what computes their gradients
    optimizer: Optimizer
    batches: Batches | MixedBatches
    schedule: Schedule
    budget: Budget
    state: TrainState
    clock: Clock
    on_event: OnEvent
    evaluate: Callable[[int, int | None], Evaluated]  # (step, about how many tokens; None: all)
    sample_text: Callable[[], str] | None
    final_tokens: int  # tokens of the validation split that are scored at the end
    micro_batch_size: int  # the plan's, or fewer sequences where memory ran out
    lr_scale: float = 0.0  # of the peak learning rate, in the newest step
    work_seconds: float = 0.0  # in steps, since the last log
    work_tokens: int = 0
    pending: list[StepResult] = field(default_factory=list)  # not yet read from the device
    finished: bool = False  # the newest step was the last
    best: Evaluated | None = None  # of the newest step, where it is better than all before
    saved_at: float = field(default_factory=time.perf_counter)
    reported_at: float = -math.inf  # when progress was last reported

    def record_step(self, result: StepResult, seconds: float) -> None:
        """Take note of a step that was just made."""
        seconds = self.clock.add_step(result.tokens, seconds, self.micro_batch_size)
        self.pending.append(result)
        self.state.step += 1
        self.state.tokens += result.tokens
        self.state.seconds = self.clock.run_seconds()
        self.work_tokens += result.tokens
        self.work_seconds += seconds
        self.best = None
        self.expect_end()
        self.finished = self.budget.is_used_up(self.state, self.clock.step_seconds)
        if self.finished and isinstance(self.budget, TimeBudget):
            # Resumed from here the run is finished too, whatever its steps take then.
            left = self.budget.seconds - self.state.seconds
            self.state.closing_seconds = max(self.state.closing_seconds, left)

    def expect_end(self) -> None:
        """Note how long the end will take, once something is known of this machine's speed."""
        if self.clock.steps or "evaluate" in self.clock.hook_seconds:
            most = _GUESSED * self.budget.seconds if isinstance(self.budget, TimeBudget) else math.inf
            self.state.closing_seconds = self.clock.closing_seconds(
                self.config.eval_tokens, self.final_tokens, most
            )

    def tokens_at_end(self) -> int | None:
        """Validation tokens to score at the end, or as many as there is time for; None: all."""
        along, final = self.config.eval_tokens, self.config.final_eval_tokens or None
        measured = self.clock.hook_seconds.get("evaluate")
        if isinstance(self.budget, TimeBudget) and measured:
            fits = int((self.budget.seconds - self.clock.run_seconds()) / measured * along)
            return max(along, min(final or fits, fits))
        return final

    def is_out_of_patience(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.state.evaluations_since_best >= patience

    def flush_losses(self) -> float:
        """Add the pending losses to the state's sum; returns the newest finite gradient norm.

        Raises:
            RunError: too many in a row were not finite.
        """
        waited = time.perf_counter()
        newest, skipped = 0.0, self.state.skipped_steps
        for result in self.pending:
            loss, norm = result.loss.item(), result.grad_norm.item()
            self.state.add_step(loss, norm)
            newest = norm if math.isfinite(norm) else newest
            if self.state.skipped_in_a_row == _MOST_SKIPPED:
                raise self.diverged(
                    f"in {_MOST_SKIPPED} steps in a row the loss or its gradient was not finite "
                    f"(the newest loss is {loss}, the gradient norm {norm})"
                )
        self.pending.clear()
        waited = time.perf_counter() - waited
        self.work_seconds += waited
        self.clock.add_wait(waited)
        if newly := self.state.skipped_steps - skipped:
            self.on_event(Notice(skipped_notice(newly, self.state.skipped_steps)))
        return newest

    def save(self) -> None:
        """Raises RunError where the parameters are not finite: the last good checkpoint stays the last."""
        self.flush_losses()
        if not torch.stack([p.isfinite().all() for p in self.model.parameters()]).all():
            raise self.diverged("a parameter is not finite")
        folder = checkpoint.save_checkpoint(
            self.run,
            self.model,
            self.optimizer.state,
            self.state.to_dict(),
            best=best_facts(self.best) if self.best else None,
            keep=self.config.keep_checkpoints,
        )
        self.saved_at = time.perf_counter()
        self.on_event(Saved(step=self.state.step, folder=folder))

    def diverged(self, sign: str) -> RunError:
        saved = paths.checkpoints(self.run)
        rate = self.config.learning_rate / 3
        if not saved:
            hint = f"No checkpoint was saved yet. Start again with --learning-rate {rate:.2g} or less."
        else:
            hint = (
                f"The checkpoint of step {saved[-1][0]:,} is intact. Continue from it with a lower rate: "
                f"gptscratch train --resume {self.run.name} --learning-rate {rate:.2g}"
            )
        return RunError(f"Training diverged by step {self.state.step:,}: {sign}.", hint)


def skipped_notice(newly: int, in_all: int) -> str:
    updates = "1 update was" if newly == 1 else f"{newly} updates were"
    return f"{updates} skipped: the gradient was not finite ({in_all} since the run began)."


def best_facts(evaluation: Evaluated) -> dict[str, float]:
    """What best.json records in addition to the step."""
    return {name: getattr(evaluation, name) for name in BEST_FACTS}


def make_context(
    run: Path,
    record: RunRecord,
    *,
    prepared: Prepared,
    model: GPT,
    state: TrainState,
    clock: Clock,
    on_event: OnEvent,
    sample_text: SampleText | None,
) -> TrainContext:
    """Put together what trains ``model`` from ``state`` on; logged events go to metrics.jsonl too."""
    config, documents = record.config.train, record.config.train.documents
    mask_at = record.end_of_text if documents == "masked" else None
    pad_with = record.end_of_text if documents == "padded" else None
    context_length = record.config.model.context_length
    batches = make_batches(prepared.tokens, context_length, config.batch_size, config.seed, pad_with=pad_with)
    replica = LowPrecisionReplica(model, getattr(torch, config.dtype), mask_at=mask_at)
    evaluate = Evaluator(
        replica.model if replica.device.type == "cuda" else model,  # there half precision halves the time
        prepared.tokens,
        prepared.tokenizer,
        mask_at=mask_at,
        pad_with=pad_with,
        copy_weights=replica.copy_weights,
    )
    context = TrainContext(
        run=run,
        config=config,
        model=model,
        replica=replica,
        optimizer=_optimizer(model, config, replica),
        batches=batches,
        schedule=schedule_of(config),
        budget=make_budget(config, prepared.manifest.train.tokens, batches.tokens_per_row),
        state=state,
        clock=clock,
        on_event=_written_too(run, on_event),
        evaluate=evaluate,
        sample_text=sample_text and partial(sample_text, model, run),
        final_tokens=int(min(config.final_eval_tokens or math.inf, prepared.manifest.val.tokens)),
        micro_batch_size=config.micro_batch_size,
    )
    if config.compile:
        _compile(context, context_length)
    return context


def resolved_dtypes(config: RunConfig) -> RunConfig:
    """The same with the number formats of this machine instead of "auto": a resumed run keeps them."""
    device = pick_device(config.train.device)
    dtypes = {
        "dtype": pick_dtype(config.train.dtype, device),
        "muon_dtype": fast_dtype(device) if config.train.muon_dtype == "auto" else config.train.muon_dtype,
    }
    return config.with_settings({name: str(dtype).removeprefix("torch.") for name, dtype in dtypes.items()})


def new_model(config: RunConfig) -> GPT:
    """The model with the parameters that its seed gives it, on its device."""
    device = pick_device(config.train.device)
    set_up(device)
    torch.manual_seed(config.train.seed)
    return GPT(config.model).to(device)


def compiled_shapes(config: TrainConfig, context_length: int) -> list[tuple[int, int]]:
    """The (rows, tokens) of a step's micro-batches; of padded ones two, which make a third length dynamic."""
    size = config.micro_batch_size
    rows = [min(size, config.batch_size), config.batch_size % size]
    lengths = [context_length] + [max(1, context_length // 2)] * (config.documents == "padded")
    return [(n, length) for n in rows if n for length in lengths]


def _compile(context: TrainContext, context_length: int) -> None:
    """Before the first step; of the minutes of a run at least half remain for training."""
    config, clock = context.config, context.clock
    shapes = compiled_shapes(config, context_length)
    context.replica.compile(shapes, on_failure=lambda text: context.on_event(Notice(text)))
    if config.minutes and clock.leave(30.0 * config.minutes):
        context.on_event(
            Notice(f"Compiling took long: half of the {config.minutes:g} minutes remain for training.")
        )


def _optimizer(model: GPT, config: TrainConfig, replica: LowPrecisionReplica) -> Optimizer:
    optimizer = make_optimizer(
        model,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        adamw_learning_rate=config.adamw_learning_rate,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
        momentum=config.momentum,
        muon_dtype=getattr(torch, config.muon_dtype),
    )
    return CombinedOptimizer(optimizer, replica.loss_scale) if replica.loss_scale else optimizer


def _written_too(run: Path, on_event: OnEvent) -> OnEvent:
    def write_and_report(event: Event) -> None:
        if isinstance(event, Logged | Evaluated):
            values = {name: value for name, value in asdict(event).items() if name != "progress"}
            append_metrics(run / "metrics.jsonl", values)
        try:
            on_event(event)
        except OSError as error:
            if error.errno != errno.EIO:  # the terminal was closed: the run is saved all the same
                raise

    return write_and_report
