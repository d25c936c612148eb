"""How fast this machine trains a model: a few real steps on random tokens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import numpy as np
import torch

from gptscratch.accelerate.linear import linear
from gptscratch.accelerate.training import accelerate_training
from gptscratch.config import RunConfig
from gptscratch.device import is_out_of_memory, one_thread
from gptscratch.model.gpt import GPT
from gptscratch.model.lora import add_adapters_of
from gptscratch.training.optimizer import make_optimizer
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.step import apply_grads, take_step

MEASURING = 0.01  # of the run's time goes into measuring a plan ...
LEAST, MOST = 0.3, 3.0  # ... or this many seconds
_LEAST_SHARE = 0.1  # of a step is its sequences' work, even if noise leaves nothing next to the update


def measured_step_seconds(
    config: RunConfig, expected: float, device: torch.device, dtype: torch.dtype
) -> float | None:
    """Seconds of a step of a plan by time, on as many sequences as about one percent of the time allows.

    None where not even one sequence fits into the memory: training will say so.
    """
    train = config.train
    limit = min(MOST, max(LEAST, MEASURING * 60 * (train.minutes or 0)))
    rows = int(min(train.batch_size, max(1.0, train.batch_size * limit / expected / 5)))
    while rows:
        try:
            return step_seconds(config, rows, device, dtype, limit=limit)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        rows = (rows + 1) // 2 if rows > 1 else 0
    return None


def step_seconds(
    config: RunConfig, rows: int, device: torch.device, dtype: torch.dtype, *, limit: float
) -> float:
    """Seconds of a step of the planned batch, from steps of ``rows`` sequences in about ``limit`` seconds.

    With fewer rows than the batch has, the update is timed alone: it costs the same for any number of
    sequences. The rest of a step grows with them.
    """
    with torch.random.fork_rng(devices=[]):
        model = add_adapters_of(GPT(config.model).to(device), config.train)
    accelerate_training(model)
    optimizer = make_optimizer(model, config.train)
    replica = LowPrecisionReplica(model, dtype)
    batch = config.train.batch_size
    ids = np.random.default_rng(0).integers(0, config.model.vocab_size, (rows, config.model.context_length))

    def step() -> None:
        result = take_step(
            replica, optimizer, ids, ids,
            micro_batch_size=config.train.micro_batch_size, grad_clip=1.0, lr_scale=0.0,
        )  # fmt: skip
        result.loss.item()  # waits for the device

    def update() -> None:
        for parameter in replica.parameters:
            parameter.grad = torch.full_like(parameter, 1e-3)
        apply_grads(replica, optimizer, torch.ones((), device=device), grad_clip=1.0, lr_scale=0.0)
        replica.parameters[0].sum().item()  # waits for the device

    measured = timed(step, limit)
    if rows >= batch:
        return measured
    fixed = min(timed(update, limit / 4), (1 - _LEAST_SHARE) * measured)
    return fixed + (measured - fixed) * batch / rows


def timed(call: Callable[[], object], limit: float, most: int = 4) -> float:
    """The least seconds of a few calls, without the first, in which memory is asked for."""
    times: list[float] = []
    while len(times) < 2 or (len(times) < most and sum(times) < limit):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of a large matrix product at its best, measured for a tenth of a second.

    On a CPU one thread is measured and multiplied: other programs that run for a moment do not count.
    """
    on_cpu = device.type == "cpu"
    size, threads = (512, torch.get_num_threads()) if on_cpu else (4096, 1)
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    with one_thread() if on_cpu else contextlib.nullcontext():
        seconds = timed(lambda: linear(a, b)[0, 0].item(), limit=0.1, most=1000)  # item waits for the device
    return threads * 2 * size**3 / seconds
