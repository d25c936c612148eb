"""The objects of one call of ``train``: model, data, budget, state, clock."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from gptscratch import paths
from gptscratch.config import RunConfig, TrainConfig
from gptscratch.data.mixture import make_batches
from gptscratch.data.prepare import Prepared
from gptscratch.device import fast_dtype, pick_device, pick_dtype, set_up
from gptscratch.errors import RunError
from gptscratch.model.gpt import GPT
from gptscratch.runs import checkpoint
from gptscratch.runs.metrics import append_metrics
from gptscratch.runs.run import RunRecord
from gptscratch.training.budget import TimeBudget, make_budget
from gptscratch.training.clock import Clock
from gptscratch.training.evaluate import Evaluator
from gptscratch.training.events import Evaluated, Event, Logged, Notice, OnEvent, Sampled, Saved
from gptscratch.training.optimizer import CombinedOptimizer, Optimizer, make_optimizer
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.schedule import schedule_of
from gptscratch.training.state import TrainState
from gptscratch.training.step import StepResult

_GUESSED = 0.1  # of a time budget: the most that is kept for the end before it was measured
_MOST_SKIPPED = 10  # updates in a row without a finite gradient, before a run ends

SampleText = Callable[[GPT, Path], str]  # from the model and its run's folder


class TrainContext:
    """Everything that the training loop reads or changes; callbacks are functions of it."""

    def __init__(
        self,
        run: Path,
        record: RunRecord,
        prepared: Prepared,
        state: TrainState,
        started: float,
        on_event: OnEvent,
        sample_text: SampleText | None,
    ) -> None:
        config = record.config.train
        mask_at = record.end_of_text if config.documents == "masked" else None
        pad_with = record.end_of_text if config.documents == "padded" else None
        device = pick_device(config.device)
        set_up(device)
        torch.manual_seed(config.seed)
        self.run, self.record, self.config, self.on_event = run, record, config, on_event
        self.model = GPT(record.config.model).to(device)  # the parameters, in float32
        self.replica = LowPrecisionReplica(self.model, getattr(torch, config.dtype), mask_at=mask_at)
        self.optimizer = _optimizer(self.model, config, self.replica)
        self.batches = make_batches(
            prepared.tokens,
            record.config.model.context_length,
            config.batch_size,
            config.seed,
            pad_with=pad_with,
        )
        self.evaluate = Evaluator(
            self.replica.model if device.type == "cuda" else self.model,  # half precision halves the time
            prepared.tokens,
            prepared.tokenizer,
            mask_at=mask_at,
            pad_with=pad_with,
            copy_weights=self.replica.copy_weights,
        )
        self.sample_text = sample_text and partial(sample_text, self.model, run)
        self.schedule = schedule_of(config)
        self.budget = make_budget(config, prepared.manifest.train.tokens, self.batches.tokens_per_row)
        self.state = state
        self.final_tokens = int(min(config.final_eval_tokens or math.inf, prepared.manifest.val.tokens))
        self.start(started)
        if config.compile:
            self._compile()

    def start(self, started: float) -> None:
        """``started``: ``time.perf_counter()`` when the run's seconds were 0, had it never stopped."""
        self.clock = Clock(started)
        self.micro_batch_size = self.config.micro_batch_size  # or fewer sequences, where memory ran out
        self.lr_scale = 0.0  # of the peak learning rate, in the newest step
        self.work_seconds, self.work_tokens = 0.0, 0  # in steps, since the last log
        self.pending: list[StepResult] = []  # not yet read from the device
        self.finished = False  # the newest step was the last
        self.best: Evaluated | None = None  # of the newest step, where it is better than all before
        self.saved_at = time.perf_counter()
        self.reported_at = -math.inf  # when progress was last reported

    def report(self, event: Event) -> None:
        """Pass an event to the caller; write measurements to metrics.jsonl and texts to samples.jsonl."""
        if isinstance(event, Logged | Evaluated):
            values = {name: value for name, value in asdict(event).items() if name != "progress"}
            append_metrics(self.run / "metrics.jsonl", values)
        elif isinstance(event, Sampled):
            append_metrics(self.run / "samples.jsonl", asdict(event))
        try:
            self.on_event(event)
        except OSError as error:
            if error.errno != errno.EIO:  # the terminal was closed: the run is saved all the same
                raise

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
        if self.state.skipped_steps > skipped:
            count = f"{self.state.skipped_steps - skipped} (since the run began {self.state.skipped_steps})"
            self.report(Notice(f"Updates skipped because the gradient was not finite: {count}."))
        return newest

    def save(self) -> None:
        """Raises RunError where the parameters are not finite: the last good checkpoint stays the last."""
        self.flush_losses()
        if not torch.stack([p.isfinite().all() for p in self.model.parameters()]).all():
            raise self.diverged("a parameter is not finite")
        best, keep = self.best.facts() if self.best else None, self.config.keep_checkpoints
        folder = checkpoint.save_checkpoint(
            self.run, self.model, self.optimizer.state, self.state.to_dict(), best=best, keep=keep
        )
        self.saved_at = time.perf_counter()
        self.report(Saved(step=self.state.step, folder=folder))

    def diverged(self, sign: str) -> RunError:
        hint = "No checkpoint was saved yet. Start again with --learning-rate {rate:.2g} or less."
        for step, _ in paths.checkpoints(self.run):
            hint = (
                f"The checkpoint of step {step:,} is intact. Continue from it with a lower rate: "
                f"gptscratch train --resume {self.run.name} --learning-rate {{rate:.2g}}"
            )
        hint = hint.format(rate=self.config.learning_rate / 3)
        return RunError(f"Training diverged by step {self.state.step:,}: {sign}.", hint)

    def _compile(self) -> None:
        """Before the first step; of the minutes of a run at least half remain for training."""
        shapes = compiled_shapes(self.config, self.record.config.model.context_length)
        self.replica.compile(shapes, on_failure=lambda text: self.report(Notice(text)))
        minutes = self.config.minutes
        if minutes and self.clock.leave(30.0 * minutes):
            self.report(Notice(f"Compiling took long: half of the {minutes:g} minutes remain for training."))


def compiled_shapes(config: TrainConfig, context_length: int) -> list[tuple[int, int]]:
    """The (rows, tokens) of a step's micro-batches; of padded ones two, which make a third length dynamic."""
    size = config.micro_batch_size
    rows = [min(size, config.batch_size), config.batch_size % size]
    lengths = [context_length] + [max(1, context_length // 2)] * (config.documents == "padded")
    return [(n, length) for n in rows if n for length in lengths]


def resolved_dtypes(config: RunConfig) -> RunConfig:
    """The same with the number formats of this machine instead of "auto": a resumed run keeps them."""
    device = pick_device(config.train.device)
    dtypes = {
        "dtype": pick_dtype(config.train.dtype, device),
        "muon_dtype": fast_dtype(device) if config.train.muon_dtype == "auto" else config.train.muon_dtype,
    }
    return config.with_settings({name: str(dtype).removeprefix("torch.") for name, dtype in dtypes.items()})


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
