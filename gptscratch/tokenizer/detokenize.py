"""Token ids to text as they come: whole characters only."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tokenizers.decoders import DecodeStream as LibraryStream

from gptscratch.tokenizer.load import library_errors

if TYPE_CHECKING:
    from gptscratch.tokenizer.tokenizer import Tokenizer

_RECENT = 64  # ids of the prompt that can matter to what follows
_LONGEST = 4  # bytes of a character in UTF-8


class DecodeStream:
    """The text of ids that continue a prompt. ``prompt`` and the texts joined are the text of all ids.

    The ids of the prompt may end inside of a character: the prompt is their ``complete_text`` then.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: str = "", prompt_ids: Sequence[int] = ()) -> None:
        """``prompt_ids`` are the prompt's ids."""
        recent = [int(token_id) for token_id in prompt_ids[-_RECENT:]]
        begun = _begun_character(tokenizer, recent)
        whole = recent[: len(recent) - len(begun)]
        if tokenizer.decode(whole).endswith("\ufffd"):  # the library would take it for half a character
            whole = []
        make = _WordStream if tokenizer.kind == "word" else _library_stream
        if tokenizer.is_sentencepiece:
            make = _WindowStream
        self._step: Callable[[int], str] = make(tokenizer, whole)
        for token_id in begun:
            self._step(token_id)
        self._known = len(_text_before(tokenizer, begun))  # characters, which come with the begun one again
        text = complete_text(tokenizer, recent)
        # A tokenizer that puts a space before each word would repeat the one at the end of the prompt.
        self._drops_space = prompt[-1:].isspace() and not text[-1:].isspace()

    def feed(self, token_id: int) -> str:
        """The text that this id completes; empty while a character is still in parts."""
        text = self._step(token_id)
        if text and self._known:
            text, self._known = text[self._known :], 0
        if text and self._drops_space:
            text, self._drops_space = text.removeprefix(" "), False
        return text


def complete_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of ids without a character that the last ones only begin: a ``DecodeStream`` completes it."""
    begun = _begun_character(tokenizer, ids)
    return tokenizer.decode(ids[: len(ids) - len(begun)]) + _text_before(tokenizer, begun)


def _text_before(tokenizer: Tokenizer, begun: Sequence[int]) -> str:
    """What the first of the ids that begin a character has before it."""
    return tokenizer.decode(begun).rstrip("\ufffd")


def _begun_character(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """The last ids, from the one in which a character begins that they do not end (UTF-8)."""
    data = b""
    for count in range(1, min(_LONGEST, len(ids) + 1)):
        part = tokenizer.part_bytes(ids[-count])
        if part is None:
            break
        data = part + data
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(data)
        if decoder.getstate()[0]:
            return list(ids[-count:])
    return []


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
