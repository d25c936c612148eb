"""The lm_head: from the final norm to logits over the vocabulary, as one matrix or in parts.

Shapes: ... any leading dimensions, D d_model, V vocab.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gptscratch.accelerate.linear import Linear
from gptscratch.config import NARROWING


class AdaptiveHead(nn.AdaptiveLogSoftmaxWithLoss):
    """Adaptive softmax: a full product for frequent tokens, narrower ones for the rest.

    Grave et al. 2017, "Efficient softmax approximation for GPUs", arXiv:1609.04309. The ids must be
    sorted by frequency, as those of a word tokenizer are; a BPE's come near to it.
    """

    def __init__(self, d_model: int, vocab_size: int, cutoffs: Sequence[int], *, bias: bool) -> None:
        super().__init__(d_model, vocab_size, list(cutoffs), div_value=NARROWING, head_bias=bias)

    def forward(self, hidden: Tensor) -> Tensor:  # type: ignore[override]
        """The logarithms of probabilities, which are logits as well: (..., D) -> (..., V)."""
        flat: Tensor = self.log_prob(hidden.flatten(0, -2))
        return flat.view(*hidden.shape[:-1], -1)


def build_head(d_model: int, vocab_size: int, cutoffs: Sequence[int], *, bias: bool) -> nn.Module:
    if cutoffs:
        return AdaptiveHead(d_model, vocab_size, cutoffs, bias=bias)
    return Linear(d_model, vocab_size, bias=bias)


@torch.no_grad()
def start_from_frequencies(head: nn.Module, counts: Tensor) -> None:
    """Set the bias to the logarithms of the tokens' frequencies, so that the first guess is their share.

    Args:
        counts: (V,) how often each token occurs; one that does not is taken to occur half a time.
    """
    shares = counts.double().clamp(min=0.5) / counts.double().clamp(min=0.5).sum()  # (V,)
    first = head
    if isinstance(head, AdaptiveHead):
        first = head.head
        parts = [shares[a:b].sum() for a, b in zip(head.cutoffs, head.cutoffs[1:], strict=False)]
        shares = torch.cat((shares[: head.shortlist_size], torch.stack(parts)))
    assert isinstance(first, nn.Linear)
    first.bias.copy_(shares.log())
