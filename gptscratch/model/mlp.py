"""The MLP of a block: up-projection, activation function, down-projection, for each token by itself.

Shapes: B batch, T positions, D d_model, F d_ff.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor, nn


def _relu2(x: Tensor) -> Tensor:
    """max(x, 0)²: found by the Primer search (So et al. 2021, arXiv:2109.08668)."""
    return F.relu(x).square()


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"gelu": F.gelu, "gelu-tanh": partial(F.gelu, approximate="tanh"), "relu": F.relu, "relu2": _relu2}
)


def build_mlp(activation: str, d_model: int, d_ff: int, *, bias: bool, dropout: float) -> MLP | GatedMLP:
    """The MLP for an activation's name: swiglu has a gate, the others have none."""
    if activation == "swiglu":
        return GatedMLP(d_model, d_ff, bias=bias, dropout=dropout)
    return MLP(d_model, d_ff, activation=ACTIVATIONS[activation], bias=bias, dropout=dropout)


class MLP(nn.Module):
    """down(activation(up(x))), as in Vaswani et al. 2017 and GPT-2."""

    def __init__(
        self, d_model: int, d_ff: int, *, activation: Callable[[Tensor], Tensor], bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.up(x))  # (B, T, F)
        out: Tensor = self.dropout(self.down(x))  # (B, T, D)
        return out


class GatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)): SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, d_model: int, d_ff: int, *, bias: bool, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.gate = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.project(x)  # (B, T, F) each
        out: Tensor = self.dropout(self.down(F.silu(gate) * up))  # (B, T, D)
        return out

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> (B, T, F) twice: the gate before its activation, and what it multiplies."""
        return self.gate(x), self.up(x)
