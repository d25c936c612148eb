"""From logits to a token: pure functions, with the randomness as an argument.

The order is that of Hugging Face's generate: temperature, top-k, top-p, min-p. Shapes: B rows, V vocab,
C candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gptscratch.config import SampleConfig

_COLDEST = 1e-6  # below it, logits could exceed float32, and sampling is greedy

Sampler = Callable[[Tensor, Tensor], Tensor]  # logits (B, V), numbers (B,) in [0, 1) -> token ids (B,)


def make_sampler(config: SampleConfig) -> Sampler:
    """A function that chooses a token for each row.

    Rows do not influence one another: the same logits and the same number give the same token in a batch of
    any size.
    """

    def sample(logits: Tensor, uniform: Tensor) -> Tensor:
        logits = logits.float()
        if config.temperature < _COLDEST:
            return logits.argmax(-1)
        logits, token_ids = candidates(
            logits / config.temperature, top_k=config.top_k, top_p=config.top_p, min_p=config.min_p
        )
        column = choose(logits.softmax(-1), uniform)  # (B,)
        return column if token_ids is None else token_ids.gather(1, column[:, None]).squeeze(1)

    return sample


def candidates(
    logits: Tensor, *, top_k: int | None, top_p: float | None, min_p: float | None
) -> tuple[Tensor, Tensor | None]:
    """What the filters keep: logits (B, C), -inf where removed, and their token ids (B, C).

    The ids are None where the columns are still the whole vocabulary in its order.

    Args:
        logits: (B, V).
        top_k: keep the k most likely tokens (Fan et al. 2018).
        top_p: keep the most likely tokens whose probabilities first add up to p (Holtzman et al. 2020).
        min_p: keep tokens at least min_p times as likely as the most likely one (Nguyen et al. 2024).
    """
    token_ids = None
    if top_k is not None and top_k < logits.size(-1):
        logits, token_ids = logits.topk(top_k, dim=-1)  # (B, top_k), most likely first
    if top_p is not None and top_p < 1.0:
        if token_ids is None:
            logits, token_ids = logits.sort(dim=-1, descending=True)
        probabilities = logits.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # of all that are more likely; 0 for the first
        is_cut = (before >= top_p) & (before > 0)  # the most likely one stays where p rounds to 0
        logits = logits.masked_fill(is_cut, float("-inf"))
    if min_p is not None:
        probabilities = logits.softmax(-1)
        least = min_p * probabilities.amax(-1, keepdim=True)
        logits = logits.masked_fill(probabilities < least, float("-inf"))
    return logits, token_ids


def choose(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-transform sampling: (B, C) probabilities and (B,) numbers in [0, 1) -> (B,) columns."""
    wide = torch.float32 if probabilities.device.type == "mps" else torch.float64  # MPS has no float64
    cumulative = probabilities.cumsum(-1, dtype=wide)
    target = uniform.to(wide)[:, None] * cumulative[:, -1:]
    column = torch.searchsorted(cumulative, target, right=True).squeeze(1)
    return column.clamp_(max=probabilities.size(-1) - 1)
