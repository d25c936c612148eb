"""The tokens of a generated text: the characters each one wrote, and its log-probability.

Log-probabilities are natural logarithms of the model's own distribution, before processors, temperature and
truncation: the same as those of ``score``. Shapes: B rows, V vocab, N alternatives.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gptscratch.generation.stop import StopStrings
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

    Tokens after a stop string, or of an incomplete character at the end, are never returned.
    """

    def __init__(self, stream: DecodeStream, stop: Sequence[str]) -> None:
        self.ended = False
        self._stream = stream
        self._stop = StopStrings(stop)
        self._certain = ""
        self._waiting: deque[tuple[int, GeneratedToken]] = deque()  # each with its number of characters

    def feed(self, token: GeneratedToken | None) -> list[GeneratedToken]:
        """The tokens that are certain after one more; None ends the text."""
        if self.ended:
            return []
        if token is None:
            self._certain += self._stop.finish()
            self.ended = True
        else:
            text = self._stream.feed(token.id)
            self._waiting.append((len(text), token))
            self._certain += self._stop.feed(text)
            self.ended = self._stop.found
        released = []
        while self._certain and self._waiting:
            size, token = self._waiting[0]
            if len(self._certain) < size and not self.ended:
                break
            self._waiting.popleft()
            token.text, self._certain = self._certain[:size], self._certain[size:]
            released.append(token)
        return released
