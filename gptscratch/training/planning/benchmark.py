"""How fast this machine trains and evaluates a model: a few real steps on random tokens."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from gptscratch.accelerate.linear import linear
from gptscratch.accelerate.training import accelerate_training
from gptscratch.config import RunConfig
from gptscratch.device import is_out_of_memory
from gptscratch.model.gpt import GPT
from gptscratch.model.lora import add_adapters_of
from gptscratch.training import clock
from gptscratch.training.evaluate import sums_over
from gptscratch.training.optimizer import make_optimizer
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.step import apply_grads, compute_grads

MEASURING = 0.01  # of the run's time goes into measuring a plan ...
LEAST, MOST = 0.3, 3.0  # ... or this many seconds

Speed = tuple[float, float]  # seconds of a step, and of the evaluation of as many tokens


def measured_speed(
    config: RunConfig, expected: float, total: float, device: torch.device, dtype: torch.dtype
) -> Speed | None:
    """The speed of a plan, on as many sequences as about one percent of its time allows.

    Args:
        expected: seconds of a step.
        total: seconds of the run.

    Returns:
        None where not even one sequence fits into the memory: training will say so.
    """
    limit = min(MOST, max(LEAST, MEASURING * total))
    rows = int(min(config.train.batch_size, max(1.0, config.train.batch_size * limit / expected / 4)))
    while rows:
        try:
            return speed_of(config, rows, device, dtype, limit=limit)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        rows = (rows + 1) // 2 if rows > 1 else 0
    return None


def speed_of(
    config: RunConfig, rows: int, device: torch.device, dtype: torch.dtype, *, limit: float
) -> Speed:
    """The speed with the planned batch, from ``rows`` sequences at a time, in about ``limit`` seconds.

    The work of a step grows with its sequences; its update costs the same for any number of them.
    """
    with torch.random.fork_rng(devices=[]):
        model = accelerate_training(add_adapters_of(GPT(config.model).to(device), config.train))
    replica = LowPrecisionReplica(model, dtype, r_drop=config.train.r_drop)
    optimizer = make_optimizer(model, config.train)
    ids = np.random.default_rng(0).integers(0, config.model.vocab_size, (rows, config.model.context_length))
    token_bytes = np.ones(config.model.vocab_size)

    def work() -> None:
        replica.zero_grad()
        compute_grads(replica, ids, ids, config.train.micro_batch_size)[0].item()  # waits for the device

    grads = [torch.full_like(parameter, 1e-3) for parameter in replica.parameters]

    def update() -> None:
        for parameter, grad in zip(replica.parameters, grads, strict=True):
            parameter.grad = grad
        apply_grads(replica, optimizer, torch.ones((), device=device), grad_clip=1.0, lr_scale=0.0).item()

    per_batch = config.train.batch_size / rows
    step = median(timed(work, limit / 2)) * per_batch + median(timed(update, limit / 4))
    evaluation = median(timed(lambda: sums_over(replica.evaluated, [(ids, ids)], token_bytes), limit / 4))
    return step, evaluation * per_batch


def timed(call: Callable[[], object], limit: float, most: int = 100) -> list[float]:
    """The seconds of at least one call, without the first, in which memory is asked for."""
    call()
    times: list[float] = []
    while not times or (len(times) < most and sum(times) < limit):
        started = clock.now()
        call()
        times.append(clock.now() - started)
    return times


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of a large matrix product at its best, measured for a tenth of a second.

    On a CPU one thread is measured and multiplied: other programs that run for a moment do not count.
    """
    on_cpu, threads = device.type == "cpu", torch.get_num_threads()
    size = 512 if on_cpu else 4096
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.set_num_threads(1)
    try:
        times = timed(lambda: linear(a, b)[0, 0].item(), limit=0.1, most=1000)  # item waits for the device
    finally:
        torch.set_num_threads(threads)
    return (threads if on_cpu else 1) * 2 * size**3 / min(times)
