"""Encoding many texts at once: numpy tables for characters and bytes, tiktoken, or the library.

tiktoken encodes byte-level BPE several times faster than the tokenizers library on one core. It is optional
(``gptscratch[fast]``), and is used only where it provably gives the same ids.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import models

from gptscratch.tokenizer.load import is_library_error, library_errors
from gptscratch.tokenizer.train import byte_values, latin_words, word_splitter

if TYPE_CHECKING:
    from gptscratch.tokenizer.tokenizer import Tokenizer

Ids = NDArray[np.unsignedinteger[Any]]
Encode = Callable[[Sequence[str]], list[Ids]]

MOST_THREADS = 4  # one reader feeds about as many
CANNOT_ENCODE = (
    "this tokenizer cannot encode the text",
    "Does its tokenizer.json name an unknown token for what its vocabulary lacks?",
)

# Known patterns of pre-tokenizers, GPT-2's from Radford et al. 2019 (encoder.py).
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


def bulk_encoder(tokenizer: Tokenizer, alphabet: str | None = None) -> Encode:
    """The fastest function that gives the ids of many texts, one array each, as ``tokenizer.encode`` does.

    Give it a few megabytes at once: the library needs about 30 times a text's size while it works.

    Args:
        alphabet: every character that the texts may have. Without it tiktoken is not used, because another
            version of Unicode could put a character into another class.
    """
    if tokenizer.kind == "char" and tokenizer.unk_id is not None:
        return _char_encoder(tokenizer)
    if tokenizer.kind == "byte":
        return _byte_encoder(tokenizer)
    if alphabet is None:  # for a text now and then
        return _library_encoder(tokenizer)
    return _word_encoder(tokenizer) or _tiktoken_encoder(tokenizer, alphabet) or _library_encoder(tokenizer)


def _library_encoder(tokenizer: Tokenizer) -> Encode:
    def encode(texts: Sequence[str]) -> list[Ids]:
        with library_errors(*CANNOT_ENCODE):
            found = tokenizer.library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, tokenizer.dtype) for encoding in found]

    return encode


def _byte_encoder(tokenizer: Tokenizer) -> Encode:
    def encode(texts: Sequence[str]) -> list[Ids]:
        encoded = [text.encode() for text in tokenizer.normalized(texts)]
        return _divided(np.frombuffer(b"".join(encoded), np.uint8).astype(tokenizer.dtype), encoded)

    return encode


def _char_encoder(tokenizer: Tokenizer) -> Encode:
    """By a table over code points, whose last entry is that of everything above the known ones."""
    vocab = tokenizer.library.get_vocab(with_added_tokens=False)
    known = {ord(character): i for character, i in vocab.items() if len(character) == 1}
    table = np.full(max(known, default=0) + 2, tokenizer.unk_id, dtype=tokenizer.dtype)
    table[list(known)] = list(known.values())

    def encode(texts: Sequence[str]) -> list[Ids]:
        texts = tokenizer.normalized(texts)
        codes = np.frombuffer("".join(texts).encode("utf-32-le"), "<i4")
        return _divided(table.take(codes, mode="clip"), texts)

    return encode


def _divided(ids: Ids, texts: Sequence[str | bytes]) -> list[Ids]:
    return [ids[start:end] for start, end in pairwise(accumulate(map(len, texts), initial=0))]


def _word_encoder(tokenizer: Tokenizer) -> Encode | None:
    """Latin text by a dictionary, other text by the library; None where the words are divided otherwise."""
    state = getattr(tokenizer.library.pre_tokenizer, "__getstate__", bytes)()
    if tokenizer.kind != "word" or tokenizer.unk_id is None or state != word_splitter().__getstate__():
        return None
    library, vocab = _library_encoder(tokenizer), tokenizer.library.get_vocab(with_added_tokens=False)
    unknown = repeat(tokenizer.unk_id)

    def encode(texts: Sequence[str]) -> list[Ids]:
        divided = [latin_words(text) for text in tokenizer.normalized(texts)]
        others = iter(library([text for text, words in zip(texts, divided, strict=True) if words is None]))
        return [
            next(others) if words is None else np.fromiter(map(vocab.get, words, unknown), tokenizer.dtype)
            for words in divided
        ]

    return encode


def _tiktoken_encoder(tokenizer: Tokenizer, alphabet: str) -> Encode | None:
    """None where tiktoken is not installed, or could give other ids than the library."""
    try:
        import tiktoken
    except ImportError:
        return None
    spec = json.loads(tokenizer.library.to_str())
    plain = all(token["special"] for token in spec["added_tokens"])  # others are sought before the split
    pattern = split_pattern(spec) if plain and spec["normalizer"] is None else None
    ranks = _ranks(spec) if pattern else None
    if pattern is None or ranks is None:
        return None
    encoding = tiktoken.Encoding("bulk", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    library = _library_encoder(tokenizer)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(MOST_THREADS, cores)

    def encode_one(text: str) -> Ids:
        try:
            return np.array(encoding.encode_ordinary(text), tokenizer.dtype)
        except BaseException as error:
            if is_library_error(
                error
            ):  # a run of a million characters is too long for its regular expression
                return library([text])[0]
            raise

    def encode(texts: Sequence[str]) -> list[Ids]:
        if len(texts) < 2 or threads < 2:
            return [*map(encode_one, texts)]
        size = -(-len(texts) // threads)
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        with ThreadPoolExecutor(threads) as pool:  # tiktoken works outside Python's lock
            return [ids for part in pool.map(lambda part: [*map(encode_one, part)], parts) for ids in part]

    probe = _probe(alphabet)
    return encode if np.array_equal(encode_one(probe), library([probe])[0]) else None


def split_pattern(spec: dict[str, Any]) -> str | None:
    """The regular expression by which a byte-level BPE splits text, if it is one of the known ones."""
    before = spec["pre_tokenizer"] or {}
    *splits, last = before.get("pretokenizers", [before])
    if spec["model"]["type"] != "BPE" or last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return None
    if last.get("use_regex", True):
        return None if splits else GPT2
    isolated = {"type": "Split", "behavior": "Isolated", "invert": False}
    return next((p for p in (LLAMA3, QWEN2) if splits == [{**isolated, "pattern": {"Regex": p}}]), None)


def _ranks(spec: dict[str, Any]) -> dict[bytes, int] | None:
    """The vocabulary for tiktoken, which merges any two neighbors whose bytes are a token, lowest id first.

    The library merges listed pairs in the order of the list. Both do the same if the ids rise with the list,
    and if each token's own bytes are merged to that token alone.
    """
    model, letters = spec["model"], byte_values().keys()
    special = {token["content"] for token in spec["added_tokens"]}
    vocab = {t: i for t, i in model["vocab"].items() if t not in special and set(t) <= letters}
    merges = [tuple(pair.split(" ", 1) if isinstance(pair, str) else pair) for pair in model["merges"]]
    merged = [vocab.get(left + right, -1) for left, right in merges]
    other = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if any(map(model.get, other)) or min(merged, default=0) < 0 or not letters <= vocab.keys():
        return None
    tokenize = models.BPE(vocab, merges).tokenize
    if merged != sorted(merged) or any([p.id for p in tokenize(t)] != [i] for t, i in vocab.items()):
        return None
    to_byte = str.maketrans({letter: chr(value) for letter, value in byte_values().items()})
    return {token.translate(to_byte).encode("latin-1"): i for token, i in vocab.items()}


def _probe(alphabet: str) -> str:
    """Each character where its class decides about the split: in words, in numbers, and after white space."""
    ascii_characters = "".join(map(chr, range(128)))
    return "".join(
        f"a{c}1{c} {c}  {c}{c}'s\n{c}\n\n {c}'LL\t{c}\r\n" for c in dict.fromkeys(ascii_characters + alphabet)
    )
