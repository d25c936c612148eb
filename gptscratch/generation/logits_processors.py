"""Changes to the logits before a token is chosen, such as penalties and forbidden repetitions.

A processor is made for a batch of prompts and called with the logits of each new token; the token that was
then chosen for each row is appended. Shapes: B rows, V vocab.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from gptscratch.config import SampleConfig

if TYPE_CHECKING:
    from gptscratch.generation.memorization import SuffixArray

Prompts = Sequence[Sequence[int]]


class LogitsProcessor(Protocol):
    """Called with (B, V) logits, which it may change in place; (B,) ids that were chosen are appended."""

    def __call__(self, logits: Tensor) -> Tensor: ...

    def append(self, token_ids: Tensor) -> None: ...


class NoRepeatNgram:
    """No n tokens in a row come twice, the prompt included (Paulus et al. 2017, arXiv:1705.04304)."""

    def __init__(self, n: int, prompts: Prompts) -> None:
        self.n = n
        self.recent: list[tuple[int, ...]] = [()] * len(prompts)  # the last n - 1 tokens of each row
        self.next: list[defaultdict[tuple[int, ...], set[int]]] = [defaultdict(set) for _ in prompts]
        for row, prompt in enumerate(prompts):
            for token_id in prompt:
                self._append(row, token_id)

    def __call__(self, logits: Tensor) -> Tensor:
        rows = zip(self.next, self.recent, strict=True)
        return _without(logits, [following.get(recent, ()) for following, recent in rows])

    def append(self, token_ids: Tensor) -> None:
        for row, token_id in enumerate(token_ids.tolist()):
            self._append(row, token_id)

    def _append(self, row: int, token_id: int) -> None:
        recent = self.recent[row]
        if len(recent) == self.n - 1:
            self.next[row][recent].add(token_id)
        self.recent[row] = (*recent, token_id)[-(self.n - 1) :] if self.n > 1 else ()


class NoCopyNgram:
    """No n tokens in a row that are in the training tokens."""

    def __init__(self, n: int, training: SuffixArray, prompts: Prompts) -> None:
        self.n = n
        self.training = training
        self.recent = [list(prompt)[-(n - 1) :] if n > 1 else [] for prompt in prompts]

    def __call__(self, logits: Tensor) -> Tensor:
        whole = self.n - 1
        banned = [self.training.next_tokens(ids) if len(ids) == whole else () for ids in self.recent]
        return _without(logits, banned)

    def append(self, token_ids: Tensor) -> None:
        if self.n > 1:
            rows = zip(self.recent, token_ids.tolist(), strict=True)
            self.recent = [[*ids, token_id][-(self.n - 1) :] for ids, token_id in rows]


class TokenPenalties:
    """Repetition, frequency and presence penalty: ``SampleConfig`` says what they do.

    The first is by Keskar et al. 2019 and counts the prompt too; the others are those of OpenAI's API.
    """

    def __init__(self, config: SampleConfig, prompts: Prompts, embedding: Tensor) -> None:
        """``embedding`` (V, D) gives the size of the vocabulary and the device."""
        self.config = config
        self.counts = torch.zeros(len(prompts), len(embedding), device=embedding.device)  # of new tokens
        self.seen = torch.zeros_like(self.counts, dtype=torch.bool)  # (B, V)
        for row, prompt in enumerate(prompts):
            self.seen[row, list(prompt)] = True

    def __call__(self, logits: Tensor) -> Tensor:
        penalty, logits = self.config.repetition_penalty, logits.float()
        penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(self.seen, penalized, logits)
        logits = logits - self.config.frequency_penalty * self.counts
        return logits - self.config.presence_penalty * (self.counts > 0)

    def append(self, token_ids: Tensor) -> None:
        at = token_ids[:, None]  # (B, 1)
        self.seen.scatter_(1, at, True)
        self.counts.scatter_add_(1, at, torch.ones_like(at, dtype=self.counts.dtype))


def _without(logits: Tensor, banned: Sequence[Collection[int]]) -> Tensor:
    """The logits without the ids that are banned in each row; a row that would be left empty keeps all."""
    for row, ids in enumerate(banned):
        if len(ids):
            left = logits[row].index_fill(0, torch.tensor(list(ids), device=logits.device), -torch.inf)
            if left.isfinite().any():
                logits[row] = left
    return logits
