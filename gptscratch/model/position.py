"""Where a token stands: learned, sinusoidal, rotary and ALiBi positions.

Learned and sinusoidal vectors are added to the token's embedding, a rotation turns its queries
and keys, ALiBi lowers its attention to what is far away. All take positions and compute the rest
in each forward, so that a checkpoint holds nothing but parameters and RoPE knows no longest text.

Shapes: B batch (1 where all rows agree), T query positions, S key positions, D d_model, H heads,
K head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

Rotate = Callable[[Tensor], Tensor]  # (B, T, H, K) -> (B, T, H, K)


class LearnedPositions(nn.Embedding):
    """One vector per position up to the context length, trained like any other weight (GPT-2)."""

    def forward(self, positions: Tensor) -> Tensor:
        if positions.size(1) > self.num_embeddings:
            raise ValueError(
                f"{positions.size(1)} tokens are more than the {self.num_embeddings} learned positions."
            )
        return super().forward(positions)  # (B, T, D)


class SinusoidalPositions(nn.Module):
    """The fixed waves of Vaswani et al. 2017, on the scale of freshly made token embeddings.

    The paper instead multiplies the embeddings by sqrt(d_model), which brings them to the size of
    the waves. The proportion is what matters under a norm; this way round the embedding stays as
    it is for the lm_head that may share it.
    """

    def __init__(self, d_model: int, amplitude: float) -> None:
        super().__init__()
        self.d_model = d_model
        self.amplitude = amplitude

    def forward(self, positions: Tensor) -> Tensor:
        return self.amplitude * sinusoidal(positions.float(), self.d_model)  # (B, T, D)


Added = LearnedPositions | SinusoidalPositions

# (context_length, d_model, deviation of a fresh embedding) -> what is added to the tokens' embeddings
ADDED: Mapping[str, Callable[[int, int, float], Added]] = MappingProxyType(
    {
        "learned": lambda context_length, d_model, _: LearnedPositions(context_length, d_model),
        "sinusoidal": lambda _, d_model, deviation: SinusoidalPositions(d_model, deviation),
    }
)


class Rotary(nn.Module):
    """Rotary positions: RoPE (Su et al. 2021, arXiv:2104.09864), half-split as in Llama and Qwen3."""

    def __init__(self, head_dim: int, theta: float, *, reference: bool = False) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.theta = theta
        self.rotation = _equation_of if reference else _fused_rotation_of

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotate:
        """What turns queries and keys at these positions (B, T); made once, used by every layer."""
        # bfloat16 cannot count past 256: angles need float32 whatever the model runs in.
        positions = positions.to(torch.promote_types(dtype, torch.float32))
        return self.rotation(rotary_angles(positions, self.head_dim, self.theta), dtype)


class Alibi(nn.Module):
    """Attention falls off with distance, by another slope per head (Press et al. 2021, arXiv:2108.12409)."""

    def __init__(self, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head

    def forward(self, queries: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor:
        """The bias on the scores, from the positions of queries (B, T) and keys (B, S)."""
        slopes = alibi_slopes(self.n_head, device=keys.device)[:, None, None]  # (H, 1, 1)
        distance = queries[:, None, :, None] - keys[:, None, None, :]  # (B, 1, T, S)
        return (-slopes * distance).to(dtype)  # (B, H, T, S)


def sinusoidal(positions: Tensor, d_model: int) -> Tensor:
    """PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos(the same): interleaved as in the paper.

    Floating-point positions (B, T) -> (B, T, D) of their dtype.
    """
    even = torch.arange(0, d_model, 2, device=positions.device, dtype=positions.dtype)  # (D/2,)
    angles = positions[..., None] / 10_000.0 ** (even / d_model)  # (B, T, D/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)  # (B, T, D)


def rotary_angles(positions: Tensor, head_dim: int, theta: float) -> Tensor:
    """p · theta^(-2i/K) for each pair i. Floating-point positions (B, T) -> (B, T, K/2)."""
    even = torch.arange(0, head_dim, 2, device=positions.device, dtype=positions.dtype)  # (K/2,)
    # The reciprocal of the power, not the negative power: at position 1000 the last bit is seen.
    frequencies = 1.0 / theta ** (even / head_dim)  # (K/2,)
    return positions[..., None] * frequencies  # (B, T, K/2)


def rotary(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + K/2}) by their angles. x (B, T, H, K), angles (B, T, K/2)."""
    cos, sin = angles[:, :, None].cos(), angles[:, :, None].sin()  # (B, T, 1, K/2)
    first, second = x.chunk(2, dim=-1)  # (B, T, H, K/2)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat(turned, dim=-1)  # (B, T, H, K)


def alibi_slopes(n_head: int, *, device: torch.device | None = None) -> Tensor:
    """2^(-8 i/H) for i = 1..H, a power of two; other H add every second slope of the next power. (H,)"""
    power = 1 << (n_head.bit_length() - 1)  # the largest power of two up to H
    whole = torch.arange(1, power + 1, device=device) / power
    between = (1 + 2 * torch.arange(n_head - power, device=device)) / (2 * power)
    return torch.exp2(-8.0 * torch.cat((whole, between)))


def _fused_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same turn in three kernels: ``sin`` carries the minus of the first half. Both (B, T, 1, K)."""
    swapped = x.roll(x.size(-1) // 2, dims=-1)  # (B, T, H, K): second half, first half
    return torch.addcmul(x * cos, swapped, sin)


def _fused_rotation_of(angles: Tensor, dtype: torch.dtype) -> Rotate:
    cos, sin = angles.cos(), angles.sin()  # (B, T, K/2)
    cos, sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)  # (B, T, K)
    return partial(_fused_rotary, cos=cos[:, :, None].to(dtype), sin=sin[:, :, None].to(dtype))


def _equation_of(angles: Tensor, dtype: torch.dtype) -> Rotate:
    return lambda x: rotary(x, angles).to(dtype)
