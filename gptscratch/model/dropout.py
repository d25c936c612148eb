"""Dropout: in training some numbers become 0 at random, and the others grow to make up for them."""

from __future__ import annotations

from torch import Tensor, nn

from gptscratch.accelerate import attention as kernels


class Dropout(nn.Dropout):
    """As torch's (Srivastava et al. 2014), with cheaper random numbers where a CPU trains."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.p and kernels.apply_to(x):
            return kernels.dropout(x, self.p)
        return super().forward(x)
