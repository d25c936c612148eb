"""One token at a time through a finished model on a CPU: the model's own numbers with less around them.

Reading the weights is the cost of a token where the model is large, Python and torch's calls where it is
small: about a microsecond each. So queries, keys and values are one product, gate and up another, positions
come from tables, and no module is called. model/gpt.py stays the definition, and the tests compare.

Shapes: B rows, D d_model, H heads, G kv heads, K head_dim, S positions up to now, F d_ff, V vocab.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptscratch.config import ModelConfig
from gptscratch.model.attention import Attention
from gptscratch.model.cache import KVCache
from gptscratch.model.gpt import GPT, Block
from gptscratch.model.mlp import GatedMLP
from gptscratch.model.norm import RMSNorm
from gptscratch.model.position import alibi_slopes, rotary_angles

Map = Callable[[Tensor], Tensor]  # (B, any) -> (B, any)

_LARGE = 1 << 18  # numbers in a matrix that pay for threads and for a kernel with more setting up
_MANY = 12  # rows, from which on oneDNN's products beat MKL's: twice as fast where MKL is not at home


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
    """Steps through a model's cache after the model has read the prompt.

    With ``adopt`` the model's weights become views of the matrices made here: no second copy in memory.
    The model computes as before; it should not be trained any more. Without, a change of the model's
    weights is not seen.
    """

    def __init__(self, model: GPT, *, adopt: bool = False) -> None:
        config = model.config
        self.model = model
        self.heads, self.groups, self.head_dim = config.n_head, config.n_kv_head, config.head_dim
        self.eps = config.norm_eps
        self.embedding = model.token_embedding.weight.detach()
        self.layers = [_layer(block, config, adopt) for block in model.blocks if isinstance(block, Block)]
        self.final_norm = _norm(model.final_norm)
        # An lm_head shared with the embedding keeps the embedding's layout: its rows are looked up.
        tied = model.lm_head.weight is model.token_embedding.weight if _is_plain(model.lm_head) else False
        self.lm_head = _product([model.lm_head], adopt=adopt and not tied)
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


def _layer(block: Block, config: ModelConfig, adopt: bool) -> _Layer:
    attention, mlp = block.attention, block.mlp
    if isinstance(mlp, GatedMLP):
        both = _product([mlp.gate, mlp.up], adopt=adopt)

        def widen(x: Tensor) -> Tensor:
            gate, up = both(x).chunk(2, dim=-1)
            return F.silu(gate).mul_(up)
    else:
        up_only, bend = _product([mlp.up], adopt=adopt), mlp.activation

        def widen(x: Tensor) -> Tensor:
            return bend(up_only(x))

    return _Layer(
        norm_attention=_norm(block.norm_attention),
        qkv=_product([attention.q, attention.k, attention.v], adopt=adopt),
        gain=_gain(attention, config.n_head, config.n_kv_head),
        out=_product([attention.out], adopt=adopt),
        norm_mlp=_norm(block.norm_mlp),
        widen=widen,
        narrow=_product([mlp.down], adopt=adopt),
    )


def _gain(attention: Attention, n_head: int, n_kv_head: int) -> Tensor | None:
    q, k = attention.norm_q, attention.norm_k
    if not isinstance(q, RMSNorm) or not isinstance(k, RMSNorm):
        return None
    return torch.cat((q.weight.detach().expand(n_head, -1), k.weight.detach().expand(n_kv_head, -1)))


def _is_plain(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear)


@torch.no_grad()
def _product(layers: Sequence[nn.Module], *, adopt: bool) -> Map:
    """Several linear layers on one input as one; quantized ones one behind the other."""
    plain = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if len(plain) < len(layers):
        if len(layers) == 1:
            return layers[0].forward
        calls = [layer.forward for layer in layers]
        return lambda x: torch.cat([call(x) for call in calls], dim=-1)
    weight = torch.cat([layer.weight for layer in plain])  # (N, K)
    bias = None if plain[0].bias is None else torch.cat([layer.bias for layer in plain])
    if weight.dtype == torch.float32:
        weight = weight.T.contiguous().T  # read down its columns, a row times a matrix is half as fast again
    if adopt:
        for layer, part in zip(
            plain, torch.split(weight, [layer.out_features for layer in plain]), strict=True
        ):
            layer.weight.data = part
    if weight.dtype != torch.float32:
        return lambda x: F.linear(x, weight, bias)
    return _float32_product(weight.T, bias)


def _float32_product(columns: Tensor, bias: Tensor | None) -> Map:
    """x times a contiguous (K, N), by the kernel that is fastest for the number of rows."""
    n_in, n_out = columns.shape
    large, onednn = columns.numel() >= _LARGE, torch._C._has_mkldnn
    # MKL gives a row times a matrix one thread: each thread gets a share of K.
    shares = torch.get_num_threads() if large and n_in % torch.get_num_threads() == 0 else 1
    parts = columns.view(shares, n_in // shares, n_out)

    def product(x: Tensor) -> Tensor:
        rows = x.size(0)
        if rows == 1 and shares > 1:
            y = torch.bmm(x.view(shares, 1, -1), parts).sum(0)  # (1, N)
            return y if bias is None else y.add_(bias)
        if onednn and rows > 1 and (large or rows >= _MANY):
            wide: Tensor = torch.ops.mkldnn._linear_pointwise(x, columns.T, bias, "none", [], "")
            return wide
        return torch.mm(x, columns) if bias is None else torch.addmm(bias, x, columns)

    return product


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
