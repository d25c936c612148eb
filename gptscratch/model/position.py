"""How a model knows where a token is: learned, sinusoidal, rotary and ALiBi positions, or none.

Learned and sinusoidal vectors are added to the token's embedding, a rotation turns its queries and keys, and
ALiBi lowers its attention to what is far away. All are computed from positions in each forward pass, so that
a checkpoint holds parameters only and RoPE has no longest text.

Shapes: B batch (1 where all rows agree), T query positions, S key positions, D d_model, H heads, K head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gptscratch.config import ModelConfig
from gptscratch.model.layout import Layout

Rotate = Callable[[Tensor], Tensor]  # (B, T, H, K) -> (B, T, H, K)


class Position:
    """Everything in a model that depends on positions: nothing, unless a subclass overrides it."""

    def embed(self, x: Tensor, layout: Layout) -> Tensor:
        """The embeddings (B, T, D) of the tokens, with their positions."""
        del layout
        return x

    def rotation(self, layout: Layout, dtype: torch.dtype) -> Rotate:
        """A function of queries or keys; made once, used by every layer."""
        del layout, dtype
        return lambda x: x

    def bias(self, layout: Layout, dtype: torch.dtype) -> Tensor | None:
        """A mask of visible keys, or numbers added to the scores: (B, H or 1, T, S); None: causal."""
        del dtype
        return layout.visible


class NoPosition(Position, nn.Module):
    """No positions: the order of tokens is visible in the causal mask only."""


class LearnedPositions(Position, nn.Embedding):
    """One vector per position up to the context length, trained like any other weight (GPT-2)."""

    def embed(self, x: Tensor, layout: Layout) -> Tensor:
        if layout.keys.size(1) > self.num_embeddings:
            raise ValueError(
                f"{layout.keys.size(1)} tokens are more than the {self.num_embeddings} learned positions."
            )
        vectors: Tensor = self(layout.queries)  # (B, T, D)
        return x + vectors.to(x.dtype)


class SinusoidalPositions(Position, nn.Module):
    """The fixed waves of Vaswani et al. 2017, as large as freshly initialized token embeddings.

    The paper multiplies the embeddings by sqrt(d_model) instead. The proportion is what counts before a norm,
    and the embedding stays as it is for an lm_head that may share it.
    """

    def __init__(self, amplitude: float) -> None:
        super().__init__()
        self.amplitude = amplitude

    def embed(self, x: Tensor, layout: Layout) -> Tensor:
        return x + (self.amplitude * sinusoidal(layout.queries.float(), x.size(-1))).to(x.dtype)


class Rotary(Position, nn.Module):
    """Rotary positions: RoPE (Su et al. 2021, arXiv:2104.09864), half-split as in Llama and Qwen3."""

    def __init__(self, head_dim: int, theta: float, scaling: Sequence[float] = ()) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.theta = theta
        self.scaling = scaling

    def angles(self, positions: Tensor) -> Tensor:
        """Floating-point positions (B, T) -> (B, T, K/2)."""
        return rotary_angles(positions, self.head_dim, self.theta, self.scaling)

    def rotation(self, layout: Layout, dtype: torch.dtype) -> Rotate:
        # bfloat16 cannot count past 256: angles need float32 whatever the model runs in.
        positions = layout.queries.to(torch.promote_types(dtype, torch.float32))
        angles = self.angles(positions)[:, :, None]  # (B, T, 1, K/2)
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        cos, sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)  # (B, T, 1, K)
        # (x₁ cos - x₂ sin, x₂ cos + x₁ sin): the swapped halves are multiplied by the sines.
        return lambda x: torch.addcmul(x * cos, x.roll(self.head_dim // 2, dims=-1), sin)


class Alibi(Position, nn.Module):
    """Attention decreases with distance, in each head differently (Press et al. 2021, arXiv:2108.12409)."""

    def __init__(self, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head

    def bias(self, layout: Layout, dtype: torch.dtype) -> Tensor:
        slopes = alibi_slopes(self.n_head, device=layout.keys.device)[:, None, None]  # (H, 1, 1)
        distance = layout.queries[:, None, :, None] - layout.keys[:, None, None, :]  # (B, 1, T, S)
        visible = distance >= 0 if layout.visible is None else layout.visible
        return (-slopes * distance).to(dtype).masked_fill(~visible, -math.inf)  # (B, H, T, S)


def build_position(config: ModelConfig, embedding_std: float) -> Position:
    """The positions of a config; ``embedding_std`` is that of freshly initialized token embeddings."""
    match config.position:
        case "learned":
            return LearnedPositions(config.context_length, config.d_model)
        case "sinusoidal":
            return SinusoidalPositions(embedding_std)
        case "rope":
            return Rotary(config.head_dim, config.rope_theta, config.rope_scaling)
        case "alibi":
            return Alibi(config.n_head)
    return NoPosition()


def sinusoidal(positions: Tensor, d_model: int) -> Tensor:
    """PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos(the same): interleaved as in the paper.

    Floating-point positions (B, T) -> (B, T, D) of their dtype.
    """
    even = torch.arange(0, d_model, 2, device=positions.device, dtype=positions.dtype)  # (D/2,)
    angles = positions[..., None] / 10_000.0 ** (even / d_model)  # (B, T, D/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)  # (B, T, D)


def rotary_angles(positions: Tensor, head_dim: int, theta: float, scaling: Sequence[float] = ()) -> Tensor:
    """p · theta^(-2i/K) for each pair i. Floating-point positions (B, T) -> (B, T, K/2).

    ``scaling``: see ``scaled_frequencies``; empty: none.
    """
    even = torch.arange(0, head_dim, 2, device=positions.device, dtype=positions.dtype)  # (K/2,)
    # The reciprocal of the power, not the negative power: at position 1000 the last bit is seen.
    frequencies = 1.0 / theta ** (even / head_dim)  # (K/2,)
    if scaling:
        frequencies = scaled_frequencies(frequencies, *scaling)
    return positions[..., None] * frequencies  # (B, T, K/2)


def scaled_frequencies(
    frequencies: Tensor, factor: float, low: float, high: float, context_length: float
) -> Tensor:
    """The frequencies of Llama 3.1, for a context longer than the original ``context_length``. (K/2,)

    A frequency with at most ``low`` waves in the original context is divided by ``factor``, one with at least
    ``high`` waves is kept, and between them the share that is kept grows evenly (Grattafiori et al. 2024,
    arXiv:2407.21783; the formula is in Llama 3.1's published code).
    """
    waves = context_length * frequencies / (2 * math.pi)
    kept = ((waves - low) / (high - low)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / factor


def alibi_slopes(n_head: int, *, device: torch.device | None = None) -> Tensor:
    """2^(-8 i/H) for i = 1..H, a power of two; other H add every second slope of the next power. (H,)"""
    power = 1 << (n_head.bit_length() - 1)  # the largest power of two up to H
    whole = torch.arange(1, power + 1, device=device) / power
    between = (1 + 2 * torch.arange(n_head - power, device=device)) / (2 * power)
    return torch.exp2(-8.0 * torch.cat((whole, between)))
