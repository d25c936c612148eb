"""What depends on the position alone in one step of the decoder, made once for each position of the context.

Shapes: L layers, H heads, G kv heads, K head_dim, S positions, D d_model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gptscratch.model.attention import Attention
from gptscratch.model.gpt import GPT
from gptscratch.model.norm import RMSNorm
from gptscratch.model.position import alibi_slopes, rotary_angles


class AtPosition(NamedTuple):
    """What one position asks for.

    Queries and keys times the scale, and their other halves times the sine: that is their rotation, the
    weights of their norms, and for queries the 1 / sqrt(K) of attention, in one.
    """

    added: Tensor | None  # (D,), to the embedding
    scales: Sequence[Tensor]  # of each layer, (H + G, K)
    sines: Sequence[Tensor | None]
    bias: Tensor | None  # (G, H / G, S), on the scores


class PositionTables:
    """``at`` gives a position's part; rotary positions may lie past the context."""

    def __init__(self, model: GPT, attentions: Sequence[Attention]) -> None:
        config, dtype = model.config, model.token_embedding.weight.dtype
        self.count = config.context_length
        positions = torch.arange(self.count)[None]  # (1, S)
        self.added: Tensor | None = None  # (S, D)
        self.bias: Tensor | None = None  # (G, H / G, S), for a query at the last position
        if model.position_embedding is not None:
            self.added = model.position_embedding(positions)[0].to(dtype)
        if config.position == "alibi":
            distance = torch.arange(self.count - 1, -1, -1)  # (S,)
            slopes = alibi_slopes(config.n_head)[:, None]  # (H, 1)
            self.bias = (-slopes * distance).to(dtype).view(config.n_kv_head, -1, self.count)
        self.gains = _gains(attentions, config.n_head, config.n_kv_head).to(dtype)
        self.rolled = self.gains.roll(config.head_dim // 2, -1)
        self.dtype, self.head_dim, self.theta = dtype, config.head_dim, config.rope_theta
        self.rows = self.gains.unbind()
        self.waves = self._waves(positions[0]) if config.position == "rope" else None  # (S, K) twice

    def at(self, position: int) -> AtPosition:
        added = None if self.added is None else self.added[position]
        bias = None if self.bias is None else self.bias[:, :, self.count - 1 - position :]
        if self.waves is None:
            return AtPosition(added, self.rows, [None] * len(self.rows), bias)
        known = position < self.count
        waves = self.waves if known else self._waves(torch.tensor([position]))
        cos, sin = (wave[position if known else 0] for wave in waves)  # (K,)
        return AtPosition(added, (self.gains * cos).unbind(), (self.rolled * sin).unbind(), bias)

    def _waves(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(S,) -> cosines and sines, (S, K): the minus of the first half is with the sines."""
        angles = rotary_angles(positions.float()[None], self.head_dim, self.theta)[0]  # (S, K/2)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), dim=-1).to(self.dtype), torch.cat((-sin, sin), dim=-1).to(self.dtype)


def _gains(attentions: Sequence[Attention], n_head: int, n_kv_head: int) -> Tensor:
    """(L, H + G, K)"""

    def weights(norm: nn.Module, heads: int, width: int) -> Tensor:
        weight = norm.weight.detach().float() if isinstance(norm, RMSNorm) else torch.ones(width)
        return weight.expand(heads, width)

    def of(attention: Attention) -> Tensor:
        width = attention.head_dim
        q = weights(attention.norm_q, n_head, width) / math.sqrt(width)
        return torch.cat((q, weights(attention.norm_k, n_kv_head, width)))

    return torch.stack([of(attention) for attention in attentions])
