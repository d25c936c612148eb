"""Tokenizers for GGUF: as the byte-level BPE of llama.cpp, or as its SentencePiece.

The tokens of a byte tokenizer are those of a BPE without merges. A character tokenizer becomes a BPE whose
merges join the bytes of each character and nothing else. Words cannot be expressed: llama.cpp has no
tokenizer that splits text by a regular expression and looks the parts up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gptscratch.errors import TokenizerError
from gptscratch.tokenizer import Tokenizer
from gptscratch.tokenizer.bulk import GPT2, LLAMA3, QWEN2, split_pattern
from gptscratch.tokenizer.train import byte_values

_PRE_TOKENIZERS = {GPT2: "gpt-2", LLAMA3: "llama-bpe", QWEN2: "qwen2"}  # as llama.cpp names them
_OPTIONS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
_SPACES = {  # as in the tokenizer.json of Llama 2 and Mistral
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # llama_token_type of llama.h


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF stores of a tokenizer."""

    model: str  # gpt2: byte-level BPE; llama: SentencePiece
    pre_tokenizer: str
    tokens: list[str]  # one for each row of the embedding
    types: list[int]
    end: int  # the end-of-text token
    merges: list[str] = field(default_factory=list)  # of gpt2
    scores: list[float] = field(default_factory=list)  # of llama: the token with the highest is merged first


def vocabulary(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """The tokens of a tokenizer, filled up to ``size`` with unused ones.

    Raises:
        TokenizerError: llama.cpp has no such tokenizer, or it has no token that ends a text.
    """
    spec = json.loads(tokenizer.library.to_str())
    end = tokenizer.eot_id
    is_sentencepiece = bool(spec["model"].get("byte_fallback"))
    obstacle = _other_merges(spec) if is_sentencepiece else _other_bytes(tokenizer, spec)
    if end is None:
        obstacle = "it has no end-of-text token, which llama.cpp requires"
    elif (largest := max(end, tokenizer.largest_id)) >= size:
        obstacle = f"it has the id {largest}, and the model has {size} tokens"
    if end is None or obstacle:
        raise TokenizerError(
            f"GGUF cannot represent this tokenizer: {obstacle}.",
            "Export with --format hf, or train with --tokenizer bpe, byte or char.",
        )
    if is_sentencepiece:
        tokens, types = _entries(spec, {token: token for token in spec["model"]["vocab"]}, size)
        scores = _scores(spec["model"])
        types = [BYTE if _is_byte(token) else kind for token, kind in zip(tokens, types, strict=True)]
        if tokenizer.unk_id is not None:
            types[tokenizer.unk_id] = UNKNOWN
        found = [float(scores.get(token, 0)) for token in tokens]
        return Vocabulary("llama", "default", tokens, types, end, scores=found)
    written = {token: token for token in spec["model"]["vocab"]}
    merges = [" ".join(pair) for pair in _pairs(spec["model"])]
    if tokenizer.kind == "char":
        written = {token: _byte_letters(token) for token in written if len(token) == 1}
        merges = list(dict.fromkeys(pair for letters in written.values() for pair in _merges_of(letters)))
    tokens, types = _entries(spec, written, size)
    # llama.cpp requires a list of merges, and the package gguf omits an empty one; this one never occurs.
    merges = merges or [f"{tokens[end]} {tokens[end]}"]
    return Vocabulary("gpt2", _pre_tokenizer(spec), tokens, types, end, merges=merges)


def _entries(spec: dict[str, Any], written: Mapping[str, str], size: int) -> tuple[list[str], list[int]]:
    """The tokens by id, as ``written`` says, and their types."""
    tokens, types = [f"<unused{i}>" for i in range(size)], [UNUSED] * size
    for token, text in written.items():
        token_id = spec["model"]["vocab"][token]
        tokens[token_id], types[token_id] = text, NORMAL
    for added in spec["added_tokens"]:
        if added["id"] < size:  # the model may lack some that no text has, such as padding
            tokens[added["id"]] = added["content"]
            types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    return tokens, types


def _other_bytes(tokenizer: Tokenizer, spec: dict[str, Any]) -> str:
    """Why the byte-level BPE of llama.cpp would give other ids; empty where it gives the same."""
    # llama.cpp has no Unicode normalization: its own converter leaves out the NFC of Qwen too.
    if (spec["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        return f"llama.cpp does not change text before tokenization ({spec['normalizer']['type']})"
    if tokenizer.kind in ("char", "byte"):
        return ""  # any split of the text will do
    if tokenizer.kind != "bpe":
        return f"llama.cpp has no tokenizer of the kind {tokenizer.kind}"
    options = [name for name in _OPTIONS if spec["model"].get(name)]
    if options:
        return f"its BPE has the option {options[0]}"
    return "" if split_pattern(spec) else "llama.cpp does not know the pattern by which it splits text"


def _pre_tokenizer(spec: dict[str, Any]) -> str:
    return _PRE_TOKENIZERS.get(split_pattern(spec) or "", "gpt-2")


def _byte_letters(character: str) -> str:
    """A character as a byte-level vocabulary writes its bytes."""
    letters = list(byte_values())
    return "".join(letters[byte] for byte in character.encode())


def _merges_of(letters: str) -> list[str]:
    """``abc`` -> ``a b``, ``ab c``; a single letter needs none."""
    return [f"{letters[:end]} {letters[end]}" for end in range(1, len(letters))]


def _other_merges(spec: dict[str, Any]) -> str:
    """Why SentencePiece would give other ids; empty where it gives the same.

    It merges any two neighbors whose text is a token, by the score of that token; BPE merges listed pairs.
    """
    model = spec["model"]
    if spec["normalizer"] != _SPACES or spec["pre_tokenizer"] is not None:
        return "llama.cpp does not treat spaces like it"
    if len(list(filter(_is_byte, model["vocab"]))) != 256:
        return "it lacks the tokens of some bytes"
    pairs, scores = _pairs(model), _scores(model)
    order = [scores[left + right] for left, right in pairs]
    listed = set(pairs)
    split = {(t[:i], t[i:]) for t in model["vocab"] if not _is_byte(t) for i in range(1, len(t))}
    plain = model["vocab"].keys() - {added["content"] for added in spec["added_tokens"]}
    all_listed = all(pair in listed for pair in split if {*pair, "".join(pair)} <= plain)
    return (
        ""
        if all_listed and order == sorted(order, reverse=True)
        else "its merges are not those of SentencePiece"
    )


def _scores(model: dict[str, Any]) -> dict[str, int]:
    """The higher, the earlier a token is merged for the first time."""
    pairs = _pairs(model)
    return {left + right: -rank for rank, (left, right) in reversed([*enumerate(pairs)])}


def _pairs(model: dict[str, Any]) -> list[tuple[str, str]]:
    """The merges; older files have them as text with a space."""
    parts = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model.get("merges", ()))
    return [(left, right) for left, right in parts]


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")
