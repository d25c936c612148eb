"""Attention: each token gathers from the tokens it may see, itself and those before it.

Shapes: B batch, T query positions, S key positions, D d_model, H heads, G kv heads, K head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptscratch.accelerate import attention as kernels
from gptscratch.accelerate.linear import Linear
from gptscratch.device import has_fast_bfloat16
from gptscratch.model.documents import same_document
from gptscratch.model.dropout import Dropout

if TYPE_CHECKING:
    from gptscratch.model.cache import LayerCache
    from gptscratch.model.position import Alibi, Rotate


class Attention(nn.Module):
    """Causal multi-head attention; fewer key-value heads than query heads make it grouped (GQA).

    Vaswani et al. 2017 (arXiv:1706.03762); GQA: Ainslie et al. 2023 (arXiv:2305.13245); norms on
    queries and keys: Henry et al. 2020 (arXiv:2010.04245), here learned ones as in Qwen3.
    """

    def __init__(
        self,
        d_model: int,
        n_head: int,
        *,
        n_kv_head: int,
        head_dim: int,
        bias: bool,
        dropout: float,
        norm_q: nn.Module,
        norm_k: nn.Module,
        reference: bool = False,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q = Linear(d_model, n_head * head_dim, bias=bias)
        self.k = Linear(d_model, n_kv_head * head_dim, bias=bias)
        self.v = Linear(d_model, n_kv_head * head_dim, bias=bias)
        self.norm_q = norm_q
        self.norm_k = norm_k
        self.out = Linear(n_head * head_dim, d_model, bias=bias)
        self.dropout = Dropout(dropout)
        self.attend: Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]
        self.attend = _attention_output if reference else _fused_attention

    def forward(
        self, x: Tensor, rotary: Rotate | None, bias: Tensor | None, cache: LayerCache | None
    ) -> Tensor:
        q, k, v = (part.view(*part.shape[:2], -1, self.head_dim) for part in self.project(x))
        q, k = self.norm_q(q), self.norm_k(k)  # (B, T, H, K), (B, T, G, K), as is v
        if rotary is not None:
            q, k = rotary(q), rotary(k)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H or G, T, K)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, G, S, K)
        x = self.attend(q, k, v, bias, self.dropout.p if self.training else 0.0)  # (B, H, T, K)
        x = x.transpose(1, 2).flatten(2)  # (B, T, H·K)
        out: Tensor = self.dropout(self.out(x))  # (B, T, D)
        return out

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> (B, T, H·K) queries, (B, T, G·K) keys and values."""
        return self.q(x), self.k(x), self.v(x)


def attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ / sqrt(K) + bias) v, and the weights: (B, H, T, K) and (B, H, T, S).

    ``q`` (B, H, T, K); ``k, v`` (B, G, S, K). ``bias``: a bool mask of what is visible or numbers
    added to the scores, of any shape that broadcasts to (B, H, T, S); None: causal, the queries
    being the last T of the S positions.
    """
    n_query, n_key = q.size(2), k.size(2)
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))  # (B, H, S, K)
    scores = q @ k.mT / math.sqrt(q.size(-1))  # (B, H, T, S)
    if bias is None:
        bias = torch.ones(n_query, n_key, dtype=torch.bool, device=q.device).tril(n_key - n_query)
    scores = scores.masked_fill(~bias, -math.inf) if bias.dtype == torch.bool else scores + bias
    weights = scores.softmax(dim=-1)  # (B, H, T, S)
    return F.dropout(weights, dropout) @ v, weights


def attention_bias(
    positions: Tensor,
    n_query: int,
    *,
    real: Tensor | None,
    documents: Tensor | None,
    alibi: Alibi | None,
    dtype: torch.dtype,
) -> Tensor | None:
    """Who sees whom, for all layers at once: the one place that decides it.

    ``positions`` (B or 1, S) of all keys, the last ``n_query`` of which ask; ``real`` (B, S) marks
    what is no padding; ``documents`` (B, S) numbers what may see one another. None means plainly
    causal, which the kernels know by themselves.
    """
    n_past = positions.size(1) - n_query
    if real is None and documents is None and alibi is None and (n_past == 0 or n_query == 1):
        return None
    key = torch.arange(positions.size(1), device=positions.device)  # (S,)
    query = key[n_past:, None]  # (T, 1)
    visible = (key <= query)[None, None]  # (1, 1, T, S)
    if real is not None:
        # A pad sees itself: a softmax over nothing would be NaN, and spread through 0 · NaN.
        visible = visible & (real[:, None, None, :] | (key == query))  # (B, 1, T, S)
    if documents is not None:
        visible = visible & same_document(documents)  # (B, 1, T, T)
    if alibi is None:
        return visible
    falloff: Tensor = alibi(positions[:, n_past:], positions, dtype)  # (B, H, T, S)
    return falloff.masked_fill(~visible, -math.inf)


def lacks_groups(device: str, dtype: torch.dtype, *, masked: bool) -> bool:
    """Whether torch's only kernel for fewer key-value heads is the one that holds all T S weights.

    On CUDA flash attention has them, in half precision and without a mask; the memory-efficient kernel, which
    takes the other cases, has not.
    """
    return device == "cuda" and (masked or dtype == torch.float32)


def _attention_output(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    return attention(q, k, v, bias, dropout)[0]


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """The kernel of Dao et al. 2022 (arXiv:2205.14135) and its relatives: no (T, S) weights in memory."""
    if takes_products(q, k, bias, dropout):
        return kernels.causal_attention(q, k, v, bias, dropout)
    groups = q.size(1) // k.size(1)
    if groups > 1 and lacks_groups(q.device.type, q.dtype, masked=bias is not None):
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))  # (B, H, S, K)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=bias,
        dropout_p=dropout,
        is_causal=bias is None and q.size(2) > 1,  # one query, the newest, sees all there is
        enable_gqa=q.size(1) != k.size(1),
    )


def takes_products(q: Tensor, k: Tensor, bias: Tensor | None, dropout: float) -> bool:
    """Whether ``kernels.causal_attention`` is the faster way."""
    fits = q.shape == k.shape and (bias is None or bias.dtype == torch.bool)
    if not fits or not kernels.apply_to(q):
        return False
    return has_fast_bfloat16(q.device) if q.dtype == torch.bfloat16 else dropout > 0.0
