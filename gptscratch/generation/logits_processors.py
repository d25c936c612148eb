"""Rules about what may not come next, from the tokens that one row has so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol


class Rule(Protocol):
    """One row's: told of every token, asked before each new one."""

    def take(self, token_id: int) -> None: ...

    def forbidden(self) -> Iterable[int]: ...


MakeRule = Callable[[Sequence[int]], Rule]  # from the ids of a row's prompt


class NoRepeat:
    """No n tokens in a row come twice, the prompt's among them (Paulus et al. 2017, arXiv:1705.04304)."""

    def __init__(self, n: int, prompt: Sequence[int] = ()) -> None:
        self.n = n
        self._recent: tuple[int, ...] = ()  # the last n - 1
        self._after: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        for token_id in prompt:
            self.take(token_id)

    def take(self, token_id: int) -> None:
        if len(self._recent) == self.n - 1:
            self._after[self._recent].add(token_id)
        self._recent = (*self._recent, token_id)[-(self.n - 1) :] if self.n > 1 else ()

    def forbidden(self) -> Iterable[int]:
        return self._after.get(self._recent, ())
