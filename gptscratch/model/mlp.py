"""The MLP of a block: each token by itself is widened, bent and narrowed again.

Shapes: B batch, T positions, D d_model, F d_ff.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptscratch.accelerate.linear import Linear
from gptscratch.model.dropout import Dropout


def build_mlp(
    activation: str, d_model: int, d_ff: int, *, bias: bool, dropout: float, reference: bool = False
) -> MLP | GatedMLP:
    """The MLP that an activation's name asks for: swiglu has a gate, the others have none."""
    if activation == "swiglu":
        return GatedMLP(d_model, d_ff, bias=bias, dropout=dropout)
    bend = (EQUATIONS if reference else ACTIVATIONS)[activation]
    return MLP(d_model, d_ff, activation=bend, bias=bias, dropout=dropout)


class MLP(nn.Module):
    """down(activation(up(x))), as in Vaswani et al. 2017 and GPT-2."""

    def __init__(
        self, d_model: int, d_ff: int, *, activation: Callable[[Tensor], Tensor], bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.up = Linear(d_model, d_ff, bias=bias)
        self.down = Linear(d_ff, d_model, bias=bias)
        self.activation = activation
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.activation(self.up(x))  # (B, T, F)
        out: Tensor = self.dropout(self.down(wide))  # (B, T, D)
        return out


class GatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)): SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, d_model: int, d_ff: int, *, bias: bool, dropout: float) -> None:
        super().__init__()
        self.up = Linear(d_model, d_ff, bias=bias)
        self.gate = Linear(d_model, d_ff, bias=bias)
        self.down = Linear(d_ff, d_model, bias=bias)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.project(x)
        out: Tensor = self.dropout(self.down(F.silu(gate) * up))  # (B, T, D)
        return out

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> (B, T, F) twice: what opens, and what passes."""
        return self.gate(x), self.up(x)


def gelu(x: Tensor) -> Tensor:
    """x · Φ(x), Φ the normal distribution's integral (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU through tanh: the approximation that GPT-2 was trained with."""
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def relu(x: Tensor) -> Tensor:
    """max(x, 0)"""
    return torch.where(x > 0, x, 0.0)


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)²: found by the Primer search (So et al. 2021, arXiv:2109.08668)."""
    return relu(x).square()


def _fused_gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _fused_relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


EQUATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"gelu": gelu, "gelu-tanh": gelu_tanh, "relu": relu, "relu2": relu2}
)
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"gelu": F.gelu, "gelu-tanh": _fused_gelu_tanh, "relu": F.relu, "relu2": _fused_relu2}
)
