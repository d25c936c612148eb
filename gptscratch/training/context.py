"""The objects of one call of ``train``: model, data, budget, state, time."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from gptscratch import paths
from gptscratch.accelerate.training import accelerate_training
from gptscratch.data.batches import Batches, weighted_parts
from gptscratch.data.prepare import Prepared
from gptscratch.device import pick_device, pick_dtype, set_up
from gptscratch.distributed import ALONE, World
from gptscratch.errors import RunError
from gptscratch.model.gpt import GPT
from gptscratch.model.lora import add_adapters_of, merged
from gptscratch.runs import checkpoint
from gptscratch.runs.metrics import append_metrics
from gptscratch.runs.run import RunRecord
from gptscratch.runs.tensors import own_rows, whole
from gptscratch.training import clock
from gptscratch.training.budget import make_budget
from gptscratch.training.evaluate import Evaluator
from gptscratch.training.events import Evaluated, Event, FineTuned, Logged, Notice, OnEvent, Sampled, Saved
from gptscratch.training.optimizer import make_optimizer
from gptscratch.training.planning.heuristics import LEAST_FINAL_TOKENS
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.schedule import schedule_of
from gptscratch.training.spikes import Spikes
from gptscratch.training.state import TrainState
from gptscratch.training.step import StepResult

_CLOSING = 0.1  # of the time for training is kept for the end until an evaluation was measured
_MOST_SKIPPED = 10  # updates in a row without a finite gradient, before a run ends

SampleText = Callable[[GPT, Path], str]  # from the model and its run's folder


class DivergedError(RunError):
    """The loss, a gradient or a parameter is infinite or NaN."""


class TrainContext:
    """Everything that the training loop reads or changes; callbacks are functions of it."""

    fine_tuned: FineTuned | None = None  # where the run started from another

    def __init__(
        self,
        run: Path,
        record: RunRecord,
        prepared: Prepared,
        state: TrainState,
        on_event: OnEvent,
        sample_text: SampleText | None,
        world: World = ALONE,
    ) -> None:
        config, context_length = record.config.train, record.config.model.context_length
        self.run, self.record, self.config, self.on_event = run, record, config, on_event
        self.world = world
        mask_at = record.end_of_text if config.documents == "masked" else None
        self.pad_with = record.end_of_text if config.documents == "padded" else None
        device = world.place(pick_device(config.device))
        is_sharded = config.parallel == "fsdp" and world.size > 1
        set_up(device, spare_memory=is_sharded)  # gathered parameters come and go
        torch.manual_seed(config.seed)
        dtype = pick_dtype(config.dtype, device)
        if is_sharded:
            from gptscratch.training.sharded import ShardedReplica  # torch.distributed takes a second

            self.replica: LowPrecisionReplica = ShardedReplica(
                record.config.model, device, dtype, mask_at=mask_at, r_drop=config.r_drop, world=world
            )
            self.model = self.replica.model  # the parameters, in float32
        else:
            # What is optional is applied to the finished model from outside, in this order.
            self.model = GPT(record.config.model).to(device)
            add_adapters_of(self.model, config)
            accelerate_training(self.model)
            self.replica = LowPrecisionReplica(
                self.model, dtype, mask_at=mask_at, r_drop=config.r_drop, world=world
            )
        self._sample_text = None if self.replica.is_sharded else sample_text
        if config.parallel == "fsdp":
            effect = "samples are not shown" if world.size > 1 else "no effect without torchrun"
            self.report(Notice(f"--parallel fsdp: {effect}."))
        if config.compile:
            rows = min(config.micro_batch_size, config.batch_size)
            self.replica.compile(rows, context_length, lambda text: self.report(Notice(text)))
        self.optimizer = make_optimizer(self.model, config, self.replica.loss_scale, muon=self.replica.muon)
        corpora = weighted_parts(prepared.tokens, "train")
        order = {"order_in_memory": 1 << 62} if record.format < 3 else {}  # as such a run began
        self.batches = Batches(
            corpora, context_length, config.batch_size, config.seed, pad_with=self.pad_with, **order
        )
        self.evaluate = self.evaluator(prepared)
        self.schedule = schedule_of(config)
        self.budget = make_budget(config, prepared.manifest.train.tokens, self.batches.tokens_per_row)
        final = min(config.final_eval_tokens, prepared.manifest.val.tokens)
        self.final_tokens = final if config.keep_file is None else final + LEAST_FINAL_TOKENS
        self.start(state)

    def start(self, state: TrainState, started: float | None = None) -> None:
        """Begin to count time.

        Args:
            started: ``clock.now()`` when the run's seconds were 0, had it never stopped; None: so
                that they continue where the state has them.
        """
        self.state = state
        self.started = clock.now() - state.seconds if started is None else started
        self.micro_batch_size = self.config.micro_batch_size  # or fewer sequences, where memory ran out
        self.lr_scale = 0.0  # of the peak learning rate, in the newest step
        self.work_seconds, self.work_tokens = 0.0, 0  # in steps, since the last log
        self.pending: list[StepResult] = []  # not yet read from the device
        self.spikes = Spikes()
        self.finished = False  # the newest step was the last
        self.best: Evaluated | None = None  # of the newest step, where it is better than all before
        self.saved_at = state.seconds
        self.reported_at = -math.inf  # when progress was last reported
        self.last_seconds: dict[str, float] = {}  # how long each kind of work between steps took last
        if math.isfinite(self.budget.seconds) and not state.step:
            state.closing_seconds = _CLOSING * max(0.0, self.budget.seconds - self.run_seconds())

    def sample_text(self) -> str | None:
        """A sample of the model as it is now; None: no samples are wanted, or rank 0 makes them."""
        wanted = self._sample_text if self.world.is_first else None
        return wanted and wanted(merged(self.model), self.run)

    def evaluator(self, prepared: Prepared) -> Evaluator:
        """Evaluates the model on a corpus, in sequences of the kind that it is trained on."""
        return Evaluator(self.replica, prepared, pad_with=self.pad_with)

    def load(self, folder: Path) -> None:
        """The parameters and the optimizer's state of a checkpoint."""
        checkpoint.load_parameters(self.model, self.run, self.record, folder)
        checkpoint.load_optimizer(self.replica.saved(self.optimizer.state), folder)

    def share_parameters(self) -> None:
        """Give all ranks the parameters and the optimizer's state of rank 0, unless each has a part."""
        if not self.replica.is_sharded:
            self.world.broadcast_tensors([*self.model.parameters(), *self.optimizer.state.values()])

    def report(self, event: Event) -> None:
        """Pass an event to the caller; write measurements to metrics.jsonl and texts to samples.jsonl.

        Rank 0 alone does it.
        """
        if not self.world.is_first:
            return
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

    def run_seconds(self) -> float:
        return clock.now() - self.started

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Measure work that comes once more after the last step, and with it how long the end will take.

        All ranks do it together, and have the measurement of rank 0: the next learning rate depends on it.
        """
        started = clock.now()
        yield
        self.last_seconds[what] = clock.now() - started
        if "evaluate" in self.last_seconds:
            final = max(1.0, self.final_tokens / self.config.eval_tokens)  # in evaluations along the way
            closing = sum(self.last_seconds.values()) + final * self.last_seconds["evaluate"]
            self.state.closing_seconds = self.world.agree((closing,), False)[0][0]

    def record_step(self, result: StepResult, seconds: float, interrupted: bool = False) -> bool:
        """Take note of a step that was just made; returns whether any rank was interrupted.

        Rank 0 measures the time: all ranks must agree on what depends on it.
        """
        state, budget = self.state, self.budget
        self.pending.append(result)
        self.work_tokens += result.tokens
        self.work_seconds += seconds
        self.best = None
        state.step += 1
        state.tokens += result.tokens
        measured = self.run_seconds(), state.closing_seconds, seconds
        (state.seconds, state.closing_seconds, seconds), stops = self.world.agree(measured, interrupted)
        self.finished = budget.is_used_up(state, seconds)
        if self.finished and state.step < budget.steps:
            # Resumed from here the run is finished too, whatever its steps take then.
            state.closing_seconds = max(state.closing_seconds, budget.seconds - state.seconds)
        return stops

    def tokens_at_end(self) -> int:
        """Validation tokens to score at the end, or as many as there is time for."""
        along, final = self.config.eval_tokens, self.config.final_eval_tokens
        if self.fine_tuned is not None:  # as many as before
            return final
        measured = self.last_seconds.get("evaluate")
        if measured and math.isfinite(self.budget.seconds):
            fits = int((self.budget.seconds - self.run_seconds()) / measured * along)
            fits = int(self.world.agree((fits,), False)[0][0])
            return max(along, min(final, fits))
        return final

    def flush_losses(self) -> float:
        """Add the pending losses to the state's sum; returns the newest finite gradient norm.

        Raises:
            DivergedError: too many in a row were not finite.
        """
        waited = clock.now()
        newest, skipped = 0.0, self.state.skipped_steps
        first = self.state.step - len(self.pending) + 1
        for step, result in enumerate(self.pending, first):
            loss, norm = result.loss.item(), result.grad_norm.item()
            self.state.add_step(loss, norm)
            if usual := self.spikes.usual_if_above(loss):
                self.report(Notice(f"A loss spike at step {step:,}: {loss:.2f}. Usual are {usual:.2f}."))
            newest = norm if math.isfinite(norm) else newest
            if self.state.skipped_in_a_row == _MOST_SKIPPED:
                raise self.diverged(
                    f"in {_MOST_SKIPPED} steps in a row the loss or its gradient was not finite "
                    f"(the newest loss is {loss}, the gradient norm {norm})"
                )
        self.pending.clear()
        self.work_seconds += clock.now() - waited
        if self.state.skipped_steps > skipped:
            count = f"{self.state.skipped_steps - skipped} (since the run began {self.state.skipped_steps})"
            self.report(Notice(f"Updates skipped because the gradient was not finite: {count}."))
        return newest

    def save(self) -> None:
        """Save a checkpoint of the newest step.

        Raises:
            DivergedError: a parameter is not finite; the last good checkpoint is kept.
        """
        self.flush_losses()
        finite = torch.stack([own_rows(p).isfinite().all() for p in self.model.parameters()]).all()
        if self.world.agree((), not finite)[1]:
            raise self.diverged("a parameter is not finite")
        best, keep = facts_of(self.best) if self.best else None, self.config.keep_checkpoints
        optimizer_state = self.replica.saved(self.optimizer.state)
        folder = paths.checkpoint_dir(self.run, self.state.step)
        (exists,), _ = self.world.agree((paths.is_checkpoint(folder),), False)
        if self.world.is_first:
            checkpoint.save_checkpoint(
                self.run, self.model, optimizer_state, self.state.to_dict(),
                best=best, keep=keep, base=self.record.base,
            )  # fmt: skip
            self.report(Saved(step=self.state.step, folder=folder))
        elif self.replica.is_sharded and not exists:
            for tensor in (*self.model.parameters(), *optimizer_state.values()):
                whole(tensor)  # for rank 0, which writes them
        self.world.wait()
        self.saved_at = self.state.seconds

    def diverged(self, sign: str) -> DivergedError:
        rates = f"--learning-rate {self.config.learning_rate / 3:.2g}"
        if self.config.optimizer == "muon":
            rates += f" --set adamw_learning_rate={self.config.adamw_learning_rate / 3:.2g}"
        hint = f"No checkpoint was saved yet. Start again with {rates} or less."
        for step, _ in paths.checkpoints(self.run):
            hint = (
                f"The checkpoint of step {step:,} is intact. Continue from it with lower rates: "
                f"gptscratch train --resume {paths.typed(self.run)} {rates}"
            )
        return DivergedError(f"Training diverged by step {self.state.step:,}: {sign}.", hint)


def facts_of(evaluation: Evaluated) -> dict[str, float]:
    """The content of best.json in addition to the step."""
    return {name: value for name, value in asdict(evaluation).items() if name != "step"}
