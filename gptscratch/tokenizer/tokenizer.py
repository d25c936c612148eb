"""One tokenizer over the `tokenizers` library, with numpy tables where those are faster.

Special tokens are never found in text by accident: a document that spells ``<|endoftext|>`` gets
the ids of those thirteen characters. ``encode(text, specials=True)`` asks for them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from gptscratch.errors import TokenizerError
from gptscratch.tokenizer.build import END_OF_TEXT, UNKNOWN, WORD, build_tokenizer, byte_letters
from gptscratch.tokenizer.cut import cutter_for
from gptscratch.tokenizer.files import library_errors, load_library_tokenizer
from gptscratch.tokenizer.memo import Memo
from gptscratch.tokenizer.stream import DecodeStream

Ids = NDArray[np.unsignedinteger[Any]]
Lengths = NDArray[np.int64]

_BULK = 1 << 14  # characters, from which on remembering pieces pays

_CANNOT_ENCODE = (
    "this tokenizer cannot encode the text",
    "Does its tokenizer.json name an unknown token for what its vocabulary lacks?",
)

# What the makers of published tokenizers call the end of a document, ours first.
_END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]")


class Tokenizer:
    """Encodes text to ids and decodes ids to text.

    Attributes:
        kind: ``char``, ``byte``, ``word``, ``bpe``, or the library's name of another model.
        vocab_size: ids are below it.
        eot_id: the id that ends a document, or None.
        unk_id: the id of what the vocabulary lacks, or None where nothing can be unknown.
        dtype: the smallest of uint16 and uint32 that holds every id.
    """

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        """Takes the tokenizer over: padding, truncation and added special tokens are switched off."""
        library.no_truncation()
        library.no_padding()
        library.post_processor = None
        library.encode_special_tokens = True
        self.library = library
        spec = json.loads(library.to_str())
        self.kind = _kind(spec)
        self.vocab_size = max(library.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.dtype: type[np.unsignedinteger[Any]] = np.uint16 if self.vocab_size <= 1 << 16 else np.uint32
        self._byte_level = '"ByteLevel"' in json.dumps(spec["pre_tokenizer"])
        self.eot_id = next((i for i in map(library.token_to_id, _END_NAMES) if i is not None), None)
        self.unk_id = None if self._byte_level else _unknown_id(library, spec["model"])
        special = {token["content"]: token["id"] for token in spec["added_tokens"] if token["special"]}
        self._special: dict[str, int] = special
        self._table = _char_table(library, self.unk_id, self.dtype) if self.kind == "char" else None
        cutter = None if self.kind in ("char", "byte") else cutter_for(spec, (WORD,))
        self._memo = Memo(library, cutter, self.dtype) if cutter else None

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """From a tokenizer.json, GPT-2's vocab.json + merges.txt, or a folder or run with either.

        Raises:
            TokenizerError: nothing is there, or it cannot be read.
        """
        return cls(load_library_tokenizer(path))

    @classmethod
    def of_bytes(cls) -> Tokenizer:
        """The ids are the bytes of UTF-8: no text is needed to make it."""
        return cls(build_tokenizer("byte", lambda: [], alphabet="", n_characters=0))

    def save(self, path: str | Path) -> None:
        """Write one tokenizer.json that the `tokenizers` library and transformers load."""
        Path(path).write_text(self.library.to_str(pretty=True), encoding="utf-8", newline="\n")

    @property
    def hash(self) -> str:
        """Of all that decides about ids and text."""
        return hashlib.blake2b(self.library.to_str().encode(), digest_size=16).hexdigest()

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        """The ids of a text. With ``specials``, names of special tokens in it become those tokens."""
        if not specials:
            return [int(i) for i in self.encode_array(text)]
        ids: list[int] = []
        for part in self._parts(text):
            ids.extend([self._special[part]] if part in self._special else self.encode(part))
        return ids

    def encode_array(self, text: str) -> Ids:
        """The ids of a text as a numpy array of ``dtype``."""
        return self.encode_arrays([text])[0]

    def encode_arrays(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of many texts, one array each."""
        ids, lengths = self.encode_joined(texts)
        return np.split(ids, np.cumsum(lengths)[:-1]) if texts else []

    def encode_joined(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """The ids of many texts, one behind the other, and how many each has: the bulk path.

        The library needs about 30 times a text's size while it works: give it a few megabytes at once.
        """
        if not texts:
            return np.zeros(0, self.dtype), np.zeros(0, np.int64)
        if self.kind in ("char", "byte"):
            return self._encode_by_table([self._normalized(text) for text in texts])
        with library_errors(*_CANNOT_ENCODE):
            if self._memo and sum(map(len, texts)) >= _BULK:
                return self._memo.encode(texts)
            found = self.library.encode_batch_fast(list(texts), add_special_tokens=False)
        lengths = np.array([len(encoding) for encoding in found], np.int64)
        return np.concatenate([np.array(encoding.ids, self.dtype) for encoding in found]), lengths

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of ids; bytes that are no character come out as U+FFFD.

        Raises:
            TokenizerError: an id is outside the vocabulary.
        """
        ids = [int(i) for i in ids]
        wrong = next((i for i in ids if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise TokenizerError(
                f"{wrong} is no token: this tokenizer has the ids 0 to {self.vocab_size - 1}."
            )
        with library_errors("this tokenizer cannot decode these ids"):
            return self.library.decode(ids, skip_special_tokens=skip_special)

    def stream(self, *, after: str = "") -> DecodeStream:
        """A decoder to feed with one id after the other, which go on from the text ``after``."""
        stream = DecodeStream(self.decode, _word_restarts if self.kind == "word" else _always)
        if after:
            stream.follow(after, self.encode(after, specials=True))
        return stream

    def unknown(self, text: str) -> list[str]:
        """The characters or words of a text that the vocabulary lacks, each once, in order.

        Names of special tokens in it are those tokens.
        """
        if self.unk_id is None:
            return []
        parts = [part for part in self._parts(text) if part not in self._special]
        found = [part[start:end] for part in parts for i, start, end in self.spans(part) if i == self.unk_id]
        return list(dict.fromkeys(found))

    @property
    def lossless(self) -> bool:
        """Whether decoding gives the text back as it was, but for unknown characters. Words do not keep
        white space, and lower case does not keep case.
        """
        spec = json.loads(self.library.to_str())
        before = json.dumps(spec["pre_tokenizer"])
        if spec["normalizer"] is not None or '"Removed"' in before or '"add_prefix_space": true' in before:
            return False
        return self.kind == "char" or self._byte_level

    def token_bytes(self) -> NDArray[np.int64]:
        """How many bytes of UTF-8 each token stands for, 0 for special and unknown ones: (vocab_size,)."""
        found = np.zeros(self.vocab_size, np.int64)
        letters = set(byte_letters())
        for token, token_id in self.library.get_vocab(with_added_tokens=True).items():
            if token in self._special or token_id == self.unk_id:
                continue
            if self._byte_level and set(token) <= letters:
                found[token_id] = len(token)
            elif self._byte_level or self.kind == "char":
                found[token_id] = len(token.encode())
            else:
                found[token_id] = len(self.decode([token_id]).encode())
        return found

    def unknown_bytes(self, text: str) -> int:
        """The bytes of UTF-8 of what the vocabulary lacks in a text."""
        if self.unk_id is None:
            return 0
        with library_errors(*_CANNOT_ENCODE):
            encoding = self.library.encode(text, add_special_tokens=False)
        offsets = encoding.offsets
        places = np.flatnonzero(np.array(encoding.ids) == self.unk_id)
        return sum(len(text[start:end].encode()) for start, end in (offsets[place] for place in places))

    def pieces(self, text: str) -> list[tuple[str, int]]:
        """(piece, id) of a text, for the eye; a token that is part of a character shows its bytes."""
        spans = self.spans(text)
        if self._byte_level:
            return [(self.piece(i), i) for i, _, _ in spans]
        return [(text[start:end], i) for i, start, end in spans]

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """(id, start, end) of a text's tokens, in characters; parts of a character share its place."""
        if not _is_unicode(text):  # what a terminal of another encoding gave, or half of a surrogate pair
            raise TokenizerError("the text holds bytes that are not text in the terminal's encoding.")
        with library_errors(*_CANNOT_ENCODE):
            encoding = self.library.encode(text, add_special_tokens=False)
        return [(i, *offsets) for i, offsets in zip(encoding.ids, encoding.offsets, strict=True)]

    def piece(self, token_id: int) -> str:
        """One token as the vocabulary has it; bytes that are no character as ``\\x..``."""
        token = self.library.id_to_token(token_id) or ""
        letters = byte_letters()
        if not self._byte_level or token in self._special or not set(token) <= set(letters):
            return token
        return bytes(letters.index(letter) for letter in token).decode("utf-8", "backslashreplace")

    def _parts(self, text: str) -> list[str]:
        """A text, taken apart at the names of special tokens, which are parts of their own."""
        if not self._special:
            return [text]
        names = "|".join(re.escape(name) for name in sorted(self._special, key=len, reverse=True))
        return re.split(f"({names})", text)

    def _normalized(self, text: str) -> str:
        normalizer = self.library.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def _encode_by_table(self, texts: list[str]) -> tuple[Ids, Lengths]:
        if self._table is not None:
            return _look_up(self._table, "".join(texts)), np.array([len(text) for text in texts], np.int64)
        encoded = [text.encode() for text in texts]
        joined: Ids = np.frombuffer(b"".join(encoded), np.uint8).astype(self.dtype)
        return joined, np.array([len(part) for part in encoded], np.int64)


def _kind(spec: dict[str, Any]) -> str:
    """Our four kinds are known by their shape, so that a tokenizer.json needs nothing beside it."""
    model, before = spec["model"]["type"], spec["pre_tokenizer"]
    if model == "WordLevel":
        single = before and before["type"] == "Split" and before["pattern"] == {"Regex": r"[\s\S]"}
        return "char" if single else "word"
    if model == "BPE":
        plain = before == {
            **(before or {}),
            "type": "ByteLevel",
            "use_regex": False,
            "add_prefix_space": False,
        }
        vocab: dict[str, int] = spec["model"]["vocab"]
        in_order = all(vocab.get(letter) == value for value, letter in enumerate(byte_letters()))
        return "byte" if plain and not spec["model"]["merges"] and in_order else "bpe"
    return str(model).lower()


def _unknown_id(library: tokenizers.Tokenizer, model: dict[str, Any]) -> int | None:
    if model.get("unk_id") is not None:  # Unigram
        return int(model["unk_id"])
    return library.token_to_id(model.get("unk_token") or UNKNOWN)


def _char_table(library: tokenizers.Tokenizer, unk_id: int | None, dtype: Any) -> Ids:
    """Ids by code point, of all that UTF-16 says in one unit and beyond, with one entry more: that of
    everything above the known.
    """
    known = {ord(c): i for c, i in library.get_vocab(with_added_tokens=False).items() if len(c) == 1}
    table = np.full(max(max(known, default=0) + 2, 1 << 16), unk_id or 0, dtype=dtype)
    table[list(known)] = list(known.values())
    return table


def _look_up(table: Ids, text: str) -> Ids:
    row = table[:128]
    if text.isascii() and row.max() < 256:
        translated = text.encode("ascii").translate(row.astype(np.uint8).tobytes() * 2)  # the fastest loop
        return np.frombuffer(translated, np.uint8).astype(table.dtype)
    units = np.frombuffer(text.encode("utf-16-le"), "<u2")
    if len(units) == len(text):
        return table.take(units)
    codes = np.frombuffer(text.encode("utf-32-le"), "<i4")
    return table.take(codes, mode="clip")  # what is above the known gets the last entry


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _always(_: str) -> bool:
    return True


def _word_restarts(text: str) -> bool:
    """After a line's end, or after a word outside of quotes: see the decoder in build.py."""
    line = text[text.rfind("\n") + 1 :]
    return not line or (line[-1].isalnum() and line.count('"') % 2 == 0)
