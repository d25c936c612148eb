"""One tokenizer over the `tokenizers` library.

Special tokens are never found in text by accident: a document that contains ``<|endoftext|>`` gets
the ids of those thirteen characters. ``encode(text, specials=True)`` asks for them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from gptscratch.errors import TokenizerError
from gptscratch.tokenizer.bulk import CANNOT_ENCODE, Encode, Ids, bulk_encoder
from gptscratch.tokenizer.load import library_errors, load_library_tokenizer
from gptscratch.tokenizer.train import END_OF_TEXT, UNKNOWN, build_tokenizer, byte_values

_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")  # one byte, where the vocabulary lacks its character
# What published tokenizers call the end of a document, after the name used here.
_END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]")


class Tokenizer:
    """Encodes text to ids and decodes ids to text.

    Attributes:
        kind: ``char``, ``byte``, ``word``, ``bpe``, or the library's name of another model.
        vocab_size: ids are below it.
        eot_id: the id that ends a document, or None.
        unk_id: the id of what the vocabulary lacks, or None where nothing can be unknown.
        prefix_ids: what the file puts before each text, such as Llama's ``<s>``; ``encode`` does not.
        is_sentencepiece: whether tokens show a space as ▁.
        dtype: the smallest of uint16 and uint32 that holds every id.
        lossless: whether decoding returns the text as it was, except for unknown characters. Words do not
            keep white space, and lower case does not keep case.
    """

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        """Takes the tokenizer over: padding, truncation and added special tokens are switched off."""
        spec = json.loads(library.to_str())
        self.prefix_ids = _prefix_ids(spec["post_processor"])
        library.no_truncation()
        library.no_padding()
        library.post_processor = None
        library.encode_special_tokens = True
        self.library = library
        before = json.dumps(spec["pre_tokenizer"])
        self.kind = _kind(spec)
        self.vocab_size = max(library.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.dtype: type[np.unsignedinteger[Any]] = np.uint16 if self.vocab_size <= 1 << 16 else np.uint32
        self._byte_level = '"ByteLevel"' in before
        self.is_sentencepiece = r"\u2581" in json.dumps(spec["decoder"])
        self.eot_id = next((i for i in map(library.token_to_id, _END_NAMES) if i is not None), None)
        self.unk_id = None if self._byte_level else _unknown_id(library, spec["model"])
        self._special: dict[str, int] = {t["content"]: t["id"] for t in spec["added_tokens"] if t["special"]}
        changes = spec["normalizer"] or '"Removed"' in before or '"add_prefix_space": true' in before
        self.lossless = not changes and (self.kind == "char" or self._byte_level)

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
        return cls(build_tokenizer("byte", [], alphabet=""))

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json, which the library and transformers read."""
        Path(path).write_text(self.library.to_str(pretty=True), encoding="utf-8", newline="\n")

    @cached_property
    def hash(self) -> str:
        """A hash of all that decides about ids and text."""
        return hashlib.blake2b(self.library.to_str().encode(), digest_size=16).hexdigest()

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        """The ids of a text. With ``specials``, names of special tokens in it become those tokens."""
        if specials and len(self._parts(text)) > 1:
            with library_errors(*CANNOT_ENCODE):
                return list(self._library_with_specials.encode(text, add_special_tokens=False).ids)
        return [int(i) for i in self.encode_array(text)]

    def encode_array(self, text: str) -> Ids:
        """The ids of a text as a numpy array of ``dtype``; of many texts, ``bulk_encoder`` gives them."""
        return self._encode([text])[0]

    @cached_property
    def _encode(self) -> Encode:
        return bulk_encoder(self)

    @cached_property
    def _library_with_specials(self) -> tokenizers.Tokenizer:
        """A copy, because another thread may be using the tokenizer itself."""
        library = tokenizers.Tokenizer.from_str(self.library.to_str())
        library.encode_special_tokens = False
        return library

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of ids; bytes that do not form a character become U+FFFD.

        Raises:
            TokenizerError: an id is outside the vocabulary.
        """
        ids = [int(i) for i in ids]
        wrong = next((i for i in ids if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise TokenizerError(
                f"{wrong} is not a token: this tokenizer has the ids 0 to {self.vocab_size - 1}."
            )
        with library_errors("this tokenizer cannot decode these ids"):
            return self.library.decode(ids, skip_special_tokens=skip_special)

    @cached_property
    def largest_id(self) -> int:
        """The largest id of a token that is neither special nor for what the vocabulary lacks."""
        vocab, others = self.library.get_vocab(with_added_tokens=True), (self.unk_id, self.eot_id)
        return max((i for t, i in vocab.items() if t not in self._special and i not in others), default=-1)

    def unknown(self, text: str) -> list[str]:
        """The characters or words of a text that the vocabulary lacks, each once, in order.

        Names of special tokens in it are those tokens.
        """
        if self.unk_id is None:
            return []
        parts = [part for part in self._parts(text) if part not in self._special]
        return list(dict.fromkeys(found for part in parts for found in self._unknown_parts(part)))

    def unknown_bytes(self, text: str) -> int:
        """The bytes of UTF-8 of what the vocabulary lacks in a text."""
        return sum(len(part.encode()) for part in self._unknown_parts(text))

    def token_bytes(self) -> NDArray[np.int64]:
        """How many bytes of UTF-8 each token represents, 0 for special and unknown ones: (vocab_size,)."""
        found = np.zeros(self.vocab_size, np.int64)
        for token, token_id in self.library.get_vocab(with_added_tokens=True).items():
            if token in self._special or token_id == self.unk_id:
                continue
            if self._byte_level and set(token) <= byte_values().keys():
                found[token_id] = len(token)
            elif self._byte_level or self.kind == "char":
                found[token_id] = len(token.encode())
            elif _BYTE_TOKEN.fullmatch(token):
                found[token_id] = 1
            elif self.is_sentencepiece:
                found[token_id] = len(token.replace("▁", " ").encode())
            else:
                found[token_id] = len(self.decode([token_id]).encode())
        return found

    def tokens(self, text: str) -> list[tuple[str, int]]:
        """(text, id) of each token of a text; one that is part of a character is shown by its bytes."""
        spans = self.spans(text)
        if self._byte_level:
            return [(self.token_text(i), i) for i, _, _ in spans]
        return [(text[start:end], i) for i, start, end in spans]

    def spans(self, text: str, *, specials: bool = False) -> list[tuple[int, int, int]]:
        """(id, start, end) of a text's tokens, in characters; parts of a character share its place.

        ``specials`` as in ``encode``.
        """
        try:
            text.encode()
        except UnicodeEncodeError:  # from a terminal with another encoding, or half of a surrogate pair
            raise TokenizerError(
                "the text holds bytes that are not text in the terminal's encoding."
            ) from None
        library = self._library_with_specials if specials and len(self._parts(text)) > 1 else self.library
        with library_errors(*CANNOT_ENCODE):
            encoding = library.encode(text, add_special_tokens=False)
        return [(i, *offsets) for i, offsets in zip(encoding.ids, encoding.offsets, strict=True)]

    def token_text(self, token_id: int) -> str:
        """One token as the vocabulary has it; bytes that do not form a character as ``\\x..``."""
        data = self.part_bytes(token_id) if self._byte_level else None
        return (
            (self.library.id_to_token(token_id) or "")
            if data is None
            else data.decode("utf-8", "backslashreplace")
        )

    def part_bytes(self, token_id: int) -> bytes | None:
        """The bytes of a token that may be a part of a character; None: the vocabulary has it as text."""
        token, values = self.library.id_to_token(token_id) or "", byte_values()
        if self.is_sentencepiece and _BYTE_TOKEN.fullmatch(token):
            return bytes([int(token[3:5], 16)])
        if not self._byte_level or token in self._special or not set(token) <= values.keys():
            return None
        return bytes(values[letter] for letter in token)

    def normalized(self, texts: Sequence[str]) -> Sequence[str]:
        """The texts as the vocabulary sees them, such as in lower case."""
        normalizer = self.library.normalizer
        with library_errors(*CANNOT_ENCODE):
            return texts if normalizer is None else [normalizer.normalize_str(text) for text in texts]

    def _unknown_parts(self, text: str) -> list[str]:
        if self.unk_id is None:
            return []
        return [text[start:end] for i, start, end in self.spans(text) if i == self.unk_id]

    def _parts(self, text: str) -> list[str]:
        """A text, split at the names of special tokens, which are parts of their own."""
        if not self._special:
            return [text]
        names = "|".join(re.escape(name) for name in sorted(self._special, key=len, reverse=True))
        return re.split(f"({names})", text)


def _prefix_ids(post_processor: dict[str, Any] | None) -> list[int]:
    """The ids that a tokenizer.json's template puts before a single text."""
    ids: list[int] = []
    for part in (post_processor or {}).get("processors", [post_processor or {}]):
        for entry in part.get("single", ()):
            if "SpecialToken" not in entry:
                break
            token = part["special_tokens"].get(entry["SpecialToken"]["id"]) or {}  # damaged files lack it
            ids += token.get("ids", ())
    return ids


def _kind(spec: dict[str, Any]) -> str:
    """Our four kinds are known by their form, so that a tokenizer.json needs no other file."""
    model, before = spec["model"]["type"], spec["pre_tokenizer"] or {}
    if model == "WordLevel":
        single = before.get("type") == "Split" and before["pattern"] == {"Regex": r"[\s\S]"}
        return "char" if single else "word"
    if model == "BPE":
        plain = {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False}
        in_order = spec["model"]["vocab"].items() >= byte_values().items()
        return "byte" if {**before, **plain} == before and not spec["model"]["merges"] and in_order else "bpe"
    return str(model).lower()


def _unknown_id(library: tokenizers.Tokenizer, model: dict[str, Any]) -> int | None:
    if model.get("unk_id") is not None:  # Unigram
        return int(model["unk_id"])
    return library.token_to_id(model.get("unk_token") or UNKNOWN)
