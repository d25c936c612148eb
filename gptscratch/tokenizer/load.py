"""Loads ``--tokenizer PATH``: a tokenizer.json, GPT-2's two files, or a folder or run with either."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from gptscratch import paths
from gptscratch.errors import TokenizerError, did_you_mean
from gptscratch.tokenizer.train import END_OF_TEXT, KINDS

MOST_IDS = 1 << 24  # larger than any vocabulary: its embedding alone would take gigabytes
_GROWTH = 64  # most characters for one: a few replacements, one after the other, could take all memory
_EXPECTED = "Expected is a tokenizer.json as the tokenizers library writes it."


def load_library_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """Load what a path or a run's name leads to.

    Raises:
        TokenizerError: nothing is there, or it cannot be read.
    """
    path = _existing(name_or_path)
    if path.name in ("vocab.json", "merges.txt"):
        return _from_gpt2_files(path.parent)
    if path.suffix == ".txt":
        raise TokenizerError(
            f"{path} is not a tokenizer.",
            "Name a tokenizer.json, or the merges.txt of GPT-2 with vocab.json in the same folder.",
        )
    if not path.is_dir():
        return _from_file(path)
    if (path / "tokenizer.json").is_file():
        return _from_file(path / "tokenizer.json")
    if (path / "merges.txt").is_file():
        return _from_gpt2_files(path)
    raise TokenizerError(
        f"{path} holds no tokenizer.", "A folder needs a tokenizer.json, or vocab.json and merges.txt."
    )


def is_library_error(error: BaseException) -> bool:
    """The library raises a bare Exception, and for a panic of its Rust code what is not even an Exception."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


@contextmanager
def library_errors(message: str, hint: str = "") -> Iterator[None]:
    """Turn what the library raises into a TokenizerError."""
    try:
        yield
    except BaseException as error:
        if not is_library_error(error):
            raise
        raise TokenizerError(f"{message}: {str(error).strip().rstrip('.')[:300]}.", hint) from None


def _existing(name_or_path: str | Path) -> Path:
    path = paths.expanded(name_or_path)
    if path.exists():
        return path
    name = str(name_or_path)
    if name not in ("", ".", "..") and not set(name) & set("/\\"):
        run = paths.runs_dir() / name
        if run.is_dir():
            return run
    hint = f"{did_you_mean(name, KINDS)} The kinds: {', '.join(KINDS)}; or the path of a tokenizer.json."
    raise TokenizerError(f"{name!r} is neither a kind of tokenizer nor a file.", hint.lstrip())


def _from_file(path: Path) -> Tokenizer:
    message = f"{path} is not a tokenizer that can be read"
    try:
        text = path.read_text(encoding="utf-8")
        spec = json.loads(text)
        parts = [spec.get(name) for name in ("normalizer", "decoder")] if isinstance(spec, dict) else []
        largest, growth = _largest_id(spec), max(map(_growth, parts), default=1)
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{message}: {error}.", _EXPECTED) from None
    if largest >= MOST_IDS:
        raise TokenizerError(f"{path} has the token id {largest:,}: ids must be below {MOST_IDS:,}.")
    if growth > _GROWTH:
        raise TokenizerError(f"{path} makes a text up to {growth:,} times longer: that is not allowed.")
    with library_errors(message, _EXPECTED):
        return Tokenizer.from_str(text)


def _largest_id(spec: Any) -> int:
    """The library takes memory for every id up to the largest, and the process ends where there is none."""
    try:
        vocab, added = spec["model"]["vocab"], spec.get("added_tokens") or []
        ids = [*(vocab.values() if isinstance(vocab, dict) else ()), *(token["id"] for token in added)]
        return max((i for i in ids if isinstance(i, int)), default=0)
    except (AttributeError, KeyError, TypeError):
        return 0  # not a tokenizer, as the library will say


def _growth(part: Any) -> int:
    """How many times longer a normalizer or decoder can make a text, by what it inserts."""
    if isinstance(part, list):
        return math.prod(map(_growth, part))
    if not isinstance(part, dict):
        return 1
    inserted = [part[name] for name in ("content", "prepend") if isinstance(part.get(name), str)]
    return math.prod(max(1, len(text)) for text in inserted) * _growth(list(part.values()))


def _from_gpt2_files(folder: Path) -> Tokenizer:
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    for file in (vocab, merges):
        if not file.is_file():
            hint = "GPT-2's tokenizer is two files: vocab.json and merges.txt."
            raise TokenizerError(f"{file} is missing.", hint)
    with library_errors(f"vocab.json and merges.txt in {folder} cannot be read, or do not fit together"):
        tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False, special=True)])
    return tokenizer
