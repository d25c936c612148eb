"""The next-token cross-entropy, lean in memory: logits exist for one slice of the positions at a time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from gptscratch.accelerate.linear import linear
from gptscratch.model.head import AdaptiveHead

IGNORE = -100  # a target that counts for nothing: padding

# Bytes of logits held at once. On a CPU they stay near the cache; a GPU needs large products, and each
# slice reads and writes the (V, D) gradient of the weights.
_SLICE_BYTES = {"cpu": 1 << 22, "cuda": 1 << 28, "mps": 1 << 26}
_ROWS = 200  # in a slice of training at least, for that gradient's sake


def slice_rows(n_vocab: int, device: torch.device, dtype: torch.dtype = torch.float32) -> int:
    """How many positions' logits over ``n_vocab`` tokens are held at once."""
    return max(1, _SLICE_BYTES.get(device.type, 1 << 26) // (n_vocab * dtype.itemsize))


def head_cross_entropy(
    head: nn.Module, hidden: Tensor, targets: Tensor, *, factor: Tensor | float = 1.0
) -> Tensor:
    """The summed cross-entropy under an lm_head, a linear layer or an adaptive softmax, in nats.

    Args:
        hidden: (N, D), of the head's float type.
        targets: (N,) token ids, or ``IGNORE``.
        factor: what the sum is multiplied by, before its gradients are rounded.

    Returns:
        A scalar in float32.
    """
    if isinstance(head, AdaptiveHead):
        parts = [linear_cross_entropy(*part, factor=factor) for part in head.parts(hidden, targets)]
        return torch.stack(parts).sum()
    assert isinstance(head, nn.Linear)
    return linear_cross_entropy(hidden, head.weight, targets, head.bias, factor=factor)


def divergence(head: nn.Module, hidden: Tensor, targets: Tensor, *, rows: int | None = None) -> Tensor:
    """The summed symmetric KL divergence between two predictions of the same targets, in nats.

    Source: Wu et al. 2021, "R-Drop: Regularized Dropout for Neural Networks". Where the logits are more than
    one slice, those of each are computed again in the backward pass.

    Args:
        hidden: (2, N, D), from two dropout masks.
        targets: (N,) token ids, or ``IGNORE``.
        rows: positions of a slice; None: as many as suit the device.
    """
    hidden = hidden[:, targets != IGNORE]
    if rows is None:
        n_vocab: Any = head.n_classes if isinstance(head, AdaptiveHead) else head.out_features
        rows = max(_ROWS, slice_rows(n_vocab, hidden.device))
    slices = torch.split(hidden, rows, dim=1)
    if len(slices) == 1:
        return _divergence(head, hidden)
    parts = [checkpoint(_divergence, head, part, use_reentrant=False) for part in slices]
    return torch.stack(parts).sum()


def _divergence(head: nn.Module, hidden: Tensor) -> Tensor:
    first, second = head(hidden).float().log_softmax(-1)  # (N, V) each
    total: Tensor = ((first.exp() - second.exp()) * (first - second)).sum() / 2
    return total


def head_scores(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    """(2,): the summed loss of (N, D) against (N,), and how many targets were the most likely token."""
    if isinstance(head, AdaptiveHead):  # without the parts that no target is in
        loss, best = head_cross_entropy(head, hidden, targets), head.predict(hidden)
    else:
        logits = head(hidden).float()  # (N, V)
        loss, best = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum"), logits.argmax(-1)
    return torch.stack((loss, (best == targets).sum()))


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    factor: Tensor | float = 1.0,
    rows: int | None = None,
) -> Tensor:
    """The summed cross-entropy of ``hidden @ weight.T + bias`` against ``targets``, times ``factor``.

    As ``head_cross_entropy``; weight (V, D), bias (V,). The gradients are made in the forward pass, slice by
    slice, so that the (N, V) logits are never in memory as a whole and are not computed twice. ``rows`` of a
    slice; None: as many as suit the device.
    """
    if rows is None:
        rows = max(_ROWS, slice_rows(len(weight), weight.device, weight.dtype))
        if len(hidden) <= rows and hidden.device.type == "cpu":  # torch's own form needs no more memory
            logits = linear(hidden, weight, bias).float()
            return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum") * factor
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, bias, factor, rows)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        bias: Tensor | None,
        factor: Tensor | float,
        rows: int,
    ) -> Tensor:
        wants_gradient = any(ctx.needs_input_grad)
        loss = torch.zeros((), device=hidden.device)
        hidden_grad = torch.empty_like(hidden) if wants_gradient else None
        weight_grad: Tensor | None = None
        bias_grad = torch.zeros(len(weight), device=hidden.device) if ctx.needs_input_grad[3] else None
        for start in range(0, len(hidden), rows):
            h, t = hidden[start : start + rows], targets[start : start + rows]
            logits = linear(h, weight, bias)  # (rows, V)
            log_p = logits.log_softmax(-1, dtype=torch.float32)  # near 1, half precision would lose p - 1
            counts = (t != IGNORE) * factor  # (rows,)
            column = t.clamp(min=0)[:, None]
            loss -= (log_p.gather(1, column).squeeze(1) * counts).sum()
            if hidden_grad is None:
                continue
            # d loss / d logits = softmax - one-hot, and 0 in the rows that do not count
            slope = log_p.exp_()
            slope.scatter_add_(1, column, slope.new_full((1, 1), -1.0).expand_as(column))
            slope.mul_(counts[:, None])
            if bias_grad is not None:
                bias_grad += slope.sum(0)
            slope = slope.to(weight.dtype)
            torch.mm(slope, weight, out=hidden_grad[start : start + len(h)])
            if not ctx.needs_input_grad[1]:
                continue
            if weight_grad is None:
                weight_grad = slope.T @ h  # (V, D)
            elif h.dtype == torch.float32:
                weight_grad.addmm_(slope.T, h)
            else:
                weight_grad = weight_grad.float().add_(slope.T @ h)
        if weight_grad is None and ctx.needs_input_grad[1]:
            weight_grad = torch.zeros_like(weight)
        ctx.save_for_backward(hidden_grad, weight_grad, bias_grad)
        ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """In place: they are large, and wanted once."""
        hidden_grad, weight_grad, bias_grad = ctx.saved_tensors
        if bias_grad is not None:
            bias_grad = bias_grad.mul_(grad).to(ctx.weight_dtype)
        if weight_grad is not None:
            weight_grad = weight_grad.mul_(grad).to(ctx.weight_dtype)
        return hidden_grad.mul_(grad), weight_grad, None, bias_grad, None, None
