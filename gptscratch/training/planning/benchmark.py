"""How fast this machine trains a model: a few real steps on random tokens."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable

import numpy as np
import torch

from gptscratch.accelerate.linear import linear
from gptscratch.config import RunConfig
from gptscratch.device import one_thread
from gptscratch.model.gpt import GPT
from gptscratch.training.optimizer import Optimizer, make_optimizer
from gptscratch.training.step import Worker, apply_gradients, take_step

_STEPS = 4  # that are timed at most; the first one does not count, and one more is always made
_LEAST_SHARE = 0.1  # of a step, that its sequences take: noise could leave nothing beside the update


def step_seconds(
    config: RunConfig, rows: int, device: torch.device, dtype: torch.dtype, *, limit: float
) -> float:
    """Seconds of a step of the planned batch, measured for about ``limit`` seconds.

    With fewer ``rows`` than the batch has, the update is timed alone: it costs the same for any number of
    sequences. The rest of a step grows with them.
    """
    with torch.random.fork_rng(devices=[]):
        model = GPT(config.model).to(device)
    optimizer = _optimizer(model, config)
    batch = config.train.batch_size
    rows = min(rows, batch)
    worker = Worker(model, dtype)
    measured = timed(_step_of(worker, optimizer, config, rows), limit)
    if rows == batch:
        return measured
    update = min(timed(lambda: _update(worker, optimizer), limit / 4), (1 - _LEAST_SHARE) * measured)
    return update + (measured - update) * batch / rows


def timed(step: Callable[[], None], limit: float) -> float:
    """The least seconds of a few calls, without the first, in which memory is asked for."""
    times: list[float] = []
    while len(times) < 2 or (len(times) < _STEPS and sum(times) < limit):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of a large matrix product at its best, measured for a tenth of a second.

    On a CPU one thread is measured and multiplied: other programs that run for a moment do not count.
    """
    on_cpu = device.type == "cpu"
    size, threads = (512, torch.get_num_threads()) if on_cpu else (4096, 1)
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    best, end = math.inf, time.perf_counter() + 0.1
    with one_thread() if on_cpu else contextlib.nullcontext():
        for repeat in itertools.count():
            started = time.perf_counter()
            linear(a, b)[0, 0].item()  # waits for the device
            best = min(best, time.perf_counter() - started)
            if repeat >= 5 and started > end:
                break
    return threads * 2 * size**3 / best


def _step_of(worker: Worker, optimizer: Optimizer, config: RunConfig, rows: int) -> Callable[[], None]:
    ids = np.random.default_rng(0).integers(0, config.model.vocab_size, (rows, config.model.context_length))

    def step() -> None:
        result = take_step(
            worker,
            optimizer,
            ids,
            ids,
            micro_batch_size=config.train.micro_batch_size,
            grad_clip=1.0,
            scale=0.0,
        )
        result.loss.item()  # waits for the device

    return step


def _update(worker: Worker, optimizer: Optimizer) -> None:
    for parameter in worker.parameters:
        parameter.grad = torch.full_like(parameter, 1e-3)
    loss = torch.ones((), device=worker.device)
    apply_gradients(worker, optimizer, loss, grad_clip=1.0, scale=0.0)
    worker.parameters[0].sum().item()  # waits for the device


def _optimizer(model: GPT, config: RunConfig) -> Optimizer:
    return make_optimizer(
        model, optimizer=config.train.optimizer, learning_rate=1e-3, adamw_learning_rate=1e-3,
        weight_decay=0.0, betas=(0.9, 0.95), momentum=0.9,
    )  # fmt: skip
