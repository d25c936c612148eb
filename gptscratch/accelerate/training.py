"""Faster training on a CPU: the same layers with other kernels, put into a finished model from outside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gptscratch.accelerate import kernels
from gptscratch.accelerate.linear import linear
from gptscratch.device import has_fast_bfloat16
from gptscratch.model.attention import Attention
from gptscratch.model.gpt import GPT
from gptscratch.model.lora import LoraLinear


def accelerate_training(model: GPT) -> GPT:
    """In place, on a CPU: layers get faster forward and backward passes; parameters, names and modes stay.

    Each layer still decides by its input: a kernel is used where it was measured to be faster, and torch's
    own function everywhere else (without gradients, on other devices, in ``torch.compile``).
    """
    if model.token_embedding.weight.device.type == "cpu":
        for module in model.modules():
            if type(module) in FASTER:
                module.__class__ = FASTER[type(module)]
    return model


class FasterLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)  # (..., K) -> (..., M)


class FasterLoraLinear(LoraLinear, FasterLinear):
    """The product with the fixed weights is that of ``FasterLinear``, the next class after ``LoraLinear``."""


class FasterRMSNorm(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        if trains_on_cpu(x) and self.weight.dtype == x.dtype:
            return kernels.rms_norm(x, self.weight, self.eps or 0.0)
        return super().forward(x)


class FasterDropout(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.p and trains_on_cpu(x):
            return kernels.dropout(x, self.p)
        return super().forward(x)


class FasterAttention(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        dropout = self.dropout.p if self.training else 0.0
        if products_pay(q, k, bias, dropout):
            if (groups := q.size(1) // k.size(1)) > 1:
                k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))  # (B, H, T, K)
            return kernels.causal_attention(q, k, v, bias, dropout)
        return super().attend(q, k, v, bias)


FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: FasterLinear,
    LoraLinear: FasterLoraLinear,
    nn.RMSNorm: FasterRMSNorm,
    nn.Dropout: FasterDropout,
    Attention: FasterAttention,
}


def trains_on_cpu(x: Tensor) -> bool:
    """Whether gradients will be computed through ``x`` on a CPU, not compiled."""
    on_cpu = x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled()
    return on_cpu and not torch.compiler.is_compiling()


def products_pay(q: Tensor, k: Tensor, bias: Tensor | None, dropout: float) -> bool:
    """Whether ``kernels.causal_attention`` is faster than torch's kernel."""
    fits = q.size(2) == k.size(2) and (bias is None or bias.dtype == torch.bool)
    if not fits or not trains_on_cpu(q):
        return False
    return has_fast_bfloat16(q.device) if q.dtype == torch.bfloat16 else dropout > 0.0
