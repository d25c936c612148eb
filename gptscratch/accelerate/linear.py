"""The product x Wᵀ + b by the faster of two libraries.

In float32 torch uses MKL, which leaves half of AVX-512 unused on some processors of AMD; oneDNN does not. In
every other case it is ``F.linear``.

Shapes: ... any leading dimensions, N of them multiplied, K inputs, M outputs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gptscratch.device import cpu_features, uses_avx512

_ROWS = 16  # fewer are limited by reading the weights
_LARGE = 1 << 25  # multiplications in a product from which on oneDNN's preparations (12 us) pay
_NARROW = 128  # inputs or outputs below which the gradient of the weights is slower


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As ``F.linear``, differentiable: (..., K), (M, K), (M,) -> (..., M)."""
    if not pays(x, weight):
        return F.linear(x, weight, bias)
    y: Tensor = _Linear.apply(x.reshape(-1, x.size(-1)), weight, bias)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is the faster way to this product."""
    if x.dtype != torch.float32 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    rows = x.numel() // max(1, x.size(-1))
    if rows < _ROWS or x.numel() * len(weight) < _LARGE or min(weight.shape) < _NARROW:
        return False
    return not torch.is_autocast_enabled("cpu") and has_fast_float32()


@cache
def has_fast_float32() -> bool:
    """Whether oneDNN is faster than MKL in large products and their gradients.

    By what the processor reports, not by timing: every process that continues a run must decide the same.
    Ratios on AMD with AVX-512: 1.04 to 1.10 (Zen 4) and up to 2; with AVX2 only: 0.9 to 1.0.
    """
    return has_onednn("_linear_pointwise") and uses_avx512() and "AMD" in cpu_features()["cpu_name"]


def has_onednn(operator: str) -> bool:
    """Whether this torch has oneDNN and a private operator of it; without, torch's own function is used."""
    is_there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_there and hasattr(torch.ops.mkldnn, operator)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """dx = g W, dW = gᵀ x, db = the sum of g."""
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        x_grad = _product(grad, weight.T) if needs_x else None
        weight_grad = _product(x.T, grad.T).T if needs_weight else None  # (xᵀ g)ᵀ is faster than gᵀ x
        return x_grad, weight_grad, grad.sum(0) if needs_bias else None
