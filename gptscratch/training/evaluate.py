"""The loss over the validation split, or over a fixed part of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gptscratch.data.batches import windows
from gptscratch.data.document_batches import DocumentRows, padded_windows
from gptscratch.data.token_files import TokenArray, Tokens, token_counts
from gptscratch.device import on_device
from gptscratch.errors import CorpusError
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import document_layout, document_numbers
from gptscratch.tokenizer import Tokenizer
from gptscratch.training.loss import IGNORE, head_cross_entropy, slice_rows

_POSITIONS = 8192  # tokens of a forward pass


@dataclass(frozen=True)
class Evaluation:
    """Means over the tokens predicted."""

    loss: float  # nats per token
    accuracy: float  # share of tokens that were the most likely
    tokens: int
    bytes_per_token: float  # of the text of these tokens
    unknown: int = 0  # targets that stand for what the vocabulary lacks: they are left out

    @property
    def bits_per_byte(self) -> float:
        return self.loss / math.log(2) / max(self.bytes_per_token, 1e-9)

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))  # beyond is no double, and JSON has no infinity


@torch.no_grad()
def evaluate(
    model: GPT,
    windows: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    token_bytes: NDArray[np.floating[Any]],
    unk_id: int | None = None,
    mask_at: int | None = None,
    rows: int | None = None,
) -> Evaluation:
    """Score each target of the windows once; the model is put back into the mode it was in.

    Args:
        windows: (inputs, targets) pairs of (B, T) token ids; a target of ``IGNORE`` is not counted.
        token_bytes: (V,) bytes of UTF-8 that each token stands for.
        unk_id: the token of what the vocabulary lacks. As a target it is left out: it is easy to predict,
            and says nothing about the text that it replaces.
        mask_at: the end-of-text token, where the documents of a row are not to see one another.
        rows: positions whose logits are held at once; None: as many as suit the device.

    Raises:
        CorpusError: every target is unknown.
    """
    was_training = model.training
    model.eval()
    device = model.token_embedding.weight.device
    wide = model.config.adaptive_cutoffs or (model.config.vocab_size,)
    rows = rows or slice_rows(wide[0], torch.float32, device)
    total, right, tokens, unknown, n_bytes = 0.0, 0, 0, 0, 0.0
    for inputs, targets in windows:
        if unk_id is not None:
            unknown += int((targets == unk_id).sum())
            targets = np.where(targets == unk_id, IGNORE, targets)
        wanted = on_device(targets, device).flatten()
        losses, hits = [], []  # of each slice: kept any longer, they would lie between larger tensors
        token_ids = on_device(inputs, device)
        layout = None if mask_at is None else document_layout(document_numbers(token_ids, mask_at))
        hidden = model.hidden(token_ids, layout=layout).flatten(0, 1)  # (B T, D)
        for start in range(0, len(wanted), rows):
            end = start + rows
            loss, hit = _score(model.lm_head, hidden[start:end], wanted[start:end])
            losses.append(loss)
            hits.append(hit)
        total += torch.stack(losses).cpu().double().sum().item()
        right += int(torch.stack(hits).sum())
        counted = targets[targets != IGNORE]
        tokens += len(counted)
        n_bytes += float(token_bytes[counted].sum())
    model.train(was_training)
    if not tokens:
        raise CorpusError(
            "the validation text has no token that the vocabulary knows.", "Take another --tokenizer."
        )
    return Evaluation(
        loss=total / tokens,
        accuracy=right / tokens,
        tokens=tokens,
        bytes_per_token=n_bytes / tokens,
        unknown=unknown,
    )


def weighted(parts: Sequence[tuple[float, Evaluation]]) -> Evaluation:
    """The mean over several corpora by their weights, as if tokens were drawn by them."""
    total = sum(weight for weight, _ in parts)
    shares = [(weight / total, part) for weight, part in parts]
    return Evaluation(
        loss=sum(share * part.loss for share, part in shares),
        accuracy=sum(share * part.accuracy for share, part in shares),
        tokens=sum(part.tokens for _, part in shares),
        bytes_per_token=sum(share * part.bytes_per_token for share, part in shares),
        unknown=sum(part.unknown for _, part in shares),
    )


def bytes_of_tokens(tokens: Tokens, tokenizer: Tokenizer) -> NDArray[np.float64]:
    """(V,) bytes that each token of the validation text stands for.

    A tokenizer that loses text (white space between words) has more bytes than its tokens show: all are
    scaled, so that the known tokens together have the bytes of the text without its unknown parts.
    """
    found = tokenizer.token_bytes().astype(np.float64)
    if not tokenizer.lossless and len(tokens.val):
        counts = token_counts(tokens.val, tokenizer.vocab_size)
        shown = float(counts @ found) * len(tokens.val) / max(1, counts.sum())
        manifest = tokens.manifest
        found *= (manifest.val.bytes - manifest.val_unknown_bytes) / max(1.0, shown)
    return found


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
    """Evaluates a model on the validation split, in rows of the kind that it is trained on.

    Corpora with weights are scored one by one, and count by their weights, as they do in training.
    """

    def __init__(
        self,
        model: GPT,
        tokens: Tokens,
        tokenizer: Tokenizer,
        *,
        mask_at: int | None = None,
        pad_with: int | None = None,
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        """``mask_at`` as in ``evaluate``; ``pad_with`` as in ``make_batches``.

        ``refresh`` is called before each evaluation: ``model`` may be a copy in half precision.
        """
        self.model = model
        self.refresh = refresh
        self.token_bytes = bytes_of_tokens(tokens, tokenizer)
        self.unk_id = tokenizer.unk_id
        self.mask_at = mask_at
        context = model.config.context_length
        self.parts: list[tuple[float, TokenArray | DocumentRows]] = [
            (weight, part if pad_with is None else DocumentRows(part, context, pad_with))
            for weight, part in validation_parts(tokens)
        ]

    def __call__(self, limit: int | None = None) -> Evaluation:
        """Over about ``limit`` tokens, evenly spread and always the same; None: all."""
        self.refresh()
        total = sum(weight for weight, _ in self.parts)
        found = [
            (weight, self._score(part, None if limit is None else math.ceil(limit * weight / total)))
            for weight, part in self.parts
        ]
        return found[0][1] if len(found) == 1 else weighted(found)

    def _score(self, part: TokenArray | DocumentRows, limit: int | None) -> Evaluation:
        context = self.model.config.context_length
        if isinstance(part, DocumentRows):
            rows = padded_windows(part, max(context, _POSITIONS), limit=limit)
        else:
            rows = windows(part, context, max(1, _POSITIONS // context), limit=limit)
        return evaluate(
            self.model, rows, token_bytes=self.token_bytes, unk_id=self.unk_id, mask_at=self.mask_at
        )


def validation_parts(tokens: Tokens) -> list[tuple[float, TokenArray]]:
    """(weight, tokens) of each corpus that has validation text; without weights all of it is one part."""
    ends = np.cumsum([share.val_tokens for share in tokens.manifest.corpora])
    parts = [
        (share.weight, tokens.val[end - share.val_tokens : end])
        for share, end in zip(tokens.manifest.corpora, ends, strict=True)
        if share.val_tokens > 1
    ]
    return parts or [(1.0, tokens.val)]
