"""Products of a few rows with the weights of a layer, a norm before or a sum behind them included.

Shapes: B rows, K inputs, N outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptscratch.model.norm import RMSNorm

Map = Callable[[Tensor], Tensor]  # (B, K) -> (B, N)
Add = Callable[[Tensor, Tensor], Tensor]  # (B, N), (B, K) -> (B, N): the first and what the second gives


@torch.no_grad()
def read(norm: nn.Module, layer: nn.Module) -> Map:
    """A norm and a linear layer behind it."""
    if not isinstance(norm, RMSNorm):
        return _after(norm.forward, _product(layer))
    if not _is_plain(layer):
        return _after(_row_norm(norm), layer.forward)
    columns = (layer.weight * norm.weight).T.contiguous()  # (K, N)
    start = torch.zeros(columns.size(1)) if layer.bias is None else layer.bias.detach()
    eps, width = norm.eps, columns.size(0)

    def product(x: Tensor) -> Tensor:
        if x.size(0) > 1:
            return torch.addmm(start, F.rms_norm(x, (width,), None, eps), columns)
        return torch.addmm(start, x, columns, alpha=_shrinkage(x, eps))

    return product


def add(layer: nn.Module) -> Add:
    """What a linear layer says, added to something."""
    if not _is_plain(layer):
        forward = layer.forward
        return lambda x, y: x + forward(y)
    columns, bias = _columns(layer), layer.bias
    return lambda x, y: torch.addmm(x if bias is None else x + bias, y, columns)


def _product(layer: nn.Module) -> Map:
    if not _is_plain(layer):
        return layer.forward
    columns, bias = _columns(layer), layer.bias
    return lambda x: torch.mm(x, columns) if bias is None else torch.addmm(bias, x, columns)


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    return isinstance(layer, nn.Linear) and layer.weight.dtype == torch.float32


def _columns(layer: nn.Linear) -> Tensor:
    """(K, N): read down its columns, a row times a small matrix takes a fifth less time."""
    return layer.weight.detach().T.contiguous()


def _after(first: Map, second: Map) -> Map:
    return lambda x: second(first(x))


def _row_norm(norm: RMSNorm) -> Map:
    weight, eps, width = norm.weight.detach(), norm.eps, norm.weight.size(0)
    zero = torch.zeros_like(weight)

    def normalised(x: Tensor) -> Tensor:
        if x.size(0) > 1 or x.dtype != torch.float32:
            return F.rms_norm(x, (width,), weight, eps)
        return torch.addcmul(zero, x, weight, value=_shrinkage(x, eps))

    return normalised


def _shrinkage(x: Tensor, eps: float) -> float:
    """1 / sqrt(mean(x²) + eps) of one row, in two calls: torch's own norm is six inside."""
    row = x[0]
    square: float = torch.dot(row, row).item()
    return 1.0 / math.sqrt(square / row.size(0) + eps)
