"""The tokens of a generated text: the characters each one wrote, and its log-probability.

Log-probabilities are natural logarithms of the model's own distribution, before processors, temperature and
truncation: the same as those of ``score``. Shapes: B rows, V vocab, N alternatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gptscratch.tokenizer import Tokenizer
from gptscratch.tokenizer.detokenize import DecodeStream


@dataclass(frozen=True)
class Candidate:
    """A token that could have been chosen."""

    id: int
    token: str  # as in the vocabulary; bytes that are not a whole character as \\x..
    logprob: float


@dataclass
class GeneratedToken:
    """A token that was chosen. Without log-probabilities ``token`` and ``best`` are empty."""

    id: int
    token: str = ""  # as in the vocabulary
    logprob: float | None = None
    text: str = ""  # what it added to the text; empty while a character is in parts
    best: tuple[Candidate, ...] = ()  # the most likely tokens, this one possibly among them

    @property
    def bits(self) -> float:
        """The surprise: -log2 of the probability."""
        return -(self.logprob or 0.0) / math.log(2)


class LogprobRecorder:
    """Keeps the log-probabilities of the newest token of each row, with the ``n_best`` most likely ones."""

    def __init__(self, tokenizer: Tokenizer, n_best: int) -> None:
        self.tokenizer = tokenizer
        self.n_best = n_best

    def record(self, logits: Tensor) -> None:
        """Take (B, V) logits, before any processor changes them."""
        self._logprobs = logits.float().log_softmax(-1)  # (B, V), a copy
        values, ids = self._logprobs.topk(min(self.n_best, logits.size(-1)))  # (B, N)
        self._best = list(zip(ids.tolist(), values.tolist(), strict=True))

    def token(self, row: int, token_id: int) -> GeneratedToken:
        spell = self.tokenizer.token_text
        best = tuple(Candidate(i, spell(i), value) for i, value in zip(*self._best[row], strict=True))
        return GeneratedToken(token_id, spell(token_id), float(self._logprobs[row, token_id]), best=best)


class TokenTexts:
    """Divides the text of one row among its tokens: each is returned once its text is certain.

    The text ends before the first stop string. Tokens after it, or of an incomplete character at the end, are
    never returned.
    """

    def __init__(self, stream: DecodeStream, stop: Sequence[str]) -> None:
        self.ended = False
        self._stream = stream
        self._stop = stop
        self._waiting: list[GeneratedToken] = []  # may be a part of a stop string, or of a character

    def feed(self, token: GeneratedToken | None) -> list[GeneratedToken]:
        """The tokens that are certain after one more; None ends the text."""
        if self.ended:
            return []
        if token is not None:
            token.text = self._stream.feed(token.id)
            self._waiting.append(token)
        text = "".join(each.text for each in self._waiting)
        found = [place for place in map(text.find, self._stop) if place >= 0]
        self.ended = token is None or bool(found)
        certain = min(found) if found else len(text)
        if not self.ended:
            certain -= max((_overlap(text, stop) for stop in self._stop), default=0)
        released = []
        while certain and (self.ended or len(self._waiting[0].text) <= certain):
            first = self._waiting.pop(0)
            first.text = first.text[:certain]
            certain -= len(first.text)
            released.append(first)
        return released


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of ``text`` are the first ones of ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
