"""Decoding one token at a time: text comes out as soon as whole characters are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_HALF = "\ufffd"  # what a decoder shows for bytes that are no whole character (yet)
_TOGETHER = 64  # ids of a text before, decoded at once


class DecodeStream:
    """Turns ids into text as they come; the texts joined are the text of all ids decoded at once.

    It decodes a short window again with each id, since spaces and characters depend on the ids before.
    ``restarts`` tells from a window's text whether what follows depends on its last token alone.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], restarts: Callable[[str], bool]) -> None:
        self._decode = decode
        self._restarts = restarts
        self._window: list[int] = []
        self._recent = 0  # where in the window the ids of the last text begin
        self._shown = 0  # characters of the window's text that are out already
        self._has_space = False  # one is out that no id stands for: the next text brings no other

    def follow(self, text: str, ids: Sequence[int]) -> None:
        """Go on behind a text that is out already; ``ids`` are its own, and may lack a space at its end."""
        told = ""
        for start in range(0, len(ids), _TOGETHER):
            told = self._take(ids[start : start + _TOGETHER]) or told
        self._shown = len(self._decode(self._window))  # a U+FFFD at its end is one, and no half character
        self._has_space = text[-1:].isspace() and not told[-1:].isspace()

    def feed(self, token_id: int) -> str:
        """The text that this id completes; empty while a character is still in parts."""
        text = self._take([int(token_id)])
        if text and self._has_space:
            text, self._has_space = text.removeprefix(" "), False
        return text

    def finish(self) -> str:
        """What was held back, broken characters as U+FFFD; the stream starts afresh."""
        rest = self._decode(self._window)[self._shown :]
        self._window, self._recent, self._shown, self._has_space = [], 0, 0, False
        return rest

    def _take(self, ids: Sequence[int]) -> str:
        self._window += ids
        text = self._decode(self._window)
        whole = text.rstrip(_HALF)
        if len(whole) <= self._shown:
            return ""
        new = whole[self._shown :]
        if whole != text or not self._restarts(text):
            self._shown = len(whole)
            return new
        del self._window[: self._recent]
        self._recent = len(self._window)
        self._shown = len(self._decode(self._window))
        return new
