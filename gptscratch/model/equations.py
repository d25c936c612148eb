"""The equations that the model computes by fused functions of torch, written out: for readers and tests.

Shapes: ... any leading dimensions, B batch, T query positions, S key positions, H heads, G kv heads,
K head_dim, D the normalized width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from gptscratch.model.attention import Attention
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import Layout


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight, over the last dimension."""
    mean_square = x.square().mean(-1, keepdim=True)  # (..., 1)
    return x / torch.sqrt(mean_square + eps) * weight  # (..., D)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean(x)) / sqrt(var(x) + eps) · weight + bias, over the last dimension."""
    centered = x - x.mean(-1, keepdim=True)  # (..., D)
    variance = centered.square().mean(-1, keepdim=True)  # (..., 1): biased, over D and not D - 1
    normalized = centered / torch.sqrt(variance + eps) * weight  # (..., D)
    return normalized if bias is None else normalized + bias


def gelu(x: Tensor) -> Tensor:
    """x · Φ(x), Φ the normal distribution's integral (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU through tanh: the approximation that GPT-2 was trained with."""
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def relu(x: Tensor) -> Tensor:
    """max(x, 0)"""
    return torch.where(x > 0, x, 0.0)


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)²"""
    return relu(x).square()


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"gelu": gelu, "gelu-tanh": gelu_tanh, "relu": relu, "relu2": relu2}
)


def rotary(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + K/2}) by their angles. x (B, T, H, K), angles (B, T, K/2)."""
    cos, sin = angles[:, :, None].cos(), angles[:, :, None].sin()  # (B, T, 1, K/2)
    first, second = x.chunk(2, dim=-1)  # (B, T, H, K/2)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)  # (B, T, H, K)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ / sqrt(K) + bias) v, and the weights: (B, H, T, K) and (B, H, T, S).

    ``q`` (B, H, T, K); ``k, v`` (B, G, S, K). ``bias``: a bool mask of what is visible or numbers added to
    the scores, of any shape that broadcasts to (B, H, T, S); None: causal, the queries being the last T of S.
    """
    n_query, n_key = q.size(2), k.size(2)
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))  # (B, H, S, K)
    scores = q @ k.mT / math.sqrt(q.size(-1))  # (B, H, T, S)
    if bias is None:
        bias = torch.ones(n_query, n_key, dtype=torch.bool, device=q.device).tril(n_key - n_query)
    scores = scores.masked_fill(~bias, -math.inf) if bias.dtype == torch.bool else scores + bias
    weights = scores.softmax(dim=-1)  # (B, H, T, S)
    return weights @ v, weights


@torch.no_grad()
def attention_weights(model: GPT, token_ids: Tensor, *, layout: Layout | None = None) -> list[Tensor]:
    """How much each token attends to each other, per layer: (B, T) integers -> n_layer of (B, H, T, T)."""
    seen: list[Tensor] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        out, weights = attention(q, k, v, bias)
        seen.append(weights)
        return out

    was_training, parts = model.training, [p for p in model.modules() if isinstance(p, Attention)]
    model.eval()
    try:
        for part in parts:
            part.attend = attend  # type: ignore[method-assign]
        model.hidden(token_ids, layout=layout)
    finally:
        for part in parts:
            del part.attend
        model.train(was_training)
    return seen
