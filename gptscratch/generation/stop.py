"""One reply's text as its ids come: whole characters, cut at the first stop text."""

from __future__ import annotations

from collections.abc import Sequence

from gptscratch.tokenizer import DecodeStream
from gptscratch.tokenizer.cluster import whole


class Reply:
    """Feed it with ids; what it gives is certain."""

    def __init__(self, decoder: DecodeStream, stop: Sequence[str]) -> None:
        self.decoder = decoder
        self.stop = stop
        self.ended = False
        self.taken = 0  # characters decoded up to now: given, held back, or cut off
        self._held = ""  # what may turn out to be the beginning of a stop text

    def feed(self, token_id: int | None) -> str:
        """The text that is certain after one more id; None ends the reply."""
        if self.ended:
            return ""
        if token_id is None:
            return self.finish()
        return self._certain(self.decoder.feed(token_id))

    def finish(self) -> str:
        """What was held back; bytes that never became a character are dropped."""
        if self.ended:
            return ""
        text = self._certain(self.decoder.finish().rstrip("\ufffd"))
        held, self._held, self.ended = self._held, "", True
        return text + held

    def _certain(self, text: str) -> str:
        self.taken += len(text)
        self._held += text
        found = [place for place in (self._held.find(s) for s in self.stop) if place >= 0]
        if found:
            text, self._held, self.ended = self._held[: min(found)], "", True
            return text
        keep = max((_overlap(self._held, s) for s in self.stop), default=0)
        cut = whole(self._held[: len(self._held) - keep])
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of ``text`` are the first ones of ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
