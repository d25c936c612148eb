"""The model as training computes with it: in one number format, compiled if that is wanted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gptscratch.data.document_batches import Batch
from gptscratch.device import is_out_of_memory
from gptscratch.distributed import ALONE, World
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import document_layout, document_numbers
from gptscratch.runs.tensors import own_rows
from gptscratch.training.loss import head_cross_entropy
from gptscratch.training.optimizer import LossScale, Muon


class LowPrecisionReplica:
    """A copy of the model in half precision, while the model's own parameters stay in float32.

    Its weights are cast once a step, not once an operation, and activations move half the bytes. Gradients
    add up in float32 in the model itself. In float32 there is no copy: the model does the work.

    Attributes:
        model: the copy, or the model itself.
        evaluated: the one that is evaluated: in float32, or where that takes twice the time, the copy.
        parameters: the model's own that are trained, in float32.
        copies: pairs of a parameter and its copy.
        loss_scale: in float16; it belongs to the optimizer's state.
        r_drop: see ``loss.head_cross_entropy``; 0: each sequence is computed once.
        world: the processes among which the sequences of a step are shared.
        is_sharded: the parameters are divided among them.
    """

    is_sharded: ClassVar[bool] = False
    muon: ClassVar[type[Muon]] = Muon

    def __init__(
        self,
        model: GPT,
        dtype: torch.dtype,
        *,
        mask_at: int | None = None,
        r_drop: float = 0.0,
        world: World = ALONE,
    ) -> None:
        """``mask_at``: the end-of-text token, where the documents of a row are not to see one another."""
        self.world = world
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.model = model if dtype == torch.float32 else _cast(model, dtype)
        self.device = model.token_embedding.weight.device
        self.evaluated = self.model if self.device.type == "cuda" else model
        own = {id(parameter) for parameter in model.parameters()}
        named = self.model.named_parameters()
        self.copies = [(model.get_parameter(name), copied) for name, copied in named if id(copied) not in own]
        self.loss_scale = LossScale(self.device) if dtype == torch.float16 else None
        self.mask_at, self.r_drop = mask_at, r_drop
        self._hidden: Callable[..., Tensor] = self.model.hidden

    def loss(self, inputs: Tensor, targets: Tensor, factor: Tensor | float = 1.0) -> Tensor:
        """The summed loss of (B, T) inputs against (B, T) targets, in nats, times ``factor``."""
        if self.r_drop:
            inputs = inputs.repeat(2, 1)  # (2 B, T): each half has a dropout mask of its own
        layout = None if self.mask_at is None else document_layout(document_numbers(inputs, self.mask_at))
        hidden = self._hidden(inputs, layout=layout).flatten(0, 1)  # (B T, D)
        return head_cross_entropy(
            self.model.lm_head, hidden, targets.flatten(), factor=factor, r_drop=self.r_drop
        )

    def compile(self, rows: int, tokens: int, on_failure: Callable[[str], None]) -> None:
        """Compile the model, for micro-batches of this shape at once, before any step is timed.

        What can go wrong there has no common type (no compiler, no space, a bug): then it runs uncompiled.
        If memory runs out, the first step finds a micro-batch that fits and compiles for that.
        """
        self._hidden = torch.compile(self.model.hidden)
        try:
            ids = torch.zeros(rows, tokens, dtype=torch.long, device=self.device)
            self.loss(ids, ids).backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            if not is_out_of_memory(error):
                self._hidden = self.model.hidden
                name = type(error).__name__
                on_failure(f"torch.compile failed ({name}): training continues without it.")
        self.zero_grad()

    def grads(self) -> list[Tensor]:
        """The gradients of the parameters; of sharded ones, the rows that this process has."""
        return [own_rows(p.grad) for p in self.parameters if p.grad is not None]

    def clip_grads(self, max_norm: float) -> Tensor:
        """Limit the norm of all gradients together; returns what it was."""
        return torch.nn.utils.clip_grad_norm_(self.parameters, max_norm)

    def share(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a batch that this rank trains on."""
        own = slice(self.world.rank, None, self.world.size)
        return inputs[own], targets[own]

    def share_batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches that this rank evaluates."""
        return islice(batches, self.world.rank, None, self.world.size)

    def saved(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """An optimizer's state as a checkpoint has it."""
        return state

    def zero_grad(self) -> None:
        for parameter in (*self.parameters, *(copied for _, copied in self.copies)):
            parameter.grad = None

    @torch.no_grad()
    def copy_weights(self) -> None:
        """Cast the model's current parameters into the copy."""
        if self.copies:
            parameters, copies = zip(*self.copies, strict=True)
            torch._foreach_copy_(copies, parameters)
            self.copies = [pair for pair in self.copies if pair[0].requires_grad]  # the others stay the same

    @torch.no_grad()
    def accumulate_grads(self) -> None:
        """Add the copy's gradients to the model's, in float32."""
        for parameter, copied in self.copies:
            if copied.grad is not None and parameter.grad is not None:
                parameter.grad += copied.grad
            elif copied.grad is not None:
                parameter.grad = copied.grad.float()
            copied.grad = None

    @torch.no_grad()
    def sum_over_ranks(self, loss: Tensor) -> None:
        """Add up the gradients and the loss of all ranks; a rank without sequences has none."""
        if self.world.size > 1:
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self.world.add_up([loss, *(p.grad for p in self.parameters if p.grad is not None)])


def _cast(model: GPT, dtype: torch.dtype) -> GPT:
    """A copy in ``dtype`` that shares the model's float32 embeddings and casts the rows that it reads.

    So the gradients of a token that occurs often are summed in float32.
    """
    cast = copy.deepcopy(model).to(dtype)
    for name, part in model.named_modules():
        if isinstance(part, nn.Embedding):
            embedding = cast.get_submodule(name)
            embedding.weight = part.weight
            embedding.register_forward_hook(lambda _module, _inputs, rows: rows.to(dtype))
    return cast
