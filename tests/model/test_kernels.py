"""The CPU's training kernels against their equations, in value and in every gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from gptscratch.model import attention, kernels, norm


def _random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def test_rms_norm_kernel_equals_its_equation() -> None:
    torch.manual_seed(0)
    x, weight = _random(3, 5, 16), _random(16)
    torch.testing.assert_close(kernels.rms_norm(x, weight, 1e-6), norm.rms_norm(x, weight, 1e-6))


def test_rms_norm_kernel_has_the_right_gradient() -> None:
    torch.manual_seed(0)
    x, weight = _random(2, 3, 8), _random(8)
    assert torch.autograd.gradcheck(lambda x, w: kernels.rms_norm(x, w, 1e-6), (x, weight))


def test_causal_attention_kernel_equals_its_equation_over_several_blocks() -> None:
    torch.manual_seed(0)
    q, k, v = (_random(2, 3, 2 * kernels._BLOCK + 5, 4) for _ in range(3))
    torch.testing.assert_close(kernels.causal_attention(q, k, v), attention.attention(q, k, v)[0])


def test_causal_attention_kernel_has_the_gradients_of_its_equation() -> None:
    torch.manual_seed(0)
    q, k, v = (_random(1, 2, kernels._BLOCK + 3, 4) for _ in range(3))
    grad = torch.randn_like(q)
    found = torch.autograd.grad(kernels.causal_attention(q, k, v), (q, k, v), grad)
    expected = torch.autograd.grad(attention.attention(q, k, v)[0], (q, k, v), grad)
    torch.testing.assert_close(found, expected)


def test_attention_in_bfloat16_is_near_to_float32() -> None:
    torch.manual_seed(0)
    q, k, v = (_random(2, 2, 40, 16, dtype=torch.float32) for _ in range(3))
    narrow = (x.detach().bfloat16().requires_grad_() for x in (q, k, v))
    found = attention._fused_attention(*narrow, None, 0.0)
    assert type(found.grad_fn).__name__ == "_CausalAttentionBackward"
    torch.testing.assert_close(found.float(), attention.attention(q, k, v)[0], atol=0.03, rtol=0.03)
