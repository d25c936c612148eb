"""Token files: a folder with train.bin, val.bin, tokenizer.json and manifest.json.

The .bin files are plain little-endian uint16 or uint32. A folder is written under a temporary name and
renamed when it is complete.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from gptscratch.data.chunks import Removed
from gptscratch.errors import CorpusError

FORMAT = 3
SPLITS = ("train", "val")
TokenArray = NDArray[np.unsignedinteger[Any]]

_BLOCK = 1 << 22  # tokens counted at once
_BLOCKS = 16  # of a long text: enough for its frequencies
_Record = TypeVar("_Record")


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """Counts of one side of the split."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0  # of the text in UTF-8
    tokens: int = 0  # end-of-text tokens included
    unknown: int = 0  # tokens for text that the vocabulary lacks


@dataclass(frozen=True, kw_only=True)
class Share:
    """One of several corpora with weights; their tokens follow one another in train.bin and val.bin."""

    name: str
    weight: float  # of the training tokens; all weights together are 1
    tokens: int  # in train.bin
    val_tokens: int = 0  # in val.bin; 0 where validation has a corpus of its own


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a folder of token files."""

    format: int = FORMAT
    key: str  # hash of the corpus's files and of all settings that decide about tokens
    dtype: str  # of the .bin files: uint16 or uint32
    vocab_size: int
    tokenizer_kind: str
    tokenizer_hash: str
    lossy: bool  # the tokenizer does not keep all of the text: its case, or its white space
    from_stdin: bool = False  # a part of the text: the files cannot be made again
    corpus_hash: str  # of the text and the borders between documents
    val_hash: str = ""  # the same of a validation text with files of its own
    end_of_text: int | None  # the token between documents
    files: int
    skipped: int  # files of folders that are not text, may not be read, or were gone
    split: str  # "documents": whole ones are held out; "tail" of the text; "file": a corpus of its own
    documents: int  # of both sides; one that the split divides is counted once
    distinct_characters: int
    formats: tuple[str, ...] = ()  # of the files; "json": read as plain text
    columns: tuple[str, ...] = ()  # names other than "text" of the only columns of tables
    replaced: int = 0  # characters U+FFFD in files that were read with errors="replace"
    removed: tuple[Removed, ...] = ()  # by each cleaning step, in order
    corpora: tuple[Share, ...] = ()  # where they have weights
    val_unknown_bytes: int = 0  # of the validation text that is unknown
    train: SplitCounts
    val: SplitCounts

    @property
    def characters(self) -> int:
        return self.train.characters + self.val.characters

    @property
    def characters_per_token(self) -> float:
        return self.characters / max(1, self.train.tokens + self.val.tokens)

    @property
    def unknown_rate(self) -> float:
        """The share of tokens that are unknown."""
        return (self.train.unknown + self.val.unknown) / max(1, self.train.tokens + self.val.tokens)


@dataclass(frozen=True)
class Tokens:
    """An open folder: arrays of uint16 or uint32, mapped into memory rather than read."""

    folder: Path
    train: TokenArray  # (tokens of the training side,)
    val: TokenArray
    manifest: Manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of token files.

    Raises:
        CorpusError: there is none, it is damaged, or of another format.
    """
    file = folder / "manifest.json"
    try:
        if file.exists() and not file.is_file():
            raise OSError("not a regular file")  # a pipe would wait
        values = json.loads(file.read_text(encoding="utf-8"))
        if type(values["format"]) is int and values["format"] != FORMAT:
            message = f"{folder} has format {values['format']}; this gptscratch reads format {FORMAT}."
            raise CorpusError(message, "Update gptscratch, or delete the folder: it is made again.")
        for name in SPLITS:
            values[name] = _checked(SplitCounts(**values[name]))
        values["removed"] = tuple(_checked(Removed(**step)) for step in values["removed"])
        values["corpora"] = tuple(_checked(Share(**share)) for share in values["corpora"])
        for name in ("formats", "columns"):
            values[name] = tuple(map(str, values.get(name, ())))
        return _consistent(_checked(Manifest(**values)))
    except FileNotFoundError:
        raise CorpusError(f"{folder} holds no token files: it has no manifest.json.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CorpusError(f"{file} is damaged.", f"Delete {folder}: it is made again.") from None


def open_tokens(folder: str | Path) -> Tokens:
    """Open token files for reading.

    Raises:
        CorpusError: as ``read_manifest``, or a file that is not as long as the manifest says or holds ids
            outside of the vocabulary.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    train, val = (_map(folder / f"{name}.bin", manifest, getattr(manifest, name).tokens) for name in SPLITS)
    return Tokens(folder, train, val, manifest)


def manifest_json(manifest: Manifest) -> str:
    return json.dumps(dataclasses.asdict(manifest), indent=1) + "\n"


def token_counts(tokens: TokenArray, vocab_size: int) -> NDArray[np.int64]:
    """(vocab_size,) counts over the tokens, or over blocks spread evenly where they are many."""
    counts = np.zeros(vocab_size, np.int64)
    for block in _spread(tokens):
        counts += np.bincount(block, minlength=vocab_size)
    return counts


def _spread(tokens: TokenArray) -> Iterator[TokenArray]:
    starts = np.arange(0, len(tokens), _BLOCK)
    if len(starts) > _BLOCKS:
        starts = starts[np.linspace(0, len(starts) - 1, _BLOCKS).astype(int)]
    return (tokens[start : start + _BLOCK] for start in starts)


def _map(file: Path, manifest: Manifest, n_tokens: int) -> TokenArray:
    little = np.dtype(manifest.dtype).newbyteorder("<")
    size, wanted = file.stat().st_size if file.is_file() else -1, n_tokens * little.itemsize
    if size != wanted:
        raise _damaged(file, "it is missing" if size < 0 else f"it is {size:,} bytes long, not {wanted:,}")
    tokens: TokenArray = np.memmap(file, little, mode="r") if n_tokens else np.zeros(0, little)
    largest = max((int(block.max()) for block in _spread(tokens)), default=-1)
    if largest >= manifest.vocab_size:
        last = manifest.vocab_size - 1
        raise _damaged(file, f"it holds the id {largest:,}, and the vocabulary ends at {last:,}")
    return tokens


def _damaged(file: Path, fault: str) -> CorpusError:
    return CorpusError(f"{file} is damaged: {fault}.", f"Delete {file.parent}: it is made again.")


def _checked(record: _Record) -> _Record:
    """Raises TypeError or ValueError where a value is not of its field's type, or a count is negative."""
    hints = get_type_hints(type(record))
    for field in dataclasses.fields(cast("Any", record)):
        value, hint = getattr(record, field.name), hints[field.name]
        if get_origin(hint) is tuple or dataclasses.is_dataclass(hint):
            continue  # checked by itself
        if type(value) not in (get_args(hint) or (hint,)):
            raise TypeError(field.name)
        if isinstance(value, int) and value < 0 and field.name != "characters":
            raise ValueError(field.name)
    return record


def _consistent(manifest: Manifest) -> Manifest:
    shares = manifest.corpora
    faults = (
        manifest.dtype not in ("uint16", "uint32"),
        manifest.vocab_size > 1 << 32,
        manifest.end_of_text is not None and manifest.end_of_text >= manifest.vocab_size,
        shares and sum(share.tokens for share in shares) != manifest.train.tokens,
        sum(share.val_tokens for share in shares) > manifest.val.tokens,
        not all(0 < share.weight <= 1 for share in shares),
    )
    if any(faults):
        raise ValueError
    return manifest
