"""From logits to a token: pure functions, with the randomness as an argument.

The order, which is that of Hugging Face's generate: repetition penalty, (frequency and presence penalty,)
temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Sampler(Protocol):
    """Logits (B, V) and numbers (B,) in [0, 1) -> token ids (B,).

    ``seen`` (B, V) bool: what a row holds; ``counts`` (B, V): how often each token was drawn for it.
    """

    def __call__(
        self, logits: Tensor, uniform: Tensor, seen: Tensor | None, counts: Tensor | None = None, /
    ) -> Tensor: ...


def make_sampler(
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
) -> Sampler:
    """One function that draws a token for each row.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keeps the k likeliest (Fan et al. 2018).
        top_p: keeps the likeliest whose probabilities first reach p together (Holtzman et al. 2020).
        min_p: keeps those at least min_p times as likely as the likeliest (Nguyen et al. 2024).
        repetition_penalty: divides positive and multiplies negative logits of the tokens in ``seen``
            (Keskar et al. 2019).
        frequency_penalty: taken from a logit for each time that its token was drawn.
        presence_penalty: taken once, if it was; both as OpenAI's API documents them: of new tokens only.

    Returns:
        A sampler. Rows do not influence one another: the same logits and the same number in
        ``uniform`` give the same token in a batch of any size.
    """

    def sample(
        logits: Tensor, uniform: Tensor, seen: Tensor | None, counts: Tensor | None = None, /
    ) -> Tensor:
        logits = logits.float()
        if repetition_penalty != 1.0 and seen is not None:
            logits = penalized(logits, seen, repetition_penalty)
        if (frequency_penalty or presence_penalty) and counts is not None:
            logits = logits - frequency_penalty * counts - presence_penalty * (counts > 0)
        if temperature == 0.0:
            return logits.argmax(-1)
        logits, token_ids = candidates(logits / temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        choice = drawn(logits.softmax(-1), uniform)  # (B,)
        return choice if token_ids is None else token_ids.gather(1, choice[:, None]).squeeze(1)

    return sample


def penalized(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """(B, V) logits with those of seen tokens made less likely."""
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, lowered, logits)


def candidates(
    logits: Tensor, *, top_k: int | None, top_p: float | None, min_p: float | None
) -> tuple[Tensor, Tensor | None]:
    """What the filters leave: logits (B, C), -inf where dropped, and their token ids (B, C).

    The ids are None where the columns still are the whole vocabulary in its order.
    """
    token_ids = None
    if top_k is not None and top_k < logits.size(-1):
        logits, token_ids = logits.topk(top_k, dim=-1)  # (B, top_k), likeliest first
    if top_p is not None and top_p < 1.0:
        if token_ids is None:
            logits, token_ids = logits.sort(dim=-1, descending=True)
        probabilities = logits.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # of all that are likelier; 0 for the first
        logits = logits.masked_fill(before >= top_p, float("-inf"))
    if min_p is not None:
        probabilities = logits.softmax(-1)
        floor = min_p * probabilities.amax(-1, keepdim=True)
        logits = logits.masked_fill(probabilities < floor, float("-inf"))
    return logits, token_ids


def drawn(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-transform sampling: (B, C) probabilities and (B,) numbers in [0, 1) -> (B,) columns."""
    wide = torch.float32 if probabilities.device.type == "mps" else torch.float64  # Apple's has no float64
    cumulative = probabilities.cumsum(-1, dtype=wide)
    target = uniform.to(wide)[:, None] * cumulative[:, -1:]
    column = torch.searchsorted(cumulative, target, right=True).squeeze(1)
    return column.clamp_(max=probabilities.size(-1) - 1)
