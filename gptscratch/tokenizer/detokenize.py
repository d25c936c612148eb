"""Token ids to text as they come: whole characters only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tokenizers.decoders import DecodeStream as LibraryStream

from gptscratch.tokenizer.load import library_errors

if TYPE_CHECKING:
    from gptscratch.tokenizer.tokenizer import Tokenizer

_RECENT = 64  # ids of the prompt that can matter to what follows
_LONGEST = 4  # bytes of a character in UTF-8


class DecodeStream:
    """The text of ids that continue a prompt. ``prompt`` and the texts joined are the text of all ids."""

    def __init__(self, tokenizer: Tokenizer, prompt: str = "", prompt_ids: Sequence[int] = ()) -> None:
        """``prompt_ids`` are the prompt's ids."""
        recent = [int(token_id) for token_id in prompt_ids[-_RECENT:]]
        text = tokenizer.decode(recent)
        if text.endswith("\ufffd"):  # the library would take it for half a character
            recent = []
        make = _WordStream if tokenizer.kind == "word" else _library_stream
        if tokenizer.is_sentencepiece:
            make = _WindowStream
        self._step: Callable[[int], str] = make(tokenizer, recent)
        # A tokenizer that puts a space before each word would repeat the one at the end of the prompt.
        self._drops_space = prompt[-1:].isspace() and not text[-1:].isspace()

    def feed(self, token_id: int) -> str:
        """The text that this id completes; empty while a character is still in parts."""
        text = self._step(token_id)
        if text and self._drops_space:
            text, self._drops_space = text.removeprefix(" "), False
        return text


def _library_stream(tokenizer: Tokenizer, prompt_ids: list[int]) -> Callable[[int], str]:
    stream = LibraryStream(ids=prompt_ids, skip_special_tokens=True)

    def step(token_id: int) -> str:
        with library_errors("this tokenizer cannot decode these ids"):
            return stream.step(tokenizer.library, token_id) or ""

    return step


class _WindowStream:
    """Decodes the newest ids again for each token.

    The library's stream fails at bytes that are not UTF-8, which a SentencePiece-style vocabulary has as
    tokens.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        self._shown, self._waiting = prompt_ids, list[int]()  # newest ids with their text, and those without

    def __call__(self, token_id: int) -> str:
        self._waiting.append(token_id)
        before = self._tokenizer.decode(self._shown)
        text = self._tokenizer.decode([*self._shown, *self._waiting])[len(before) :]
        if text.endswith("\ufffd") and len(self._waiting) < _LONGEST:
            return ""
        if text:
            self._shown, self._waiting = self._waiting, []
        return text


class _WordStream:
    """Where a word takes a space depends on its line, which is decoded again for each word."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        for token_id in prompt_ids:
            self(token_id)

    def __call__(self, token_id: int) -> str:
        before = self._tokenizer.decode(self._ids)
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids)
        line = text[text.rfind("\n") + 1 :]
        ends_word = not line or (line[-1].isalnum() and line.count('"') % 2 == 0)
        if ends_word and len(text) > len(before):
            self._ids = [token_id]  # what follows depends on nothing before it
        return text[len(before) :]
