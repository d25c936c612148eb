"""Forward and backward passes for training on a CPU, where those of torch are slow.

They compute what model/equations.py says with fewer passes over memory; tests/benchmarks/fast_paths.py
measures which of them pays. Shapes: ... any leading dimensions, B batch, H heads, T positions,
K head_dim, D the normalized width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_LEVELS = 1 << 16  # of a random number of 16 bits
_BLOCK = 128  # queries at a time: keys after a block are never read


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ``F.rms_norm``; torch differentiates its own kernel in a dozen separate passes."""
    y: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return y


def dropout(x: Tensor, p: float) -> Tensor:
    """As ``torch.nn.functional.dropout``, whose random numbers take longer than all else in it."""
    keep, scale = keep_mask(x.shape, p)
    return x * keep.to(x.dtype).mul_(scale)


def keep_mask(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """The dropout mask, True with probability 1 - p, and the factor for the values that are kept.

    Four elements share one random number of 64 bits, so p is rounded to a multiple of 2⁻¹⁶.
    """
    count = shape.numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = min(round(p * _LEVELS), _LEVELS - 1)
    keep = words.view(torch.int16)[:count].view(shape) >= dropped - _LEVELS // 2
    return keep, _LEVELS / (_LEVELS - dropped)


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q kᵀ / sqrt(K)) v, causal, all (B, H, T, K): matrix products over blocks of queries.

    ``visible`` (B or 1, 1, T, T), where given, is a bool mask that shows nothing later than the query.
    Where bfloat16 products are fast it beats torch's flash kernel, whose products are not of that type on a
    CPU; with dropout torch has none. The weights are kept for the backward pass: B H T² / 2 numbers.
    """
    out: Tensor = _CausalAttention.apply(q, k, v, visible, dropout)  # type: ignore[no-untyped-call]
    return out


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)  # (..., 1)
        scale = norm.square_().div_(x.size(-1)).add_(eps).rsqrt_().to(x.dtype)
        normalized = x * scale  # (..., D)
        ctx.save_for_backward(normalized, weight, scale)
        out: Tensor = normalized * weight
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """dx = scale (g w - n mean(g w n)), dw = sum(g n), n being the normalized x."""
        normalized, weight, scale = ctx.saved_tensors
        width = grad.size(-1)
        product = grad * normalized  # (..., D)
        weight_grad = product.reshape(-1, width).sum(0)  # (D,)
        mean = (product @ weight).div_(-width)[..., None]  # (..., 1)
        x_grad = (grad * weight).addcmul_(normalized, mean).mul_(scale)  # (..., D)
        return x_grad, weight_grad, None


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float) -> Tensor:
        ctx.shape, ctx.scale = q.shape, 1.0
        unseen = None if visible is None else ~visible
        scale = 1 / math.sqrt(q.size(-1))
        q, k, v = ((q * scale).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))  # (B H, T, K)
        out = torch.empty_like(q)
        every_weight, every_keep = [], []
        for start in range(0, q.size(1), _BLOCK):
            end = min(start + _BLOCK, q.size(1))
            scores = torch.bmm(q[:, start:end], k[:, :end].mT)  # (B H, block, end)
            _hide(scores, start, ctx.shape[:2], unseen)
            weights = scores.softmax(dim=-1)
            every_weight.append(weights)
            if dropout:
                keep, ctx.scale = keep_mask(weights.shape, dropout)
                weights = weights * keep
                every_keep.append(keep)
            torch.bmm(weights, v[:, :end], out=out[:, start:end])
        ctx.save_for_backward(q, k, v, *every_weight, *every_keep)
        return (out.mul_(ctx.scale) if dropout else out).view(ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        starts = range(0, q.size(1), _BLOCK)
        every_weight, every_keep = saved[: len(starts)], saved[len(starts) :]
        grad = grad.flatten(0, 1)  # (B H, T, K)
        if every_keep:
            grad = grad * ctx.scale
        q_grad, k_grad, v_grad = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for i, (start, weights) in enumerate(zip(starts, every_weight, strict=True)):
            end = start + weights.size(1)
            g = grad[:, start:end]
            kept = weights * every_keep[i] if every_keep else weights
            v_grad[:, :end] += torch.bmm(kept.mT, g)
            weights_grad = torch.bmm(g, v[:, :end].mT)
            if every_keep:
                weights_grad *= every_keep[i]
            scores_grad = _softmax_backward(weights_grad, weights)
            torch.bmm(scores_grad, k[:, :end], out=q_grad[:, start:end])
            k_grad[:, :end] += torch.bmm(scores_grad.mT, q[:, start:end])
        q_grad *= 1 / math.sqrt(q.size(-1))
        return q_grad.view(ctx.shape), k_grad.view(ctx.shape), v_grad.view(ctx.shape), None, None


def _softmax_backward(grad: Tensor, weights: Tensor) -> Tensor:
    """w (g - sum(g w)), in one pass where torch has its private function."""
    if hasattr(torch, "_softmax_backward_data"):
        return torch._softmax_backward_data(grad, weights, -1, weights.dtype)
    return weights * (grad - (grad * weights).sum(-1, keepdim=True))


def _hide(scores: Tensor, start: int, heads: tuple[int, int], unseen: Tensor | None) -> None:
    """Put -inf on what the queries from ``start`` on do not see; scores (B H, block, S), heads (B, H)."""
    block, end = scores.shape[1:]
    if unseen is None:
        later = torch.ones(block, block, dtype=torch.bool, device=scores.device).triu_(1)
        scores[:, :, start:].masked_fill_(later, -math.inf)
    else:
        scores.view(*heads, block, end).masked_fill_(unseen[:, :, start:end, :end], -math.inf)
