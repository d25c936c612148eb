"""The product x Wᵀ + b by the faster of two libraries.

In float32 torch uses MKL, which leaves half of AVX-512 unused on some processors of other makers; oneDNN does
not. Which of the two is faster is measured. In every other case it is ``F.linear``.

Shapes: ... any leading dimensions, N of them multiplied, K inputs, M outputs.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gptscratch.device import one_thread

_ROWS = 16  # from which on oneDNN may be faster: fewer are limited by reading the weights
_LARGE = 1 << 21  # multiplications in a product from which on oneDNN's preparations (12 us) pay
_PAYS = 1.2  # times as fast as torch's own choice: what is nearer to it would change from run to run


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
    if x.numel() < _ROWS * x.size(-1) or x.numel() * len(weight) < _LARGE:
        return False
    return not torch.is_autocast_enabled("cpu") and has_fast_float32()


@cache
def has_fast_float32() -> bool:
    """Whether oneDNN is faster than torch's own choice in a product and its gradients.

    Timed once for each process on one thread, about 20 ms: it depends on the processor and on its maker.
    """
    if not has_onednn("_linear_pointwise"):
        return False
    x, weight, grad = (torch.ones(256, 256) for _ in range(3))
    times: tuple[list[float], list[float]] = ([], [])  # of torch's choice, of oneDNN
    with one_thread():
        for _ in range(8):
            started = time.perf_counter()
            F.linear(x, weight), grad @ weight, grad.T @ x
            between = time.perf_counter()
            _product(x, weight), _input_grad(grad, weight), _weight_grad(grad, x)
            times[0].append(between - started)
            times[1].append(time.perf_counter() - between)
    return min(times[0]) > _PAYS * min(times[1])


def has_onednn(operator: str) -> bool:
    """Whether this torch has oneDNN and a private operator of it; without, torch's own function is used."""
    is_there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_there and hasattr(torch.ops.mkldnn, operator)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def _input_grad(grad: Tensor, weight: Tensor) -> Tensor:
    return _product(grad, weight.T)


def _weight_grad(grad: Tensor, x: Tensor) -> Tensor:
    return _product(x.T, grad.T).T  # (xᵀ g)ᵀ is faster than gᵀ x


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
        x_grad = _input_grad(grad, weight) if needs_x else None
        weight_grad = _weight_grad(grad, x) if needs_weight else None
        return x_grad, weight_grad, grad.sum(0) if needs_bias else None
