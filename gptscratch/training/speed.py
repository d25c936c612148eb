"""How fast this machine trains a model: a few real steps on tokens of chance."""

from __future__ import annotations

import time

import numpy as np
import torch

from gptscratch.config import RunConfig
from gptscratch.model.gpt import GPT
from gptscratch.training.optimizer import make_optimizer
from gptscratch.training.step import Worker, take_step


def step_seconds(config: RunConfig, rows: int, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of a step of the planned batch, from steps of ``rows`` sequences and of half as many.

    A step costs a fixed part (the optimizer's) and a part for each sequence, so two sizes tell both.
    The first step of each size is not counted: memory is asked for and kernels are chosen in it.
    """
    with torch.random.fork_rng(devices=[]):
        model = GPT(config.model).to(device)
    few = max(1, rows // 2)
    times = {}
    for n in dict.fromkeys((rows, few)):
        times[n] = min(_timed_steps(model, config, n, dtype)[1:])
    each = (times[rows] - times[few]) / max(1, rows - few)
    fixed = max(0.0, times[rows] - rows * max(0.0, each))
    return fixed + config.train.batch_size * (times[rows] - fixed) / rows


def _timed_steps(model: GPT, config: RunConfig, rows: int, dtype: torch.dtype) -> list[float]:
    """Seconds of four steps with a rate of 0."""
    optimizer = make_optimizer(
        model, optimizer=config.train.optimizer, learning_rate=1e-3, adamw_learning_rate=1e-3,
        weight_decay=0.0, betas=(0.9, 0.95), momentum=0.9,
    )  # fmt: skip
    worker = Worker(model, dtype)
    ids = np.random.default_rng(0).integers(0, config.model.vocab_size, (rows, config.model.context_length))
    times = []
    for _ in range(4):
        started = time.perf_counter()
        result = take_step(
            worker, optimizer, ids, ids, micro_batch=config.train.micro_batch, grad_clip=1.0, scale=0.0
        )
        result.loss.item()  # waits for the device
        times.append(time.perf_counter() - started)
    return times
