"""One token at a time through a finished model on a CPU: the same results with fewer and larger operations.

Reading the weights is the cost of a token where the model is large, Python and torch's calls (a microsecond
each) where it is small. So products are joined and weights packed (weight_packing.py), the rotation and the
norms of queries and keys are one product, and a norm or a sum is part of the product next to it
(row_products.py).
model/gpt.py stays the definition, and the tests compare.

Shapes: L layers, B rows, D d_model, H heads, G kv heads, K head_dim, S positions held, F d_ff, V vocab.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptscratch.accelerate.quantization import quantize as quantize_weights
from gptscratch.accelerate.row_products import Residual, RowFunction, linear_residual, norm_linear
from gptscratch.accelerate.weight_packing import JoinedAttention, JoinedGatedMLP, join, pack, shared_copy
from gptscratch.model.attention import Attention
from gptscratch.model.cache import KVCache
from gptscratch.model.gpt import GPT, Block
from gptscratch.model.layout import Layout, causal_layout
from gptscratch.model.lora import has_adapters
from gptscratch.model.mlp import MLP, GatedMLP
from gptscratch.model.position import Rotary


def accelerate_decoding(model: GPT, *, quantize: str | None = None, rows: int = 1) -> DecodeStep | None:
    """Make a model, in place, as fast as it can be on a CPU; it cannot be trained any more.

    Args:
        quantize: float16, int8 or int4 weights.
        rows: how many sequences are decoded together, usually.

    Returns:
        What continues the model's cache by one token at a time; None where the model itself does it best.

    Raises:
        ConfigError: the name is unknown, the model is not on a CPU, or this torch has no such kernels.
    """
    if quantize is not None:
        quantize_weights(model, quantize)
    if not _is_supported(model):
        return None
    join(model)
    pack(model, rows=rows)
    return DecodeStep(model)


def decoding_step(model: GPT, *, rows: int = 1) -> DecodeStep | None:
    """As ``accelerate_decoding``, for a model that stays as it is. Later changes of weights are not seen."""
    return accelerate_decoding(shared_copy(model), rows=rows) if _is_supported(model) else None


def _is_supported(model: GPT) -> bool:
    """Whether the model is on a CPU, in evaluation mode, without autocast and without adapters."""
    on_cpu = model.token_embedding.weight.device.type == "cpu"
    plain = on_cpu and not model.training and not torch.is_autocast_enabled("cpu")
    return plain and not has_adapters(model)


class _Layer(NamedTuple):
    qkv: RowFunction  # (B, D) -> (B, (H + 2 G) K), the norm before it included
    out: Residual
    up: RowFunction  # (B, D) -> (B, F), the norm before it and the activation function included
    down: Residual


class DecodeStep:
    """Steps through a model's cache after ``model``, joined and packed, has read the prompt."""

    def __init__(self, model: GPT) -> None:
        config = model.config
        self.model, self.position = model, model.position_embedding
        self.heads, self.groups, self.head_dim = config.n_head, config.n_kv_head, config.head_dim
        self.normalizes = config.qk_norm
        self.embedding = model.token_embedding.weight.detach()
        blocks = [block for block in model.blocks if isinstance(block, Block)]
        self.layers = [_layer(block) for block in blocks]
        self.lm_head = norm_linear(model.final_norm, model.lm_head)
        self.eps = torch.full((1, 1, 1), config.norm_eps)
        weights = [_norm_weights(block.attention, self.heads, self.groups) for block in blocks]
        self.weights = torch.stack(weights).to(self.embedding.dtype)[:, None]  # (L, 1, H + G, K)
        self.swapped = self.weights.roll(self.head_dim // 2, -1)
        self.unrotated = self.weights.unbind(), [None] * len(blocks)
        self.positions = torch.arange(config.context_length)[None]  # (1, S)
        self.cos_sin = self._cos_sin(self.positions[0])  # (S, K) twice
        last, all_ = (Layout(self.positions[:, at:], self.positions, None) for at in (-1, 0))
        nothing = torch.zeros(1, config.context_length, config.d_model, dtype=self.embedding.dtype)
        vectors = self.position.embed(nothing, all_)
        self.vectors = None if vectors is nothing else vectors[0].detach()  # (S, D)
        self.last_bias = self.position.bias(last, self.embedding.dtype)  # (1, H, 1, S), of the last position

    def step(self, token_ids: Tensor, cache: KVCache) -> Tensor:
        """(B,) ids, appended to a cache -> (B, V) logits of the next token."""
        slots, held = cache.next_slots(1)
        new_keys, new_values = (_writers(x, slots) for x in (cache.keys, cache.values))
        keys, values = (x.narrow(3, 0, held).flatten(1, 2).unbind() for x in (cache.keys, cache.values))
        layout = causal_layout(token_ids[:, None], cache) if cache.ragged else None
        at = cache.length if layout is None else layout.queries[:, 0]  # the position, or (B,) positions
        scales, sines = self._rotation(at, known=cache.length < self.positions.size(1))
        x = F.embedding(token_ids, self.embedding)  # (B, D)
        if self.vectors is not None:
            x = x + self.vectors[at]
        rows, heads, both = x.size(0), self.heads, self.heads + self.groups
        bias = self._bias(layout, cache.length, rows)
        for i, layer in enumerate(self.layers):
            qkv = layer.qkv(x).view(rows, -1, self.head_dim)  # (B, H + 2 G, K)
            qk = self._rotate(qkv[:, :both], scales[i], sines[i])
            new_keys[i](qk[:, heads:])
            new_values[i](qkv[:, both:])
            # The heads of a group use the same keys, as several positions of one head would.
            q = qk[:, :heads].reshape(rows * self.groups, -1, self.head_dim)  # (B G, H / G, K)
            x = layer.out(x, _attend(q, keys[i], values[i], bias).view(rows, -1))
            x = layer.down(x, layer.up(x))
        cache.advance(1)
        return self.lm_head(x)

    def _bias(self, layout: Layout | None, length: int, rows: int) -> Tensor | None:
        """(B G, H / G or 1, S), added to the scores; None where all that is held is visible."""
        bias = self.last_bias
        if layout is not None:
            bias = self.position.bias(layout, self.embedding.dtype)  # (B, H or 1, 1, S)
        elif bias is not None:  # only distances count: it is the end of that of the last position
            bias = bias[..., self.positions.size(1) - 1 - length :]
        if bias is None:
            return None
        if bias.dtype == torch.bool:
            bias = torch.zeros_like(bias, dtype=self.embedding.dtype).masked_fill_(~bias, -torch.inf)
        groups = min(self.groups, bias.size(1))
        bias = bias.view(len(bias), groups, -1, bias.size(3))  # (B or 1, G or 1, H / G or 1, S)
        return bias.expand(rows, self.groups, -1, -1).flatten(0, 1)

    def _rotation(self, at: int | Tensor, *, known: bool) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
        """For each layer, what queries and keys are multiplied by, and what their swapped halves are.

        (B or 1, H + G, K) each: that is their rotation, the weights of their norms and, for queries, the
        1 / sqrt(K) of attention in one. ``known``: no position is beyond the context.
        """
        if self.cos_sin is None:
            return self.unrotated
        tables = self.cos_sin if known else self._cos_sin(torch.as_tensor(at).view(-1)) or ()
        cos, sin = ((x[at] if known else x)[..., None, :] for x in tables)  # (B, 1, K) or (1, K)
        return (self.weights * cos).unbind(), (self.swapped * sin).unbind()

    def _cos_sin(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """Positions -> cosines and sines, (..., K); the sines carry the minus of the first half."""
        if not isinstance(self.position, Rotary):
            return None
        angles, dtype = self.position.angles(positions.float()), self.embedding.dtype  # (..., K/2)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)

    def _rotate(self, qk: Tensor, scale: Tensor, sine: Tensor | None) -> Tensor:
        """(B, H + G, K) queries and keys, normalized, scaled and rotated."""
        rotated = qk * scale
        if sine is not None:
            rotated = torch.addcmul(rotated, qk.roll(self.head_dim // 2, -1), sine)
        if not self.normalizes:
            return rotated
        heads = qk.reshape(-1, 1, self.head_dim).float()  # torch's own norm is six calls inside
        mean_square = torch.baddbmm(self.eps, heads, heads.mT, alpha=1 / self.head_dim)  # (B (H + G), 1, 1)
        return rotated.mul_(mean_square.rsqrt_().view(qk.size(0), -1, 1))


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """(B G, H / G, K) scaled queries, (B G, S, K) keys and values -> (B G, H / G, K)."""
    if q.dtype != torch.float32:  # its scores need more digits than it has
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
    scores = torch.bmm(q, k.mT) if bias is None else torch.baddbmm(bias, q, k.mT)
    return torch.bmm(scores.softmax(-1), v)


def _writers(held: Tensor, slots: int | Tensor) -> list[Callable[[Tensor], object]]:
    """For each layer of (L, B, G, max, K), what stores (B, G, K) in one slot, or in one slot per row."""
    if isinstance(slots, int):
        return [layer.copy_ for layer in held.select(3, slots).unbind()]
    groups, length, width = held.shape[2:]
    at = torch.arange(held.size(1) * groups) * length + slots.repeat_interleave(groups)  # (B G,)

    def store(layer: Tensor, new: Tensor) -> None:
        layer.view(-1, width).index_copy_(0, at, new.reshape(-1, width))

    return [partial(store, layer) for layer in held.unbind()]


def _layer(block: Block) -> _Layer:
    attention, mlp = block.attention, block.mlp
    assert isinstance(attention, JoinedAttention)
    return _Layer(
        qkv=norm_linear(block.norm_attention, attention.qkv),
        out=linear_residual(attention.out),
        up=_up(block.norm_mlp, mlp),
        down=linear_residual(mlp.down),
    )


def _up(norm: nn.Module, mlp: MLP | GatedMLP) -> RowFunction:
    if isinstance(mlp, MLP):
        up, activation = norm_linear(norm, mlp.up), mlp.activation
        return lambda x: activation(up(x))
    assert isinstance(mlp, JoinedGatedMLP)
    both = norm_linear(norm, mlp.gate_up)

    def gated(x: Tensor) -> Tensor:
        gate, up = both(x).chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    return gated


def _norm_weights(attention: Attention, n_head: int, n_kv_head: int) -> Tensor:
    """The weights of the norms of queries, with 1 / sqrt(K), and of keys: (H + G, K)."""
    ones = torch.ones(attention.head_dim)
    q, k = (
        norm.weight.detach().float() if isinstance(norm, nn.RMSNorm) else ones
        for norm in (attention.norm_q, attention.norm_k)
    )
    q = q / math.sqrt(attention.head_dim)
    return torch.cat((q.expand(n_head, -1), k.expand(n_kv_head, -1)))
