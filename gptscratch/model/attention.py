"""Attention: each token gathers from the tokens that it may see, itself and those before it.

Shapes: B batch, T query positions, S key positions, D d_model, H heads, G kv heads, K head_dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from gptscratch.model.cache import LayerCache
    from gptscratch.model.position import Rotate


class Attention(nn.Module):
    """Causal multi-head attention; with fewer key-value heads than query heads it is grouped (GQA).

    Vaswani et al. 2017 (arXiv:1706.03762); GQA: Ainslie et al. 2023 (arXiv:2305.13245); norms of queries and
    keys: Henry et al. 2020 (arXiv:2010.04245), here learned RMSNorms as in Qwen3.
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
        qk_norm_eps: float | None,
    ) -> None:
        """``qk_norm_eps``: None leaves queries and keys as they are."""
        super().__init__()
        self.head_dim = head_dim
        self.q = nn.Linear(d_model, n_head * head_dim, bias=bias)
        self.k = nn.Linear(d_model, n_kv_head * head_dim, bias=bias)
        self.v = nn.Linear(d_model, n_kv_head * head_dim, bias=bias)
        self.norm_q = nn.Identity() if qk_norm_eps is None else nn.RMSNorm(head_dim, eps=qk_norm_eps)
        self.norm_k = nn.Identity() if qk_norm_eps is None else nn.RMSNorm(head_dim, eps=qk_norm_eps)
        self.out = nn.Linear(n_head * head_dim, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotate: Rotate, bias: Tensor | None, past: LayerCache | None) -> Tensor:
        q, k, v = (part.view(*x.shape[:2], -1, self.head_dim) for part in self.project(x))
        q = rotate(self.norm_q(q)).transpose(1, 2)  # (B, H, T, K)
        k = rotate(self.norm_k(k)).transpose(1, 2)  # (B, G, T, K)
        v = v.transpose(1, 2)  # (B, G, T, K)
        if past is not None:
            k, v = past.append(k, v)  # (B, G, S, K)
        x = self.attend(q, k, v, bias).transpose(1, 2).flatten(2)  # (B, T, H·K)
        out: Tensor = self.dropout(self.out(x))  # (B, T, D)
        return out

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> (B, T, H·K) queries, (B, T, G·K) keys and values."""
        return self.q(x), self.k(x), self.v(x)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """softmax(q kᵀ / sqrt(K) + bias) v: (B, H, T, K) and (B, G, S, K) -> (B, H, T, K).

        By the fused kernels of Dao et al. 2022 (arXiv:2205.14135) and their relatives, which hold no (T, S)
        weights. ``bias``: a bool mask of what is visible, or numbers added to the scores; None: causal.
        """
        groups = q.size(1) // k.size(1)
        if groups > 1 and needs_repeated_keys(q.device.type, q.dtype, masked=bias is not None):
            k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))  # (B, H, S, K)
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=bias,
            dropout_p=self.dropout.p if self.training else 0.0,
            is_causal=bias is None and q.size(2) > 1,  # one query, the newest, sees all there is
            enable_gqa=q.size(1) != k.size(1),
        )


def needs_repeated_keys(device: str, dtype: torch.dtype, *, masked: bool) -> bool:
    """Whether torch's only kernel for fewer key-value heads is the one that holds all T S weights.

    On CUDA, flash attention has them in half precision and without a mask; the memory-efficient kernel, which
    takes the other cases, does not.
    """
    return device == "cuda" and (masked or dtype == torch.float32)
