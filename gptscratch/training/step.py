"""One optimizer step: forward and backward over the micro-batches, clipping, the update."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gptscratch.accelerate.training import accelerate_training
from gptscratch.device import is_out_of_memory, on_device
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import document_layout, document_numbers
from gptscratch.training.loss import IGNORE, head_cross_entropy
from gptscratch.training.optimizer import LossScale, Optimizer


@dataclass(frozen=True)
class StepResult:
    """If the loss or the norm is not finite, the step updated nothing."""

    loss: Tensor  # mean over all tokens of the step, in nats
    grad_norm: Tensor  # global, before clipping
    tokens: int  # of the step: pads are none


class Worker:
    """Runs forward and backward in one number format while the parameters stay in float32.

    In half precision a copy of the model does the work: its weights are cast once a step, not once an
    operation, and activations move half the bytes. Gradients add up in float32 in the model itself.
    They are of the summed loss and divided last: those of the mean would vanish in half precision.
    In float16 they are scaled as well, for its range holds neither of the two.

    Attributes:
        parameters: the model's, in float32.
        copies: pairs of a parameter and its copy in half precision; none in float32.
        loss_scale: in float16; it belongs to the optimizer's state.
    """

    def __init__(self, model: GPT, dtype: torch.dtype, *, mask_at: int | None = None) -> None:
        """``mask_at``: the end-of-text token, where the documents of a row are not to see one another."""
        self.parameters: list[Tensor] = list(model.parameters())
        accelerate_training(model)
        self.model = model if dtype == torch.float32 else half_precision_twin(model, dtype)
        own = {id(parameter) for parameter in self.parameters}
        twins = self.model.named_parameters()
        self.copies = [(model.get_parameter(name), twin) for name, twin in twins if id(twin) not in own]
        self.mask_at = mask_at
        self.device = model.token_embedding.weight.device
        self.loss_scale = LossScale(self.device) if dtype == torch.float16 else None
        self.hidden: Callable[..., Tensor] = self.model.hidden

    def loss(self, inputs: Tensor, targets: Tensor, factor: Tensor | float = 1.0) -> Tensor:
        """The summed loss of (B, T) inputs against (B, T) targets, in nats, times ``factor``."""
        layout = None if self.mask_at is None else document_layout(document_numbers(inputs, self.mask_at))
        hidden = self.hidden(inputs, layout=layout)  # (B, T, D)
        return head_cross_entropy(self.model.lm_head, hidden.flatten(0, 1), targets.flatten(), factor=factor)

    def compile(self, shapes: Iterable[tuple[int, int]], on_fallback: Callable[[str], None]) -> None:
        """Compile the model for micro-batches of these (rows, tokens), before any step is timed.

        What can go wrong there has no common type (no compiler, no space, a bug): then it works without.
        Where the memory is full the first step finds a micro-batch that fits, and compiles for it.
        """
        self.hidden = torch.compile(self.model.hidden)
        try:
            for shape in shapes:
                ids = torch.zeros(shape, dtype=torch.long, device=self.device)
                self.loss(ids, ids).backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            if not is_out_of_memory(error):
                self.hidden = self.model.hidden
                name = type(error).__name__
                on_fallback(f"torch.compile failed ({name}): training continues without it.")
        self.forget()

    def forget(self) -> None:
        """Drop all gradients, as after a step that failed half-way."""
        for parameter in (*self.parameters, *(twin for _, twin in self.copies)):
            parameter.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's current parameters."""
        if self.copies:
            parameters, twins = zip(*self.copies, strict=True)
            torch._foreach_copy_(twins, parameters)

    @torch.no_grad()
    def collect(self) -> None:
        """Add the copies' gradients to the model's."""
        for parameter, twin in self.copies:
            if twin.grad is not None and parameter.grad is not None:
                parameter.grad += twin.grad
            elif twin.grad is not None:
                parameter.grad = twin.grad.float()
            twin.grad = None


def half_precision_twin(model: GPT, dtype: torch.dtype) -> GPT:
    """A copy that computes in ``dtype``; its embeddings are the model's own, whose rows are cast when read.

    So the gradients of a token that occurs often are summed in float32.
    """
    twin = copy.deepcopy(model).to(dtype)
    for name, part in model.named_modules():
        if isinstance(part, nn.Embedding):
            its = twin.get_submodule(name)
            its.weight = part.weight
            its.register_forward_hook(lambda _module, _inputs, rows: rows.to(dtype))
    return twin


def take_step(
    worker: Worker,
    optimizer: Optimizer,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    micro_batch_size: int,
    grad_clip: float,
    scale: float,
) -> StepResult:
    """Update the parameters once, from (B, T) token ids and their targets.

    Args:
        micro_batch_size: rows at a time; the result does not depend on it, but for rounding.
        grad_clip: largest norm of the gradient; 0 leaves it alone.
        scale: of the peak learning rate.
    """
    loss, tokens = make_gradients(worker, inputs, targets, micro_batch_size)
    norm = apply_gradients(worker, optimizer, loss, grad_clip=grad_clip, scale=scale)
    return StepResult(loss=loss, grad_norm=norm, tokens=tokens)


def make_gradients(
    worker: Worker, inputs: np.ndarray, targets: np.ndarray, micro_batch_size: int
) -> tuple[Tensor, int]:
    """Leave in the parameters the gradient of the mean loss over all targets but those of ``IGNORE``.

    Nothing but gradients is changed: where it fails it may be tried again, after ``worker.forget()``.

    Returns:
        That mean, and how many targets it is over.
    """
    tokens = int((targets != IGNORE).sum())
    total = torch.zeros((), device=worker.device)
    factor = (
        1.0 if worker.loss_scale is None else worker.loss_scale.scale * 2.0 ** -math.ceil(math.log2(tokens))
    )
    worker.refresh()
    for x, y in micro_batches(inputs, targets, micro_batch_size):
        loss = worker.loss(on_device(x, worker.device), on_device(y, worker.device), factor)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
        worker.collect()
    torch._foreach_div_([p.grad for p in worker.parameters if p.grad is not None], tokens * factor)
    return total / (tokens * factor), tokens


def apply_gradients(
    worker: Worker, optimizer: Optimizer, loss: Tensor, *, grad_clip: float, scale: float
) -> Tensor:
    """Clip the gradients, update the parameters and drop the gradients; returns their norm before clipping.

    Where the loss or the norm is not finite the update is skipped, without waiting for the device to tell.
    """
    norm = clip(worker.parameters, grad_clip)
    optimizer.step(scale, loss.isfinite() & norm.isfinite())
    for parameter in worker.parameters:
        parameter.grad = None
    return norm


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
