"""Stop strings: a text that is generated bit by bit ends before the first of them."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Feed it text; what it returns cannot be part of a stop string any more."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = stop
        self.found = False
        self._held = ""  # may turn out to be the beginning of a stop string

    def feed(self, text: str) -> str:
        """The text that is certain after some more of it."""
        self._held += text
        places = [place for place in (self._held.find(stop) for stop in self.stop) if place >= 0]
        if places:
            self.found = True
            text, self._held = self._held[: min(places)], ""
            return text
        keep = max((_overlap(self._held, stop) for stop in self.stop), default=0)
        end = len(self._held) - keep
        text, self._held = self._held[:end], self._held[end:]
        return text

    def finish(self) -> str:
        """The rest, once nothing follows."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of ``text`` are the first ones of ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
