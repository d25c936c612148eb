"""The training loop, and the signals that interrupt it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np

from gptscratch.device import is_out_of_memory, out_of_memory, seed_step
from gptscratch.training import clock
from gptscratch.training.callbacks import CALLBACKS
from gptscratch.training.context import TrainContext
from gptscratch.training.events import Notice
from gptscratch.training.step import StepResult, take_step


def run_loop(context: TrainContext) -> bool:
    """Step until the budget is used up; True if the user interrupted it (and the run is saved)."""
    state = context.state
    with interrupts() as interrupted:
        stops = False
        while not context.finished and not stops:
            started = clock.now()
            inputs, targets = context.batches.batch(state.step)
            context.lr_scale = context.schedule(state.step, context.budget.progress(state))
            result = step_that_fits(context, inputs, targets)
            stops = context.record_step(result, clock.now() - started, interrupted.is_set())
            for callback in CALLBACKS:
                callback(context)
            stops = stops or (context.world.size == 1 and interrupted.is_set())
        if stops and not context.finished:
            context.save()
            return True
    return False


def step_that_fits(context: TrainContext, inputs: np.ndarray, targets: np.ndarray) -> StepResult:
    """Take the step; if memory runs out before its update, halve its micro-batches and try again."""
    while True:
        seed_step(context.config.seed, context.state.step, context.world.rank)
        try:
            return take_step(
                context.replica, context.optimizer, inputs, targets,
                micro_batch_size=context.micro_batch_size, grad_clip=context.config.grad_clip,
                lr_scale=context.lr_scale,
            )  # fmt: skip
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            count = context.micro_batch_size
            if count == 1 or context.replica.is_sharded:  # all of whose ranks take the same number
                at_once = "one sequence" if count == 1 else f"{count} sequences (--micro-batch-size)"
                with out_of_memory(f"while it trains on {at_once} at a time"):
                    raise
        context.replica.zero_grad()  # after the except clause, which holds on to the step's tensors
        context.micro_batch_size = (context.micro_batch_size + 1) // 2
        context.report(Notice(f"Out of memory: continuing with micro-batch size {context.micro_batch_size}."))


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or a closed terminal sets; the second signal acts as usual.

    SIGHUP comes when the terminal is closed; under nohup it stays ignored. Windows has no SIGHUP.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # only the main thread may handle signals
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    if before.get(getattr(signal, "SIGHUP", 0)) is signal.SIG_IGN:
        del before[signal.SIGHUP]

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(_number: int, _frame: FrameType | None) -> None:
        interrupted.set()
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield interrupted
    finally:
        restore()
