"""Which token of a reply wrote which of its characters, and what else the model thought of.

Log-probabilities are natural logarithms of the model's own distribution: before penalties, rules,
temperature and truncation, so that they are those of ``score``.

Shapes: B rows, V vocab, N alternatives.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from gptscratch.generation.stop import Reply
from gptscratch.tokenizer import Tokenizer
from gptscratch.tokenizer.cluster import joined, whole


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A token that could have come."""

    id: int
    token: str  # as the vocabulary has it; bytes that are no character as \\x..
    logprob: float


@dataclass(frozen=True, kw_only=True)
class TracedToken(Candidate):
    """A token that came."""

    text: str  # what it added to the reply; empty while a character is in parts
    best: tuple[Candidate, ...]  # the likeliest, it may be among them

    @property
    def bits(self) -> float:
        """The surprise."""
        return -self.logprob / math.log(2)


class Thoughts:
    """Remembers the newest logits of every row: a ``watch`` for ``decode``."""

    def __init__(self, n_best: int) -> None:
        self.n_best = n_best

    def __call__(self, logits: Tensor) -> None:
        """Take (B, V) logits, before anything is ruled out."""
        self._logprobs = logits.float().log_softmax(-1)  # (B, V), a copy: the logits are changed in place
        values, ids = self._logprobs.topk(min(self.n_best, logits.size(-1)))  # (B, N)
        self._best = [
            list(zip(*pair, strict=True)) for pair in zip(ids.tolist(), values.tolist(), strict=True)
        ]

    def of(self, row: int, token_id: int) -> tuple[float, list[tuple[int, float]]]:
        """The log-probability of the token that came, and (id, log-probability) of the likeliest."""
        return float(self._logprobs[row, token_id]), self._best[row]


class Trace:
    """A reply told token by token: feed it as ``Reply``; the texts of what it gives, joined, are the reply's.

    A token comes out once its text is certain. What lies behind a stop text, or never became a character,
    does not.
    """

    def __init__(self, reply: Reply, tokenizer: Tokenizer, thoughts: Thoughts, row: int = 0) -> None:
        self.reply = reply
        self._tokenizer = tokenizer
        self._thoughts = thoughts
        self._row = row
        self._certain = ""
        self._waiting: deque[tuple[int, TracedToken]] = deque()  # each with its number of characters

    def feed(self, token_id: int | None) -> list[TracedToken]:
        """The tokens that are certain after one more; None ends the reply."""
        if self.reply.ended:
            return []
        before = self.reply.taken
        self._certain += self.reply.feed(token_id)
        if token_id is not None:
            self._waiting.append((self.reply.taken - before, self._traced(token_id)))
        return list(self._released())

    def finish(self) -> list[TracedToken]:
        """What was held back."""
        return self.feed(None)

    def _released(self) -> Iterator[TracedToken]:
        while self._certain and self._waiting:
            size, token = self._waiting[0]
            if len(self._certain) < size and not self.reply.ended:
                return
            self._waiting.popleft()
            yield dataclasses.replace(token, text=self._certain[:size])
            self._certain = self._certain[size:]

    def _traced(self, token_id: int) -> TracedToken:
        logprob, best = self._thoughts.of(self._row, token_id)
        piece = self._tokenizer.token_text
        return TracedToken(
            id=token_id,
            token=piece(token_id),
            logprob=logprob,
            text="",
            best=tuple(Candidate(id=i, token=piece(i), logprob=value) for i, value in best),
        )


def merged(pieces: Iterable[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    """(text, bits) of tokens, put together where they make one character or one emoji."""
    held, total, coming = "", 0.0, 0.0
    for text, bits in pieces:
        coming += bits
        if not text:
            continue
        if held and not joined(held + text, len(held)):
            yield held, total
            held, total = "", 0.0
        held, total, coming = held + text, total + coming, 0.0
        if whole(held) == len(held):
            yield held, total
            held, total = "", 0.0
    if held:
        yield held, total
