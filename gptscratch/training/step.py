"""One optimizer step: forward and backward over the micro-batches, clipping, the update."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptscratch.model.documents import document_numbers
from gptscratch.model.gpt import GPT
from gptscratch.training.loss import IGNORE, head_cross_entropy
from gptscratch.training.optimizer import Optimizer


@dataclass(frozen=True)
class StepResult:
    loss: Tensor  # mean over all tokens of the step, in nats
    grad_norm: Tensor  # global, before clipping
    tokens: int  # of the step: pads are none


class Worker:
    """Runs forward and backward in one number format while the parameters stay in float32.

    In half precision a copy of the model does the work: its weights are cast once a step, not once an
    operation, and activations move half the bytes. Gradients add up in float32 in the model itself.
    They are of the summed loss and divided last: those of the mean would vanish in float16.
    """

    def __init__(
        self,
        model: GPT,
        dtype: torch.dtype,
        *,
        compile: bool = False,
        on_fallback: Callable[[str], None] = lambda _: None,
        mask_at: int | None = None,
    ) -> None:
        """With ``compile`` the first loss compiles the model; if that fails, it goes on without.

        ``mask_at``: the end-of-text token, where the documents of a row are not to see one another.
        """
        self.parameters: list[Tensor] = list(model.parameters())
        self.copy = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        self.copies: list[Tensor] = list(self.copy.parameters())
        self.is_copy = self.copy is not model
        self.mask_at = mask_at
        self.hidden: Callable[..., Tensor] = self.copy.hidden
        self.compiled = torch.compile(self.copy.hidden) if compile else None
        self.on_fallback = on_fallback

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The summed loss of (B, T) inputs against (B, T) targets, in nats."""
        documents = None if self.mask_at is None else document_numbers(inputs, self.mask_at)  # (B, T)
        if self.compiled is not None:
            self._try(self.compiled, inputs, documents)
        hidden = self.hidden(inputs, documents=documents)  # (B, T, D)
        return head_cross_entropy(self.copy.lm_head, hidden.flatten(0, 1), targets.flatten())

    def _try(self, compiled: Callable[..., Tensor], inputs: Tensor, documents: Tensor | None) -> None:
        """Compile now; what can go wrong there has no common type (no compiler, no space, a bug)."""
        self.compiled = None
        try:
            compiled(inputs, documents=documents)
            self.hidden = compiled
        except Exception as error:
            self.on_fallback(f"torch.compile failed ({type(error).__name__}): training goes on without it.")

    def forget(self) -> None:
        """Drop all gradients, as after a step that failed half-way."""
        for parameter in (*self.parameters, *self.copies):
            parameter.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's current parameters."""
        if self.is_copy:
            torch._foreach_copy_(self.copies, self.parameters)

    @torch.no_grad()
    def collect(self) -> None:
        """Add the copy's gradients to the model's."""
        if not self.is_copy:
            return
        for parameter, own in zip(self.parameters, self.copies, strict=True):
            if own.grad is not None and parameter.grad is not None:
                parameter.grad += own.grad
            elif own.grad is not None:
                parameter.grad = own.grad.float()
            own.grad = None


def take_step(
    worker: Worker,
    optimizer: Optimizer,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    micro_batch: int,
    grad_clip: float,
    scale: float,
) -> StepResult:
    """Update the parameters once, from (B, T) token ids and their targets.

    The gradient is of the mean over all targets but those of ``IGNORE``, however they are spread.

    Args:
        micro_batch: rows at a time; the result does not depend on it, but for rounding.
        grad_clip: largest norm of the gradient; 0 leaves it alone.
        scale: of the peak learning rate.
    """
    device = worker.parameters[0].device
    counted = int((targets != IGNORE).sum())
    total = torch.zeros((), device=device)
    worker.refresh()
    for x, y in micro_batches(inputs, targets, micro_batch):
        some_inputs, some_targets = (torch.from_numpy(a).to(device, non_blocking=True) for a in (x, y))
        loss = worker.loss(some_inputs, some_targets)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
        worker.collect()
    torch._foreach_div_([p.grad for p in worker.parameters if p.grad is not None], counted)
    norm = clip(worker.parameters, grad_clip)
    optimizer.step(scale)
    for parameter in worker.parameters:
        parameter.grad = None
    return StepResult(loss=total / counted, grad_norm=norm, tokens=counted)


def micro_batches(
    inputs: np.ndarray, targets: np.ndarray, rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """So many rows at a time, each time without the columns in which all of them are padded.

    Rows with pads come the longest first, so that most pads fall away.
    """
    width = targets.shape[1]
    lengths = width - (targets != IGNORE)[:, ::-1].argmax(axis=1)  # up to the last target
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), rows):
        some = order[start : start + rows]
        longest = lengths[some[0]]
        yield inputs[some, :longest], targets[some, :longest]


@torch.no_grad()
def clip(parameters: list[Tensor], limit: float) -> Tensor:
    """Scale the gradients down to a global norm of ``limit`` where they exceed it; returns their norm."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if limit > 0:
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm
