"""The next-token cross-entropy, lean in memory: logits exist for one slice of the positions at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IGNORE = -100  # a target that counts for nothing: padding

SLICE_ELEMENTS = 1 << 22  # logits held at once: 16 MiB in float32, which stays near the cache


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The summed cross-entropy of ``hidden @ weight.T`` against ``targets``, in nats.

    The gradients are made in the forward pass, slice by slice, so that the (N, V) logits never stand
    in memory as a whole and are not computed twice.

    Args:
        hidden: (N, D), any float type.
        weight: (V, D), the output embedding, of the same type.
        targets: (N,) token ids, or ``IGNORE``.

    Returns:
        A scalar in float32.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        rows = max(1, SLICE_ELEMENTS // weight.size(0))
        loss = torch.zeros((), device=hidden.device)
        hidden_grad = torch.empty_like(hidden) if wants_gradient else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if wants_gradient else None
        for start in range(0, len(hidden), rows):
            h, t = hidden[start : start + rows], targets[start : start + rows]
            logits = (h @ weight.T).float()  # (rows, V)
            log_total = logits.logsumexp(-1)  # (rows,)
            counts = t != IGNORE
            column = t.clamp(min=0)[:, None]
            own = logits.gather(1, column).squeeze(1)
            loss += ((log_total - own) * counts).sum()
            if hidden_grad is None or weight_grad is None:
                continue
            # d loss / d logits = softmax - one-hot, and 0 in the rows that do not count
            slope = logits.sub_(log_total[:, None]).exp_()
            slope.scatter_add_(1, column, slope.new_full((1, 1), -1.0).expand_as(column))
            slope = slope.mul_(counts[:, None]).to(weight.dtype)
            torch.mm(slope, weight, out=hidden_grad[start : start + len(h)])
            weight_grad += slope.T @ h
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * grads[0], (weight_grad * grads[0]).to(ctx.weight_dtype), None
