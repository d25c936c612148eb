"""Normalisation: LayerNorm and RMSNorm, each as its equation and as torch's fused kernel.

Shapes: ... any leading dimensions, D the normalised width.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptscratch.accelerate import attention as kernels


class RMSNorm(nn.Module):
    """Divide by the root mean square, scale per channel (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float, *, bias: bool = False, reference: bool = False) -> None:
        super().__init__()
        del bias  # by its definition RMSNorm has none; the argument keeps the norms interchangeable
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.normalise = rms_norm if reference else _fused_rms_norm

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(x, self.weight, self.eps)  # (..., D)


class LayerNorm(nn.Module):
    """Subtract the mean, divide by the deviation, scale and shift (Ba et al. 2016, arXiv:1607.06450)."""

    def __init__(self, width: int, eps: float, *, bias: bool = True, reference: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.eps = eps
        self.normalise = layer_norm if reference else _fused_layer_norm

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(x, self.weight, self.bias, self.eps)  # (..., D)


NORMS: Mapping[str, type[RMSNorm] | type[LayerNorm]] = MappingProxyType(
    {"rmsnorm": RMSNorm, "layernorm": LayerNorm}
)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight, over the last dimension."""
    mean_square = x.square().mean(-1, keepdim=True)  # (..., 1)
    return x / torch.sqrt(mean_square + eps) * weight  # (..., D)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean(x)) / sqrt(var(x) + eps) · weight + bias, over the last dimension."""
    centred = x - x.mean(-1, keepdim=True)  # (..., D)
    variance = centred.square().mean(-1, keepdim=True)  # (..., 1): biased, over D and not D - 1
    normalised = centred / torch.sqrt(variance + eps) * weight  # (..., D)
    return normalised if bias is None else normalised + bias


def _fused_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    weight = weight.to(x.dtype)  # under autocast x is narrower, and torch fuses equal types only
    if kernels.apply_to(x):
        return kernels.rms_norm(x, weight, eps)
    return F.rms_norm(x, weight.shape, weight, eps)


def _fused_layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, bias, eps)
