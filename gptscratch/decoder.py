"""One token at a time through a finished model on a CPU: the model's own numbers with less around them.

Reading the weights is the cost of a token where the model is large, Python and torch's calls where it is
small: about a microsecond each. So products are joined and weights packed (packing.py), positions come from
tables, and few modules are called. model/gpt.py stays the definition, and the tests compare.

Shapes: B rows, D d_model, H heads, G kv heads, K head_dim, S positions up to now, F d_ff, V vocab.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptscratch.config import ModelConfig
from gptscratch.model.attention import Attention
from gptscratch.model.cache import KVCache
from gptscratch.model.gpt import GPT, Block
from gptscratch.model.mlp import MLP, GatedMLP
from gptscratch.model.norm import RMSNorm
from gptscratch.model.position import alibi_slopes, rotary_angles
from gptscratch.packing import JoinedAttention, JoinedGatedMLP, packed

Map = Callable[[Tensor], Tensor]  # (B, any) -> (B, any)


@dataclass(frozen=True)
class _Layer:
    norm_attention: Map
    qkv: Map  # (B, D) -> (B, (H + 2 G) K)
    gain: Tensor | None  # (H + G, K): the weights of the norms on queries and keys
    out: Map
    norm_mlp: Map
    widen: Map  # (B, D) -> (B, F)
    narrow: Map


class Decoder:
    """Steps through a model's cache after ``model``, a packed twin of the one given, has read the prompt.

    A later change of the weights given is not seen.
    """

    def __init__(self, model: GPT) -> None:
        self.model = model = packed(model)
        config = model.config
        self.heads, self.groups, self.head_dim = config.n_head, config.n_kv_head, config.head_dim
        self.eps = config.norm_eps
        self.embedding = model.token_embedding.weight.detach()
        self.layers = [_layer(block, config) for block in model.blocks if isinstance(block, Block)]
        self.final_norm = _norm(model.final_norm)
        self.lm_head = _product(model.lm_head)
        self.tables = _Tables(model)

    @staticmethod
    def supports(model: GPT) -> bool:
        """Whether it pays here: a CPU, and nothing that only the modules know."""
        parameter = model.token_embedding.weight
        return parameter.device.type == "cpu" and not model.training and not torch.is_autocast_enabled("cpu")

    def step(self, token_ids: Tensor, cache: KVCache) -> Tensor:
        """(B,) ids, appended to a cache without pads -> (B, V) logits of what follows."""
        layers, position = cache.layers(1), cache.length
        x = F.embedding(token_ids, self.embedding)  # (B, D)
        added, cos, sin, bias = self.tables.at(position)
        if added is not None:
            x = x + added
        rows, heads, both = x.size(0), self.heads, self.heads + self.groups
        for layer, (keys, values, _) in zip(self.layers, layers, strict=True):
            qkv = layer.qkv(layer.norm_attention(x)).view(rows, -1, self.head_dim)  # (B, H + 2 G, K)
            qk = qkv[:, :both]
            if layer.gain is not None:
                qk = _heads_normalised(qk, self.eps) * layer.gain
            if cos is not None and sin is not None:
                qk = torch.addcmul(qk * cos, qk.roll(self.head_dim // 2, -1), sin)
            keys.select(2, position).copy_(qk[:, heads:])
            values.select(2, position).copy_(qkv[:, both:])
            # The heads of a group ask the same keys: they stand as if they were several positions.
            q = qk[:, :heads].view(rows, self.groups, -1, self.head_dim)  # (B, G, H / G, K)
            k, v = keys.narrow(2, 0, position + 1), values.narrow(2, 0, position + 1)  # (B, G, S, K)
            x = x + layer.out(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).reshape(rows, -1))
            x = x + layer.narrow(layer.widen(layer.norm_mlp(x)))
        cache.advance(1)
        return self.lm_head(self.final_norm(x))


class _Tables:
    """All that depends on the position alone, made once for each position of the context."""

    def __init__(self, model: GPT) -> None:
        config, dtype = model.config, model.token_embedding.weight.dtype
        count = config.context_length
        positions = torch.arange(count)[None]  # (1, S)
        self.added: Tensor | None = None  # (S, D)
        self.cos: Tensor | None = None  # (S, K)
        self.sin: Tensor | None = None  # (S, K), the minus of the first half with it
        self.bias: Tensor | None = None  # (G, H / G, S), for a query at the last position
        if model.position_embedding is not None:
            self.added = model.position_embedding(positions)[0].to(dtype)
        if config.position == "rope":
            angles = rotary_angles(positions.float(), config.head_dim, config.rope_theta)[0]  # (S, K/2)
            cos, sin = angles.cos(), angles.sin()
            self.cos = torch.cat((cos, cos), dim=-1).to(dtype)
            self.sin = torch.cat((-sin, sin), dim=-1).to(dtype)
        if config.position == "alibi":
            distance = torch.arange(count - 1, -1, -1)  # (S,)
            slopes = alibi_slopes(config.n_head)[:, None]  # (H, 1)
            self.bias = (-slopes * distance).to(dtype).view(config.n_kv_head, -1, count)
        self.count = count

    def at(self, position: int) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        added = None if self.added is None else self.added[position]
        bias = None if self.bias is None else self.bias[None, :, :, self.count - 1 - position :]
        if self.cos is None or self.sin is None:
            return added, None, None, bias
        return added, self.cos[position], self.sin[position], bias


def _layer(block: Block, config: ModelConfig) -> _Layer:
    attention, mlp = block.attention, block.mlp
    return _Layer(
        norm_attention=_norm(block.norm_attention),
        qkv=_product(attention.qkv) if isinstance(attention, JoinedAttention) else _one_by_one(attention),
        gain=_gain(attention, config.n_head, config.n_kv_head),
        out=_product(attention.out),
        norm_mlp=_norm(block.norm_mlp),
        widen=_gated(mlp) if isinstance(mlp, GatedMLP) else _bent(mlp),
        narrow=_product(mlp.down),
    )


def _one_by_one(attention: Attention) -> Map:
    return lambda x: torch.cat(attention.project(x), dim=-1)


def _gated(mlp: GatedMLP) -> Map:
    both = _product(mlp.gate_up) if isinstance(mlp, JoinedGatedMLP) else None

    def widen(x: Tensor) -> Tensor:
        gate, up = mlp.project(x) if both is None else both(x).chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    return widen


def _bent(mlp: MLP) -> Map:
    up, bend = _product(mlp.up), mlp.activation
    return lambda x: bend(up(x))


def _gain(attention: Attention, n_head: int, n_kv_head: int) -> Tensor | None:
    q, k = attention.norm_q, attention.norm_k
    if not isinstance(q, RMSNorm) or not isinstance(k, RMSNorm):
        return None
    return torch.cat((q.weight.detach().expand(n_head, -1), k.weight.detach().expand(n_kv_head, -1)))


def _product(layer: nn.Module) -> Map:
    if type(layer) is not nn.Linear or layer.weight.dtype != torch.float32:
        return layer.forward
    # Read down its columns, a row times a small matrix takes a fifth less time.
    columns, bias = layer.weight.detach().T.contiguous(), layer.bias
    return lambda x: torch.mm(x, columns) if bias is None else torch.addmm(bias, x, columns)


def _norm(norm: nn.Module) -> Map:
    if not isinstance(norm, RMSNorm):
        return norm.forward
    weight, eps, width = norm.weight.detach(), norm.eps, norm.weight.size(0)
    zero = torch.zeros_like(weight)

    def normalised(x: Tensor) -> Tensor:
        if x.size(0) > 1 or x.dtype != torch.float32:
            return F.rms_norm(x, (width,), weight, eps)
        square = torch.dot(x[0], x[0]).item()  # torch's kernel is six calls inside
        return torch.addcmul(zero, x, weight, value=(square / width + eps) ** -0.5)

    return normalised


def _heads_normalised(x: Tensor, eps: float) -> Tensor:
    """RMSNorm of each head of (B, H + G, K), without its weight."""
    rows, width = x.size(0), x.size(-1)
    if rows > 1 or x.dtype != torch.float32:
        return F.rms_norm(x, (width,), None, eps)
    heads = x.view(-1, 1, width)
    square = torch.bmm(heads, heads.mT)  # (H + G, 1, 1)
    return x * square.mul_(1 / width).add_(eps).rsqrt_().view(1, -1, 1)
