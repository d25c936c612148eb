"""One token at a time through a finished model on a CPU: the model's own numbers with less around them.

Reading the weights is the cost of a token where the model is large, Python and torch's calls where it is
small: about a microsecond each. So products are joined and weights packed (packing.py), what depends on the
position alone comes from tables, and a norm before a small product or a sum behind it is part of it.
model/gpt.py stays the definition, and the tests compare.

Shapes: L layers, B rows, D d_model, H heads, G kv heads, K head_dim, S positions held, F d_ff, V vocab.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptscratch.accelerate.position_tables import PositionTables
from gptscratch.accelerate.row_products import Add, Map, add, read
from gptscratch.accelerate.weight_packing import JoinedAttention, JoinedGatedMLP, packed
from gptscratch.model.attention import Attention
from gptscratch.model.cache import KVCache
from gptscratch.model.gpt import GPT, Block
from gptscratch.model.mlp import MLP, GatedMLP


@dataclass(frozen=True)
class _Layer:
    qkv: Map  # (B, D) -> (B, (H + 2 G) K), the norm before it included
    out: Add
    widen: Map  # (B, D) -> (B, F), the same
    narrow: Add


class Decoder:
    """Steps through a model's cache after ``model``, a packed twin of the one given, has read the prompt.

    A later change of the weights given is not seen.
    """

    def __init__(self, model: GPT) -> None:
        self.model = model = packed(model)
        config = model.config
        self.heads, self.groups, self.head_dim = config.n_head, config.n_kv_head, config.head_dim
        self.normalises = config.qk_norm
        self.embedding = model.token_embedding.weight.detach()
        blocks = [block for block in model.blocks if isinstance(block, Block)]
        self.layers = [_layer(block) for block in blocks]
        self.lm_head = read(model.final_norm, model.lm_head)
        self.tables = PositionTables(model, [block.attention for block in blocks])
        self.eps = torch.full((1, 1, 1), config.norm_eps)

    @staticmethod
    def supports(model: GPT) -> bool:
        """Whether it pays here: a CPU, and nothing that only the modules know."""
        parameter = model.token_embedding.weight
        return parameter.device.type == "cpu" and not model.training and not torch.is_autocast_enabled("cpu")

    def step(self, token_ids: Tensor, cache: KVCache) -> Tensor:
        """(B,) ids, appended to a cache without pads -> (B, V) logits of what follows."""
        place, held = cache.place(1)
        new_keys, new_values = (x.select(3, place).unbind() for x in (cache.keys, cache.values))
        keys, values = (x.narrow(3, 0, held).flatten(1, 2).unbind() for x in (cache.keys, cache.values))
        added, scales, sines, bias = self.tables.at(cache.length)
        x = F.embedding(token_ids, self.embedding)  # (B, D)
        if added is not None:
            x = x + added
        rows, heads, both = x.size(0), self.heads, self.heads + self.groups
        for at, layer in enumerate(self.layers):
            qkv = layer.qkv(x).view(rows, -1, self.head_dim)  # (B, H + 2 G, K)
            qk = self._turned(qkv[:, :both], scales[at], sines[at])
            new_keys[at].copy_(qk[:, heads:])
            new_values[at].copy_(qkv[:, both:])
            # The heads of a group ask the same keys: they stand as if they were several positions.
            q = qk[:, :heads].reshape(rows * self.groups, -1, self.head_dim)  # (B G, H / G, K)
            x = layer.out(x, self._attended(q, keys[at], values[at], bias).view(rows, -1))
            x = layer.narrow(x, layer.widen(x))
        cache.advance(1)
        return self.lm_head(x)

    def _turned(self, qk: Tensor, scale: Tensor, sine: Tensor | None) -> Tensor:
        """(B, H + G, K) queries and keys, normalised, scaled and rotated."""
        turned = qk * scale
        if sine is not None:
            turned = torch.addcmul(turned, qk.roll(self.head_dim // 2, -1), sine)
        if not self.normalises:
            return turned
        heads = qk.reshape(-1, 1, self.head_dim).float()  # torch's own norm is six calls inside
        mean_square = torch.baddbmm(self.eps, heads, heads.mT, alpha=1 / self.head_dim)  # (B (H + G), 1, 1)
        return turned.mul_(mean_square.rsqrt_().view(qk.size(0), -1, 1))

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """(B G, H / G, K) scaled queries, (B G, S, K) keys and values -> (B G, H / G, K)."""
        if bias is not None:
            bias = bias.repeat(q.size(0) // self.groups, 1, 1)  # (B G, H / G, S)
        if q.dtype != torch.float32:  # whose scores need more digits than it has
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        scores = torch.bmm(q, k.mT) if bias is None else torch.baddbmm(bias, q, k.mT)
        return torch.bmm(scores.softmax(-1), v)


def _layer(block: Block) -> _Layer:
    attention, mlp = block.attention, block.mlp
    qkv = attention.qkv if isinstance(attention, JoinedAttention) else _OneByOne(attention)
    return _Layer(
        qkv=read(block.norm_attention, qkv),
        out=add(attention.out),
        widen=_gated(block.norm_mlp, mlp) if isinstance(mlp, GatedMLP) else _bent(block.norm_mlp, mlp),
        narrow=add(mlp.down),
    )


def _gated(norm: nn.Module, mlp: GatedMLP) -> Map:
    both = read(norm, mlp.gate_up if isinstance(mlp, JoinedGatedMLP) else _OneByOne(mlp))

    def widen(x: Tensor) -> Tensor:
        gate, up = both(x).chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    return widen


def _bent(norm: nn.Module, mlp: MLP) -> Map:
    up, bend = read(norm, mlp.up), mlp.activation
    return lambda x: bend(up(x))


class _OneByOne(nn.Module):
    """The products of layers that could not be joined, one behind the other."""

    def __init__(self, parts: Attention | GatedMLP) -> None:
        super().__init__()
        self.parts = parts
        self.training = parts.training

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.parts.project(x), dim=-1)
