"""The training loop, and how an interrupt ends it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np

from gptscratch.data.batches import Batches
from gptscratch.data.mixture import MixedBatches
from gptscratch.device import is_out_of_memory, out_of_memory, seed_step
from gptscratch.training.callbacks import HOOKS, Session
from gptscratch.training.events import Notice
from gptscratch.training.schedule import Schedule
from gptscratch.training.step import StepResult, Worker, apply_gradients, make_gradients


def run_loop(session: Session, worker: Worker, batches: Batches | MixedBatches, schedule: Schedule) -> bool:
    """Step until the horizon is reached; True if the user interrupted it (and the run is saved)."""
    state = session.state
    with interrupts() as interrupted, noticing_continuation(session.continued):
        while not session.over and not interrupted.is_set():
            started = time.perf_counter()
            inputs, targets = batches.batch(state.step)
            session.scale = schedule(state.step, session.horizon.progress(state))
            result = step_that_fits(session, worker, inputs, targets)
            session.count(result, result.tokens, time.perf_counter() - started)
            for hook in HOOKS:
                hook(session)
        if interrupted.is_set() and not session.over:
            session.save()
            return True
    return False


def step_that_fits(session: Session, worker: Worker, inputs: np.ndarray, targets: np.ndarray) -> StepResult:
    """Take the step; where the memory does not hold its micro-batch, halve that and try again.

    The update itself is never tried twice: it may have changed some parameters before it failed.
    """
    while True:
        seed_step(session.config.seed, session.state.step)
        try:
            loss, tokens = make_gradients(worker, inputs, targets, session.micro_batch_size)
            break
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if session.micro_batch_size == 1:
                with out_of_memory("while it trains on one sequence at a time"):
                    raise
        worker.forget()  # after the except clause, which holds on to the step's tensors
        session.micro_batch_size = (session.micro_batch_size + 1) // 2
        session.listen(
            Notice(f"The memory is full: going on with {session.micro_batch_size} sequences at a time.")
        )
    with out_of_memory("while it updates the parameters"):
        norm = apply_gradients(
            worker, session.optimizer, loss, grad_clip=session.config.grad_clip, scale=session.scale
        )
    return StepResult(loss=loss, grad_norm=norm, tokens=tokens)


@contextmanager
def noticing_continuation(event: threading.Event) -> Iterator[None]:
    """Set the event when the process continues after it was suspended (Ctrl-Z, SIGSTOP); not on Windows."""
    number = getattr(signal, "SIGCONT", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, lambda *_: event.set())
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets; the second one acts as usual.

    SIGHUP comes when the terminal is closed; under nohup it stays ignored.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may handle signals
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        before[signal.SIGHUP] = signal.getsignal(signal.SIGHUP)

    def handle(_number: int, _frame: FrameType | None) -> None:
        event.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, handle)
    try:
        yield event
    finally:
        restore()
