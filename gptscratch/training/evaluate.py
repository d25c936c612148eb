"""The loss over the validation split, or over a fixed part of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gptscratch.data.batches import weighted_parts, windows
from gptscratch.data.document_batches import Batch, DocumentRows, padded_windows
from gptscratch.data.prepare import Prepared
from gptscratch.data.token_files import TokenArray, Tokens, token_counts
from gptscratch.device import on_device
from gptscratch.errors import CorpusError
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import document_layout, document_numbers
from gptscratch.tokenizer import Tokenizer
from gptscratch.training.events import Evaluated
from gptscratch.training.loss import IGNORE, head_scores, slice_rows
from gptscratch.training.replica import LowPrecisionReplica

_POSITIONS = 8192  # tokens of a forward pass

Sums = NDArray[np.float64]  # loss in nats, correct predictions, tokens, their bytes, tokens left out


class Evaluator:
    """Evaluates a model on the validation split, in rows of the kind that it is trained on.

    The ranks share the work and have the same result.
    Corpora with weights are scored one by one, and count by their weights, as they do in training.
    """

    def __init__(
        self,
        replica: LowPrecisionReplica,
        prepared: Prepared,
        *,
        pad_with: int | None = None,
    ) -> None:
        """``pad_with`` as in ``Batches``.

        Raises:
            CorpusError: no corpus has two validation tokens.
        """
        self.replica, self.pad_with = replica, pad_with
        self.token_bytes = bytes_of_tokens(prepared.tokens, prepared.tokenizer)
        self.unk_id = prepared.tokenizer.unk_id
        self.parts = weighted_parts(prepared.tokens, "val")
        if not self.parts:
            raise CorpusError(
                "the validation text is too short to evaluate: two tokens of one corpus are needed.",
                "Give more text, or another share of it for validation with --val-fraction.",
            )
        self._documents: dict[int, DocumentRows] = {}  # of each part: found once

    def __call__(self, step: int, limit: int | None = None) -> Evaluated:
        """Over about ``limit`` tokens, evenly spread and always the same; None: all.

        Raises:
            CorpusError: the vocabulary knows no token of a corpus.
        """
        self.replica.copy_weights()
        world, total = self.replica.world, sum(weight for weight, _ in self.parts)
        found = []
        for weight, part in self.parts:
            batches = self.batches(part, None if limit is None else math.ceil(limit * weight / total))
            sums = sums_over(
                self.replica.evaluated, self.replica.share_batches(batches), self.token_bytes,
                unk_id=self.unk_id, mask_at=self.replica.mask_at,
            )  # fmt: skip
            world.add_up([torch.from_numpy(sums)])
            found.append((weight / total, sums))
        return means(step, found)

    def batches(self, part: TokenArray, limit: int | None) -> Iterable[Batch]:
        context = self.replica.model.config.context_length
        if self.pad_with is None:
            return windows(part, context, max(1, _POSITIONS // context), limit=limit)
        if id(part) not in self._documents:
            self._documents[id(part)] = DocumentRows(part, context, self.pad_with)
        rows = self._documents[id(part)]
        return padded_windows(rows, max(context, _POSITIONS), limit=limit)


@torch.no_grad()
def sums_over(
    model: GPT,
    batches: Iterable[Batch],
    token_bytes: NDArray[np.floating[Any]],
    *,
    unk_id: int | None = None,
    mask_at: int | None = None,
    rows: int | None = None,
) -> Sums:
    """Score each target once, except ``IGNORE`` and unknown tokens, which are easy to predict.

    Args:
        token_bytes: (V,) bytes of UTF-8 that each token represents.
        unk_id: the token for what the vocabulary lacks.
        mask_at: the end-of-text token, where the documents of a row are not to see one another.
        rows: positions whose logits are held at once; None: as many as suit the device.
    """
    was_training = model.training
    model.eval()
    device = model.token_embedding.weight.device
    rows = rows or slice_rows((model.config.adaptive_cutoffs or (model.config.vocab_size,))[0], device)
    sums = np.zeros(5)
    for inputs, targets in batches:
        unknown = (targets == unk_id) & (unk_id is not None)
        targets = np.where(unknown, IGNORE, targets)
        token_ids, wanted = on_device(inputs, device), on_device(targets, device).flatten()
        layout = None if mask_at is None else document_layout(document_numbers(token_ids, mask_at))
        hidden = model.hidden(token_ids, layout=layout).flatten(0, 1)  # (B T, D)
        scores = [  # of each slice: kept longer, its logits would be in memory between larger tensors
            head_scores(model.lm_head, hidden[start : start + rows], wanted[start : start + rows])
            for start in range(0, len(wanted), rows)
        ]
        counted = targets[targets != IGNORE]
        loss_sum, hits = torch.stack(scores).cpu().double().sum(0).tolist()
        sums += (loss_sum, hits, len(counted), token_bytes[counted].sum(), unknown.sum())
    model.train(was_training)
    return sums


def means(step: int, parts: Sequence[tuple[float, Sums]]) -> Evaluated:
    """Means over several corpora by their weights, which sum to 1, as if tokens were sampled by them."""
    if not all(tokens for _, (_, _, tokens, _, _) in parts):
        raise CorpusError(
            "the validation text has no token that the vocabulary knows.", "Take another --tokenizer."
        )
    means = sum(weight * sums / sums[2] for weight, sums in parts)
    loss, accuracy, _, bytes_per_token, _ = np.asarray(means).tolist()
    return Evaluated(
        step=step,
        val_loss=loss,
        val_accuracy=accuracy,
        val_perplexity=math.exp(min(loss, 700.0)),  # JSON has no infinity
        val_bits_per_byte=loss / math.log(2) / max(bytes_per_token, 1e-9),
        val_tokens=int(sum(sums[2] for _, sums in parts)),
        val_unknown=int(sum(sums[4] for _, sums in parts)),
    )


def bytes_of_tokens(tokens: Tokens, tokenizer: Tokenizer) -> NDArray[np.float64]:
    """(V,) bytes that each token of the validation text represents.

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
