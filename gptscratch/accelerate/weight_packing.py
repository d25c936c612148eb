"""A finished model made faster on a CPU: fewer products, and weights in the layout that they read.

Queries, keys and values become one product, gate and up another; large matrices are stored in oneDNN's
blocks. The results stay the same up to rounding.
Such a model is not trained any more.

Shapes: ... any leading dimensions, N outputs, K inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gptscratch.accelerate.linear import has_onednn
from gptscratch.device import has_fast_bfloat16
from gptscratch.model.attention import Attention
from gptscratch.model.gpt import GPT
from gptscratch.model.mlp import GatedMLP

LARGE = 1 << 18  # numbers in a matrix above which oneDNN's setting up (10 us) is worth it


def shared_copy(model: GPT) -> GPT:
    """A copy that shares parameters and buffers: its modules can be replaced, the model stays as it is."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


@torch.no_grad()
def join(model: nn.Module) -> None:
    """In place: one product for each set of linear layers that read the same input."""
    for name, part in list(model.named_modules()):
        if isinstance(part, Attention) and not isinstance(part, JoinedAttention):
            replace(model, name, JoinedAttention(part))
        elif isinstance(part, GatedMLP) and not isinstance(part, JoinedGatedMLP):
            replace(model, name, JoinedGatedMLP(part))


def pack(model: nn.Module, *, rows: int = 1, large: int = LARGE) -> None:
    """In place: linear layers of ``large`` numbers or more in oneDNN's layout for ``rows``, if it has one."""
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]:
        if layer.weight.numel() >= large and can_pack(layer.weight.dtype):
            replace(model, name, PackedLinear(layer, rows))


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another, in the mode (training or evaluation) of the one it replaces.

    A new module is always in training mode: without this, dropout would be active in a model that samples.
    """
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module.train(model.get_submodule(name).training))


def can_pack(dtype: torch.dtype) -> bool:
    if not has_onednn("_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and has_fast_bfloat16(torch.device("cpu")))


class PackedLinear(nn.Module):
    """The same weights in oneDNN's blocks: a row times a matrix reads them up to twice as fast.

    Any number of rows can be multiplied. The layout for one row is the fastest for it by a fifth, and slower
    by a third for some rows (float32).
    """

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return y


class JoinedAttention(Attention):
    """Attention whose queries, keys and values are one product."""

    def __init__(self, parts: Attention) -> None:
        nn.Module.__init__(self)
        self.head_dim = parts.head_dim
        self.qkv = _joined((parts.q, parts.k, parts.v))
        self.widths = [parts.q.out_features, parts.k.out_features, parts.v.out_features]
        self.norm_q, self.norm_k = parts.norm_q, parts.norm_k
        self.out, self.dropout = parts.out, parts.dropout

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).split(self.widths, dim=-1)
        return q, k, v


class JoinedGatedMLP(GatedMLP):
    """A gated MLP whose gate and up are one product."""

    def __init__(self, parts: GatedMLP) -> None:
        nn.Module.__init__(self)
        self.gate_up = _joined((parts.gate, parts.up))
        self.down, self.dropout = parts.down, parts.dropout

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return gate, up


def _joined(layers: Sequence[nn.Linear]) -> nn.Linear:
    """(N1 + N2 + ..., K): the outputs of all layers, one after the other."""
    outputs, has_bias = sum(layer.out_features for layer in layers), layers[0].bias is not None
    whole = nn.Linear(layers[0].in_features, outputs, bias=has_bias, device="meta")
    whole.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]))
    if has_bias:
        whole.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]))
    return whole
