"""Products of a few rows with the weights of a layer, joined with the norm before or the sum after them.

Shapes: B rows, K inputs, N outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RowFunction = Callable[[Tensor], Tensor]  # (B, K) -> (B, N)
Residual = Callable[[Tensor, Tensor], Tensor]  # (B, N), (B, K) -> (B, N): a sum


@torch.no_grad()
def norm_linear(norm: nn.Module, layer: nn.Module) -> RowFunction:
    """A norm and the linear layer after it."""
    if not isinstance(norm, nn.RMSNorm):
        return _chain(norm.forward, _linear(layer))
    if not _is_plain(layer):
        return _chain(_rms_norm(norm), layer.forward)
    eps, width = norm.eps or 0.0, norm.weight.numel()
    columns = (layer.weight * norm.weight).T.contiguous()  # (K, N)
    start = torch.zeros(columns.size(1)) if layer.bias is None else layer.bias.detach()

    def product(x: Tensor) -> Tensor:
        if x.size(0) > 1:
            return torch.addmm(start, F.rms_norm(x, (width,), None, eps), columns)
        return torch.addmm(start, x, columns, alpha=_rms_scale(x, eps))

    return product


def linear_residual(layer: nn.Module) -> Residual:
    """A linear layer whose output is added to the residual stream."""
    if not _is_plain(layer):
        forward = layer.forward
        return lambda x, y: x + forward(y)
    columns, bias = _columns(layer), layer.bias
    return lambda x, y: torch.addmm(x if bias is None else x + bias, y, columns)


def _linear(layer: nn.Module) -> RowFunction:
    if not _is_plain(layer):
        return layer.forward
    columns, bias = _columns(layer), layer.bias
    return lambda x: torch.mm(x, columns) if bias is None else torch.addmm(bias, x, columns)


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    return isinstance(layer, nn.Linear) and layer.weight.dtype == torch.float32


def _columns(layer: nn.Linear) -> Tensor:
    """(K, N): read down its columns, a row times a small matrix takes a fifth less time."""
    return layer.weight.detach().T.contiguous()


def _chain(first: RowFunction, second: RowFunction) -> RowFunction:
    return lambda x: second(first(x))


def _rms_norm(norm: nn.RMSNorm) -> RowFunction:
    weight, eps = norm.weight.detach(), norm.eps or 0.0
    zero = torch.zeros_like(weight)

    def normalized(x: Tensor) -> Tensor:
        if x.size(0) > 1 or x.dtype != torch.float32:
            return F.rms_norm(x, weight.shape, weight, eps)
        return torch.addcmul(zero, x, weight, value=_rms_scale(x, eps))

    return normalized


def _rms_scale(x: Tensor, eps: float) -> float:
    """1 / sqrt(mean(x²) + eps) of one row, in two calls: torch's own norm is six inside."""
    row = x[0]
    square: float = torch.dot(row, row).item()
    return 1.0 / math.sqrt(square / row.size(0) + eps)
