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
    monkeypatch.setattr(module, "_NARROW", 1)


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
    x, weight = torch.ones(512, 256), torch.ones(256, 256)
    for is_fast in (True, False):
        monkeypatch.setattr(module, "has_fast_float32", lambda is_fast=is_fast: is_fast)
        assert pays(x, weight) == is_fast
        assert not pays(x[:256], weight)
        assert not pays(x[:15], torch.ones(65_536, 256))
        assert not pays(torch.ones(8192, 256), weight[:65])


def test_onednn_is_chosen_by_what_the_processor_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, used, wanted in (
        ("AMD EPYC 9654", True, True),
        ("AMD Ryzen 7 3700X", False, False),
        ("Intel(R) Xeon(R) Gold 6338", True, False),
        ("", True, False),
    ):
        monkeypatch.setattr(module, "cpu_features", lambda name=name: {"cpu_name": name})
        monkeypatch.setattr(module, "uses_avx512", lambda used=used: used)
        monkeypatch.setattr(module, "has_onednn", lambda _: True)
        assert module.has_fast_float32.__wrapped__() == wanted


@onednn
@pytest.mark.usefixtures("prefer_onednn")
def test_a_transposed_input_gives_the_same() -> None:
    _, weight, bias = inputs(64)
    x = torch.randn(24, 64).T
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
