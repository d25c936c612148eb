"""One optimizer step: forward and backward passes over the micro-batches, clipping, the update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptscratch.device import on_device, out_of_memory
from gptscratch.training.loss import IGNORE
from gptscratch.training.optimizer import Optimizer
from gptscratch.training.replica import LowPrecisionReplica


@dataclass(frozen=True)
class StepResult:
    """If the loss or the norm is not finite, the step updated nothing."""

    loss: Tensor  # mean over all tokens of the step, in nats
    grad_norm: Tensor  # global, before clipping
    tokens: int  # targets of the step; padding is not counted


def take_step(
    replica: LowPrecisionReplica,
    optimizer: Optimizer,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    micro_batch_size: int,
    grad_clip: float,
    lr_scale: float,
) -> StepResult:
    """Update the parameters once, from (B, T) token ids and their targets, those of all ranks.

    Args:
        micro_batch_size: rows at a time; the result does not depend on it, except for rounding.
        grad_clip: largest norm of the gradient; 0 leaves it alone.
        lr_scale: factor of the peak learning rate.

    Raises:
        RuntimeError: memory ran out before the update; after ``replica.zero_grad()`` it may be tried again.
        RunError: memory ran out in the update, which may have changed some parameters.
    """
    loss, tokens = compute_grads(replica, inputs, targets, micro_batch_size)
    with out_of_memory("while it updates the parameters"):
        norm = apply_grads(replica, optimizer, loss, grad_clip=grad_clip, lr_scale=lr_scale)
    return StepResult(loss=loss, grad_norm=norm, tokens=tokens)


def compute_grads(
    replica: LowPrecisionReplica, inputs: np.ndarray, targets: np.ndarray, micro_batch_size: int
) -> tuple[Tensor, int]:
    """Leave in the parameters the gradient of the mean loss over all targets; returns mean and number.

    Each rank takes its part of the rows, and all have the same result.
    Gradients are of the summed loss, times a scale in float16, and divided last: those of the mean would
    vanish in half precision.
    """
    tokens = int((targets != IGNORE).sum())
    factor: Tensor | float = 1.0
    if replica.loss_scale is not None:
        factor = replica.loss_scale.scale * 2.0 ** -math.ceil(math.log2(tokens))
    total = torch.zeros((), device=replica.device)
    replica.copy_weights()
    for x, y in micro_batches(*replica.share(inputs, targets), micro_batch_size):
        loss = replica.loss(on_device(x, replica.device), on_device(y, replica.device), factor)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
        replica.accumulate_grads()
    with out_of_memory("while the ranks add up their gradients"):
        replica.sum_over_ranks(total)
    torch._foreach_div_(replica.grads(), tokens * factor)
    return total / (tokens * factor), tokens


def apply_grads(
    replica: LowPrecisionReplica, optimizer: Optimizer, loss: Tensor, *, grad_clip: float, lr_scale: float
) -> Tensor:
    """Clip the gradients, update the parameters and drop the gradients; returns their norm before clipping.

    Where the loss or the norm is not finite the update is skipped; the host does not wait to know.
    """
    norm = replica.clip_grads(grad_clip or math.inf)
    optimizer.step(lr_scale, loss.isfinite() & norm.isfinite())
    replica.zero_grad()
    return norm


def micro_batches(
    inputs: np.ndarray, targets: np.ndarray, rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """``rows`` rows at a time, without the columns in which all of them are padding.

    Longer rows come first, so that most of the padding is left out.
    """
    width = targets.shape[1]
    lengths = width - (targets != IGNORE)[:, ::-1].argmax(axis=1)  # up to the last target
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), rows):
        some = order[start : start + rows]
        longest = lengths[some[0]]
        yield inputs[some, :longest], targets[some, :longest]
