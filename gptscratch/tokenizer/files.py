"""What ``--tokenizer PATH`` can be: a tokenizer.json, GPT-2's two files, or a folder or run with either."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from gptscratch import paths
from gptscratch.errors import TokenizerError
from gptscratch.tokenizer.build import END_OF_TEXT, KINDS


def load_library_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """Load what a path or a run's name leads to.

    Raises:
        TokenizerError: nothing is there, or it cannot be read.
    """
    path = _existing(name_or_path)
    if path.is_dir():
        whole, vocab, merges = path / "tokenizer.json", path / "vocab.json", path / "merges.txt"
        if whole.is_file():
            return _from_file(whole)
        if vocab.is_file() and merges.is_file():
            return _from_gpt2_files(vocab, merges)
        raise TokenizerError(
            f"{path} holds no tokenizer.", "A folder needs a tokenizer.json, or vocab.json and merges.txt."
        )
    if path.suffix == ".txt":
        return _from_gpt2_files(path.with_name("vocab.json"), path)
    if path.name == "vocab.json":
        return _from_gpt2_files(path, path.with_name("merges.txt"))
    return _from_file(path)


def _existing(name_or_path: str | Path) -> Path:
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    name = str(name_or_path)
    if name not in ("", ".", "..") and not set(name) & set("/\\"):
        run = paths.runs_dir() / name
        if run.is_dir():
            return run
    near = difflib.get_close_matches(name.lower(), KINDS, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise TokenizerError(
        f"{name!r} is neither a kind of tokenizer nor a file.",
        f"{hint}The kinds: {', '.join(KINDS)}; or the path of a tokenizer.json.",
    )


def _from_file(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises the bare class for every fault
        raise TokenizerError(
            f"{path} is no tokenizer that can be read: {error}.",
            "Expected is a tokenizer.json as the tokenizers library writes it.",
        ) from None


def _from_gpt2_files(vocab_file: Path, merges_file: Path) -> Tokenizer:
    """GPT-2's own format. Its first merges line may be ``#version``, and may be missing."""
    try:
        vocab = json.loads(vocab_file.read_text(encoding="utf-8"))
        lines = merges_file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise TokenizerError(
            f"{error.filename} is missing.", "GPT-2's tokenizer is two files: vocab.json and merges.txt."
        ) from None
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{vocab_file} or {merges_file} cannot be read: {error}.") from None
    first = 1 if lines[0].startswith("#version") else 0  # "# #" is a real merge: only this line is skipped
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines[first:]) if right]
    try:
        tokenizer = Tokenizer(models.BPE(vocab, merges))
    except Exception as error:  # the library raises the bare class for every fault
        raise TokenizerError(f"{vocab_file} and {merges_file} do not fit together: {error}.") from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if END_OF_TEXT in vocab:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False, special=True)])
    return tokenizer
