"""Tokenizers for GGUF: as the byte-level BPE of llama.cpp.

The tokens of a byte tokenizer are those of a BPE without merges. A character tokenizer becomes a BPE whose
merges join the bytes of each character and nothing else. Words cannot be expressed: llama.cpp has no
tokenizer that splits text by a regular expression and looks the parts up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gptscratch.errors import TokenizerError
from gptscratch.tokenizer import Tokenizer
from gptscratch.tokenizer.bulk import GPT2, LLAMA3, QWEN2, split_pattern
from gptscratch.tokenizer.train import byte_values

_PRE_TOKENIZERS = {GPT2: "gpt-2", LLAMA3: "llama-bpe", QWEN2: "qwen2"}  # as llama.cpp names them
_BPE_OPTIONS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama_token_type of llama.h


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF stores of a tokenizer."""

    tokens: list[str]  # one for each row of the embedding
    types: list[int]
    merges: list[str]  # never empty: llama.cpp requires the list, and the package gguf omits an empty one
    pre_tokenizer: str
    end: int  # the end-of-text token


def vocabulary(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """The tokens of a tokenizer, filled up to ``size`` with unused ones.

    Raises:
        TokenizerError: llama.cpp has no such tokenizer, or it has no token that ends a text.
    """
    spec = json.loads(tokenizer.library.to_str())
    if tokenizer.eot_id is None:
        raise TokenizerError(
            "GGUF cannot represent this tokenizer: it has no end-of-text token, which llama.cpp requires."
        )
    obstacle = _obstacle(tokenizer, spec)
    if obstacle:
        raise TokenizerError(
            f"GGUF cannot represent this tokenizer: {obstacle}.",
            "Export with --format hf, or train with --tokenizer bpe, byte or char.",
        )
    vocab: dict[str, int] = spec["model"]["vocab"]
    pre_tokenizer = "gpt-2"  # for characters and bytes any split of the text will do
    if tokenizer.kind == "char":
        written = {character: _byte_letters(character) for character in vocab if len(character) == 1}
        merges = [pair for letters in written.values() for pair in _merges_of(letters)]
    else:
        written = {token: token for token in vocab}
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in spec["model"]["merges"]]
        pre_tokenizer = _PRE_TOKENIZERS.get(split_pattern(spec) or "", pre_tokenizer)
    tokens = [f"<unused{i}>" for i in range(size)]
    types = [UNUSED] * size
    for token, token_id in vocab.items():
        if token in written:
            tokens[token_id], types[token_id] = written[token], NORMAL
    for added in spec["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    end = tokenizer.eot_id
    no_merge = [f"{tokens[end]} {tokens[end]}"]  # its parts never occur
    return Vocabulary(tokens, types, list(dict.fromkeys(merges)) or no_merge, pre_tokenizer, end)


def _obstacle(tokenizer: Tokenizer, spec: dict[str, Any]) -> str:
    """Why llama.cpp would give other ids; empty where it gives the same."""
    # llama.cpp has no Unicode normalization: its own converter leaves out the NFC of Qwen too.
    if (spec["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        return f"llama.cpp does not change text before tokenization ({spec['normalizer']['type']})"
    if tokenizer.kind in ("char", "byte"):
        return ""
    if tokenizer.kind != "bpe":
        return f"llama.cpp has no tokenizer of the kind {tokenizer.kind}"
    options = [name for name in _BPE_OPTIONS if spec["model"].get(name)]
    if options:
        return f"its BPE has the option {options[0]}"
    if split_pattern(spec) is None:
        return "llama.cpp does not know the pattern by which it splits text"
    return ""


def _byte_letters(character: str) -> str:
    """A character as a byte-level vocabulary writes its bytes."""
    letters = list(byte_values())
    return "".join(letters[byte] for byte in character.encode())


def _merges_of(letters: str) -> list[str]:
    """``abc`` -> ``a b``, ``ab c``; a single letter needs none."""
    ends = range(1, len(letters) + 1)
    return [f"{letters[:start]} {letters[start:end]}" for start, end in pairwise(ends)]
