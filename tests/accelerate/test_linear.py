"""Matrix products by oneDNN, compared with those of torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptscratch.accelerate import linear as module
from gptscratch.accelerate.linear import linear, pays

onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def inputs(*leading: int, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    torch.manual_seed(0)
    x = torch.randn(*leading, 24, requires_grad=True)
    weight = torch.randn(40, 24, requires_grad=True)
    return x, weight, torch.randn(40, requires_grad=True) if bias else None


@pytest.fixture
def prefer_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where oneDNN is the faster one, in products of any size."""
    monkeypatch.setattr(module, "has_fast_float32", lambda: True)
    monkeypatch.setattr(module, "_LARGE", 1)


@onednn
@pytest.mark.usefixtures("prefer_onednn")
@pytest.mark.parametrize("leading", [(64,), (4, 16), (2, 3, 11), (3,), (0,)])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradients_equal_torchs(leading: tuple[int, ...], bias: bool) -> None:
    tensors = inputs(*leading, bias=bias)
    found, wanted = linear(*tensors), F.linear(*tensors)
    torch.testing.assert_close(found, wanted)
    leaves = [tensor for tensor in tensors if tensor is not None]
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), leaves),
        torch.autograd.grad(wanted.square().sum(), leaves),
    )


@onednn
@pytest.mark.usefixtures("prefer_onednn")
def test_many_rows_in_float32_are_multiplied_by_onednn() -> None:
    with torch.profiler.profile() as profile:
        linear(*inputs(64))
    assert any("_linear_pointwise" in event.key for event in profile.key_averages())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_torch(dtype: torch.dtype) -> None:
    x, weight, bias = (t.detach().to(dtype) for t in inputs(64) if t is not None)
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


@onednn
def test_small_products_and_slower_machines_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = torch.ones(512, 64), torch.ones(512, 8)
    for is_fast in (True, False):
        monkeypatch.setattr(module, "has_fast_float32", lambda is_fast=is_fast: is_fast)
        assert pays(large, torch.ones(64, 64)) == is_fast
        assert not pays(small, torch.ones(64, 8))
        assert not pays(large[:15], torch.ones(4096, 64))


def test_the_two_products_are_timed_once_for_a_process() -> None:
    module.has_fast_float32()
    timed = module.has_fast_float32.cache_info().misses
    module.has_fast_float32()
    assert module.has_fast_float32.cache_info().misses == timed


@onednn
@pytest.mark.usefixtures("prefer_onednn")
def test_a_transposed_input_gives_the_same() -> None:
    _, weight, bias = inputs(64)
    x = torch.randn(24, 64).T
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
