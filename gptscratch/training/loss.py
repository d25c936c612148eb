"""The next-token cross-entropy, lean in memory: logits exist for one slice of the positions at a time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from gptscratch.accelerate.linear import linear
from gptscratch.data.document_batches import PAD_TARGET
from gptscratch.model.head import AdaptiveHead

IGNORE = PAD_TARGET  # a target that counts for nothing: padding, or a token that the vocabulary lacks

# Bytes of logits held at once. On a CPU they stay near the cache; a GPU needs large products, and each
# slice reads and writes the (V, D) gradient of the weights.
_SLICE_BYTES = {"cpu": 1 << 22, "cuda": 1 << 28, "mps": 1 << 26}
_ROWS = 200  # in a slice of training at least, for that gradient's sake


def slice_rows(n_vocab: int, device: torch.device, dtype: torch.dtype = torch.float32) -> int:
    """How many positions' logits over ``n_vocab`` tokens are held at once."""
    return max(1, _SLICE_BYTES.get(device.type, 1 << 26) // (n_vocab * dtype.itemsize))


def head_cross_entropy(
    head: nn.Module, hidden: Tensor, targets: Tensor, *, factor: Tensor | float = 1.0, r_drop: float = 0.0
) -> Tensor:
    """The summed cross-entropy under an lm_head, a linear layer or an adaptive softmax, in nats.

    Args:
        hidden: (N, D), of the head's float type; with ``r_drop`` (2 N, D), from two dropout masks.
        targets: (N,) token ids, or ``IGNORE``.
        factor: what the sum is multiplied by, before its gradients are rounded.
        r_drop: the weight of the symmetric KL divergence between the two predictions of a target, which is
            in the gradient and not in the value, the mean of both losses (Wu et al. 2021, "R-Drop:
            Regularized Dropout for Neural Networks").

    Returns:
        A scalar in float32.
    """
    if not isinstance(head, AdaptiveHead):
        assert isinstance(head, nn.Linear)
        return linear_cross_entropy(hidden, head.weight, targets, head.bias, factor=factor, r_drop=r_drop)
    if not r_drop:
        parts = [linear_cross_entropy(*part, factor=factor) for part in head.parts(hidden, targets)]
        return torch.stack(parts).sum()
    loss = head_cross_entropy(head, hidden, targets.repeat(2), factor=factor) / 2
    penalty = _adaptive_divergence(head, hidden.view(2, len(targets), -1), targets) * r_drop * factor
    return loss + (penalty - penalty.detach())


def _adaptive_divergence(head: AdaptiveHead, hidden: Tensor, targets: Tensor) -> Tensor:
    """The summed divergence of hidden (2, N, D), in slices that are computed again for their gradients."""

    def divergence(part: Tensor) -> Tensor:
        first, second = head(part).float()  # (N, V) each
        total: Tensor = ((first.exp() - second.exp()) * (first - second)).sum() / 2
        return total

    rows = max(_ROWS, slice_rows(head.n_classes, hidden.device))
    slices = torch.split(hidden[:, targets != IGNORE], rows, dim=1)
    return torch.stack([checkpoint(divergence, part, use_reentrant=False) for part in slices]).sum()


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
    r_drop: float = 0.0,
    rows: int | None = None,
) -> Tensor:
    """The summed cross-entropy of ``hidden @ weight.T + bias`` against ``targets``, times ``factor``.

    As ``head_cross_entropy``; weight (V, D), bias (V,). The gradients are made in the forward pass, slice by
    slice, so that the (N, V) logits are never in memory as a whole and are not computed twice. ``rows`` of
    hidden in a slice; None: as many as suit the device.
    """
    if rows is None:
        rows = max(_ROWS, slice_rows(len(weight), weight.device, weight.dtype))
        plain = len(hidden) <= rows and hidden.device.type == "cpu" and not r_drop
        if plain:  # torch's own form needs no more memory
            logits = linear(hidden, weight, bias).float()
            return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum") * factor
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, bias, factor, r_drop, rows)  # type: ignore[no-untyped-call]
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
        r_drop: float,
        rows: int,
    ) -> Tensor:
        wants_gradient = any(ctx.needs_input_grad)
        loss = torch.zeros((), device=hidden.device)
        times = 2 if r_drop else 1  # predictions of each target
        hidden = hidden.reshape(times, len(targets), hidden.size(-1))
        hidden_grad = torch.empty_like(hidden) if wants_gradient else None
        weight_grad: Tensor | None = None
        bias_grad = torch.zeros(len(weight), device=hidden.device) if ctx.needs_input_grad[3] else None
        for start in range(0, len(targets), max(1, rows // times)):
            part = slice(start, start + max(1, rows // times))
            h, t = hidden[:, part].flatten(0, 1), targets[part].repeat(times)  # (rows, D), (rows,)
            logits = linear(h, weight, bias)  # (rows, V)
            log_p = logits.log_softmax(-1, dtype=torch.float32)  # near 1, half precision would lose p - 1
            counts = (t != IGNORE) * (factor / times)  # (rows,)
            column = t.clamp(min=0)[:, None]
            loss -= (log_p.gather(1, column).squeeze(1) * counts).sum()
            if hidden_grad is None:
                continue
            # d loss / d logits = softmax - one-hot, and 0 in the rows that do not count
            divergence = _divergence_slope(log_p) if r_drop else None
            slope = log_p.exp_()
            slope.scatter_add_(1, column, slope.new_full((1, 1), -1.0).expand_as(column))
            if divergence is not None:
                slope.add_(divergence, alpha=times * r_drop)
            slope.mul_(counts[:, None])
            if bias_grad is not None:
                bias_grad += slope.sum(0)
            slope = slope.to(weight.dtype)
            hidden_grad[:, part] = (slope @ weight).view(times, -1, hidden.size(-1))
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
        return hidden_grad.mul_(grad).flatten(0, 1), weight_grad, None, bias_grad, None, None, None


def _divergence_slope(log_p: Tensor) -> Tensor:
    """d D / d logits of (2 N, V); D is half of both KL divergences between the halves."""
    p, difference = log_p.exp().chunk(2), log_p[: len(log_p) // 2] - log_p[len(log_p) // 2 :]  # (N, V)
    slopes = []
    for own, other, sign in ((p[0], p[1], 0.5), (p[1], p[0], -0.5)):
        further = own * difference * sign  # sums to half of the KL divergence
        slopes.append(further - own * further.sum(-1, keepdim=True) + (own - other) / 2)
    return torch.cat(slopes)
