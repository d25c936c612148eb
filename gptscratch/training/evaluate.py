"""The loss over the validation split, or over a fixed part of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gptscratch.data.batches import windows
from gptscratch.data.documents import DocumentRows, padded_windows
from gptscratch.data.shards import Tokens
from gptscratch.model.documents import document_numbers
from gptscratch.model.gpt import GPT
from gptscratch.training.loss import IGNORE, SLICE_BYTES, head_cross_entropy

_POSITIONS = 8192  # tokens of a forward pass


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
    model: GPT,
    windows: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    bytes_per_token: float,
    mask_at: int | None = None,
) -> Evaluation:
    """Score each target of the windows once; the model is put back into the mode it was in.

    Args:
        windows: (inputs, targets) pairs of (B, T) token ids; a target of ``IGNORE`` is not counted.
        bytes_per_token: of the text that the windows stand for, in UTF-8.
        mask_at: the end-of-text token, where the documents of a row are not to see one another.
    """
    was_training = model.training
    model.eval()
    device = model.token_embedding.weight.device
    wide = model.config.adaptive_cutoffs or (model.config.vocab_size,)
    rows = max(1, SLICE_BYTES // (4 * wide[0]))  # positions whose logits are held at once
    total, right, tokens = 0.0, 0, 0
    for inputs, targets in windows:
        wanted = torch.from_numpy(targets).to(device).flatten()
        losses, hits = [], []  # of each slice: kept any longer, they would lie between larger tensors
        token_ids = torch.from_numpy(inputs).to(device)
        documents = None if mask_at is None else document_numbers(token_ids, mask_at)
        hidden = model.hidden(token_ids, documents=documents).flatten(0, 1)  # (B T, D)
        for start in range(0, len(wanted), rows):
            end = start + rows
            loss, hit = _score(model.lm_head, hidden[start:end], wanted[start:end])
            losses.append(loss)
            hits.append(hit)
        total += torch.stack(losses).cpu().double().sum().item()
        right += int(torch.stack(hits).sum())
        tokens += int((targets != IGNORE).sum())
    model.train(was_training)
    mean = total / tokens
    return Evaluation(
        loss=mean,
        accuracy=right / tokens,
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
    """Evaluates a model on the validation split, in rows of the kind that it is trained on."""

    def __init__(
        self, model: GPT, tokens: Tokens, *, mask_at: int | None = None, pad_with: int | None = None
    ) -> None:
        """``mask_at`` as in ``evaluate``; ``pad_with`` as in ``make_batches``."""
        counts = tokens.manifest.val
        self.model = model
        self.tokens = tokens.val
        self.bytes_per_token = counts.bytes / max(1, counts.tokens)
        self.mask_at = mask_at
        context = model.config.context_length
        self.rows = None if pad_with is None else DocumentRows(tokens.val, context, pad_with)

    def __call__(self, limit: int | None = None) -> Evaluation:
        """Over about ``limit`` tokens, evenly spread and always the same; None: all."""
        context = self.model.config.context_length
        if self.rows is None:
            parts = windows(self.tokens, context, max(1, _POSITIONS // context), limit=limit)
        else:
            parts = padded_windows(self.rows, max(context, _POSITIONS), limit=limit)
        return evaluate(self.model, parts, bytes_per_token=self.bytes_per_token, mask_at=self.mask_at)
