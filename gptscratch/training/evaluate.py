"""The loss over the validation split, or over a fixed part of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gptscratch.data.batches import windows
from gptscratch.data.shards import Tokens
from gptscratch.model.gpt import GPT
from gptscratch.training.loss import IGNORE, SLICE_ELEMENTS, head_cross_entropy


@dataclass(frozen=True)
class Evaluation:
    """Means over the tokens predicted."""

    loss: float  # nats per token
    accuracy: float  # share of tokens that were the likeliest
    bits_per_byte: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))  # beyond is no double, and JSON has no infinity


@torch.no_grad()
def evaluate(
    model: GPT, windows: Iterable[tuple[np.ndarray, np.ndarray]], *, bytes_per_token: float
) -> Evaluation:
    """Score each target of the windows once; the model is put back into the mode it was in.

    Args:
        windows: (inputs, targets) pairs of (B, T) token ids; a target of ``IGNORE`` is not counted.
        bytes_per_token: of the text that the windows stand for, in UTF-8.
    """
    was_training = model.training
    model.eval()
    device = model.token_embedding.weight.device
    wide = model.config.adaptive_cutoffs or (model.config.vocab_size,)
    rows = max(1, SLICE_ELEMENTS // wide[0])  # positions whose logits are held at once
    losses, hits, tokens = [], [], 0  # of each slice; added up at the end, where there is float64
    for inputs, targets in windows:
        wanted = torch.from_numpy(targets).to(device).flatten()
        hidden = model.hidden(torch.from_numpy(inputs).to(device)).flatten(0, 1)  # (B T, D)
        for start in range(0, len(wanted), rows):
            end = start + rows
            loss, hit = _score(model.lm_head, hidden[start:end], wanted[start:end])
            losses.append(loss)
            hits.append(hit)
        tokens += int((targets != IGNORE).sum())
    model.train(was_training)
    mean = torch.stack(losses).cpu().double().sum().item() / tokens
    return Evaluation(
        loss=mean,
        accuracy=torch.stack(hits).sum().item() / tokens,
        bits_per_byte=mean / math.log(2) / bytes_per_token,
        tokens=tokens,
    )


def _score(head: nn.Module, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The summed loss of (N, D) against (N,), and how many targets were the likeliest token."""
    if isinstance(head, nn.AdaptiveLogSoftmaxWithLoss):  # without the parts that no target lies in
        return head_cross_entropy(head, hidden, targets), (head.predict(hidden) == targets).sum()
    logits = head(hidden).float()  # (N, V)
    counts = targets != IGNORE
    own = logits.gather(1, targets.clamp(min=0)[:, None]).squeeze(1)
    loss = ((logits.logsumexp(-1) - own) * counts).sum()
    return loss, (logits.argmax(-1) == targets).sum()


class Scorer:
    """Evaluates a model on the validation split."""

    def __init__(self, model: GPT, tokens: Tokens) -> None:
        counts = tokens.manifest.val
        self.model = model
        self.tokens = tokens.val
        self.bytes_per_token = counts.bytes / max(1, counts.tokens)

    def __call__(self, limit: int | None = None) -> Evaluation:
        """Over about ``limit`` tokens, evenly spread and always the same; None: all."""
        context = self.model.config.context_length
        rows = max(1, 8192 // context)
        parts = windows(self.tokens, context, rows, limit=limit)
        return evaluate(self.model, parts, bytes_per_token=self.bytes_per_token)
