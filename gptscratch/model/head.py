"""The lm_head: from the final norm to logits over the vocabulary, as one matrix or in parts.

Shapes: ... any leading dimensions, D d_model, V vocab.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from gptscratch.config import NARROWING, ModelConfig


class AdaptiveHead(nn.AdaptiveLogSoftmaxWithLoss):
    """Adaptive softmax: a full product for frequent tokens, narrower ones for the rest.

    Grave et al. 2017, "Efficient softmax approximation for GPUs", arXiv:1609.04309. The ids must be sorted by
    frequency, as those of a word tokenizer are; a BPE's are nearly.
    """

    def forward(self, hidden: Tensor) -> Tensor:  # type: ignore[override]
        """The logarithms of probabilities, which are logits as well: (..., D) -> (..., V)."""
        flat: Tensor = self.log_prob(hidden.flatten(0, -2))
        return flat.view(*hidden.shape[:-1], self.n_classes)

    def parts(self, hidden: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
        """The softmaxes whose cross-entropies add up to that of the targets: inputs, weight, targets, bias.

        The first one chooses a frequent token or a part of the rest, the others a token of their part.
        """
        choice, parts = targets.clone(), []  # (N,)
        for i, (low, high) in enumerate(itertools.pairwise(self.cutoffs)):
            inside = (targets >= low) & (targets < high)
            choice[inside] = self.shortlist_size + i
            rows = inside.nonzero().squeeze(1)  # the positions whose token is in part i
            down, up = self.tail[i].children()
            assert isinstance(up, nn.Linear)
            parts.append((down(hidden[rows]), up.weight, targets[rows] - low, None))
        return [(hidden, self.head.weight, choice, self.head.bias), *parts]


def build_head(config: ModelConfig) -> nn.Module:
    width, size, bias = config.d_model, config.vocab_size, config.output_bias
    if config.adaptive_cutoffs:
        cutoffs = list(config.adaptive_cutoffs)
        return AdaptiveHead(width, size, cutoffs, div_value=NARROWING, head_bias=bias)
    return nn.Linear(width, size, bias=bias)


def unigram_bias(head: nn.Module, counts: Tensor) -> dict[str, Tensor]:
    """The logarithms of the tokens' frequencies: a bias with which the first prediction is their share.

    Args:
        counts: (V,) how often each token occurs; 0 counts as one half.

    Returns:
        By the name of the head's parameter.
    """
    shares = counts.double().clamp(min=0.5) / counts.double().clamp(min=0.5).sum()  # (V,)
    if not isinstance(head, AdaptiveHead):
        return {"bias": shares.log()}
    parts = [shares[a:b].sum() for a, b in zip(head.cutoffs, head.cutoffs[1:], strict=False)]
    return {"head.bias": torch.cat((shares[: head.shortlist_size], torch.stack(parts))).log()}
