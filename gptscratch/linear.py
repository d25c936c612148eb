"""The product x Wᵀ + b by the fastest kernel of this machine; torch's own choice is not always that.

In float32 torch asks MKL, which leaves half of the AVX-512 of other makers' processors unused; oneDNN does
not (docs/benchmarks.md has both rates). In every other case it is ``F.linear``.

Shapes: ... any leading dimensions, N of them multiplied, K inputs, M outputs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_ROWS = 16  # from which on oneDNN's preparations pay


class Linear(nn.Linear):
    """``nn.Linear``, computed by ``linear``."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)  # (..., K) -> (..., M)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As ``F.linear``, differentiable: (..., K), (M, K), (M,) -> (..., M)."""
    if x.dtype != torch.float32 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    if x.numel() < _ROWS * x.size(-1) or torch.is_autocast_enabled("cpu") or not has_fast_float32():
        return F.linear(x, weight, bias)
    y: Tensor = _Linear.apply(x.reshape(-1, x.size(-1)), weight, bias)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)


@cache
def has_fast_float32() -> bool:
    """Whether oneDNN is there and may do better than MKL."""
    return torch._C._has_mkldnn and torch.backends.cpu.get_cpu_capability() == "AVX512"


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
        weight_grad = _product(x.T, grad.T).T if needs_weight else None  # (xᵀ g)ᵀ: the faster way round
        return x_grad, weight_grad, grad.sum(0) if needs_bias else None
