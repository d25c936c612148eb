"""The product that models are made of, beside torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptscratch import linear as module
from gptscratch.linear import Linear, linear

onednn = pytest.mark.skipif(
    not module.has_fast_float32(), reason="oneDNN is not there, or no better than torch's own choice"
)


def inputs(*leading: int, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    torch.manual_seed(0)
    x = torch.randn(*leading, 24, requires_grad=True)
    weight = torch.randn(40, 24, requires_grad=True)
    return x, weight, torch.randn(40, requires_grad=True) if bias else None


@pytest.mark.parametrize("leading", [(64,), (4, 16), (2, 3, 11), (3,), (0,)])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradients_equal_torchs(leading: tuple[int, ...], bias: bool) -> None:
    tensors = inputs(*leading, bias=bias)
    ours, theirs = linear(*tensors), F.linear(*tensors)
    torch.testing.assert_close(ours, theirs)
    leaves = [tensor for tensor in tensors if tensor is not None]
    torch.testing.assert_close(
        torch.autograd.grad(ours.square().sum(), leaves), torch.autograd.grad(theirs.square().sum(), leaves)
    )


@onednn
def test_many_rows_in_float32_are_multiplied_by_onednn() -> None:
    with torch.profiler.profile() as profile:
        linear(*inputs(64))
    assert any("_linear_pointwise" in event.key for event in profile.key_averages())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_torch(dtype: torch.dtype) -> None:
    x, weight, bias = (t.detach().to(dtype) for t in inputs(64) if t is not None)
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


def test_a_transposed_input_gives_the_same() -> None:
    _, weight, bias = inputs(64)
    x = torch.randn(24, 64).T
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))


def test_the_module_is_torchs_with_another_product() -> None:
    layer = Linear(24, 40)
    x, _, _ = inputs(64)
    assert isinstance(layer, torch.nn.Linear)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
