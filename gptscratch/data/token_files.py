"""Token files: a folder with train.bin, val.bin, tokenizer.json and manifest.json.

The .bin files are bare little-endian uint16 or uint32. The manifest is written last: a folder without
one was never finished. They are written in writer.py.
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

from gptscratch.errors import CorpusError

FORMAT = 2
SPLITS = ("train", "val")
_Record = TypeVar("_Record")
TokenArray = NDArray[np.unsignedinteger[Any]]

_CHUNK = 1 << 22  # tokens counted at once
_CHUNKS = 16  # of a long text: enough for its frequencies


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """What one side of the split holds."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0  # of the text in UTF-8
    tokens: int = 0  # end-of-text tokens included
    unknown: int = 0  # tokens that stand for what the vocabulary lacks


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What one step of cleaning took away."""

    step: str
    documents: int = 0  # dropped
    characters: int = 0  # those of the dropped documents included; below 0 where a step made text longer
    changed: int = 0  # documents kept, but changed


@dataclass(frozen=True, kw_only=True)
class Share:
    """One of several corpora with weights; their training tokens stand in train.bin one behind the other."""

    name: str
    weight: float  # of the training tokens that are drawn; all weights together are 1
    tokens: int  # of its training side
    val_tokens: int = 0  # of its validation side; 0 where a corpus of its own is for validation


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of token files says of itself."""

    format: int = FORMAT
    dtype: str  # of the .bin files: uint16 or uint32
    vocab_size: int
    tokenizer_kind: str
    tokenizer_hash: str
    corpus_hash: str
    recipe: str  # hash of corpus, split and how the tokenizer was asked for
    sources: str  # hash of the files' names, sizes and times; empty: not to be trusted
    end_of_text: int | None  # the token between documents
    files: int
    skipped: int  # files of folders that were no text, or had vanished
    by_document: bool  # whole documents are held back; else the tail of the text
    documents: int = 0  # of both sides; one that the split cuts is counted once
    replaced: int = 0  # bytes that the encoding does not know, read as U+FFFD by request
    removed: tuple[Removed, ...] = ()  # by each step of cleaning, in their order
    corpora: tuple[Share, ...] = ()  # where they have weights
    lossy: bool = False  # the tokenizer does not keep all of the text: its case, or its white space
    val_unknown_bytes: int = 0  # of the validation text that unknown tokens stand for
    train: SplitCounts
    val: SplitCounts

    @property
    def characters_per_token(self) -> float:
        return (self.train.characters + self.val.characters) / max(1, self.train.tokens + self.val.tokens)

    @property
    def unknown_rate(self) -> float:
        """The share of tokens that stand for something unknown."""
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
        CorpusError: there is none, it is damaged, or of a newer format.
    """
    file = folder / "manifest.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        newer = values["format"] > FORMAT
        if not newer:
            train, val = (_checked(SplitCounts(**values.pop(name))) for name in SPLITS)
            removed = tuple(_checked(Removed(**step)) for step in values.pop("removed", ()))
            corpora = tuple(_checked(Share(**share)) for share in values.pop("corpora", ()))
            unknown = val.bytes * val.unknown // max(1, val.tokens)
            values.setdefault("val_unknown_bytes", unknown)  # about so many, where format 1 does not say it
            manifest = Manifest(**values, removed=removed, corpora=corpora, train=train, val=val)
            _require_consistent(_checked(manifest))
            return manifest
    except FileNotFoundError:
        raise CorpusError(f"{folder} holds no token files: it has no manifest.json.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CorpusError(f"{file} is damaged.", f"Delete {folder}: it is made again.") from None
    raise CorpusError(f"{folder} was written by a newer gptscratch.", "Update: pip install -U gptscratch")


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


def _require_consistent(manifest: Manifest) -> None:
    if manifest.dtype not in ("uint16", "uint32") or manifest.vocab_size > 1 << 32:
        raise ValueError("dtype")
    if manifest.end_of_text is not None and manifest.end_of_text >= manifest.vocab_size:
        raise ValueError("end_of_text")
    if manifest.corpora:
        weights = [share.weight for share in manifest.corpora]
        counted = sum(share.tokens for share in manifest.corpora) == manifest.train.tokens
        if not counted or not all(0 < weight <= 1 for weight in weights):
            raise ValueError("corpora")
        if sum(share.val_tokens for share in manifest.corpora) > manifest.val.tokens:
            raise ValueError("corpora")


def open_tokens(folder: str | Path) -> Tokens:
    """Open token files for reading.

    Raises:
        CorpusError: as ``read_manifest``, or a file that is not as long as the manifest says or holds ids
            outside of the vocabulary.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    train = _map(folder / "train.bin", manifest, manifest.train.tokens)
    val = _map(folder / "val.bin", manifest, manifest.val.tokens)
    return Tokens(folder, train, val, manifest)


def token_counts(tokens: TokenArray, vocab_size: int) -> NDArray[np.int64]:
    """(vocab_size,) counts over the tokens, or over chunks spread evenly where they are many."""
    counts = np.zeros(vocab_size, np.int64)
    for chunk in _spread(tokens):
        counts += np.bincount(chunk, minlength=vocab_size)
    return counts


def _spread(tokens: TokenArray) -> Iterator[TokenArray]:
    """All of the tokens in chunks, or chunks spread evenly where they are many."""
    starts = np.arange(0, len(tokens), _CHUNK)
    if len(starts) > _CHUNKS:
        starts = starts[np.linspace(0, len(starts) - 1, _CHUNKS).astype(int)]
    return (tokens[start : start + _CHUNK] for start in starts)


def _map(file: Path, manifest: Manifest, n_tokens: int) -> TokenArray:
    little = np.dtype(manifest.dtype).newbyteorder("<")
    size = file.stat().st_size if file.is_file() else -1
    if size != n_tokens * little.itemsize:
        state = "missing" if size < 0 else f"{size:,} bytes long, not {n_tokens * little.itemsize:,}"
        raise CorpusError(f"{file} is damaged: it is {state}.", f"Delete {file.parent}: it is made again.")
    tokens: TokenArray = np.memmap(file, little, mode="r") if n_tokens else np.zeros(0, little)
    largest = max((int(chunk.max()) for chunk in _spread(tokens)), default=0)
    if n_tokens and largest >= manifest.vocab_size:
        raise CorpusError(
            f"{file} is damaged: it holds the id {largest:,}, and the vocabulary ends at "
            f"{manifest.vocab_size - 1:,}.",
            f"Delete {file.parent}: it is made again.",
        )
    return tokens


def manifest_json(manifest: Manifest) -> str:
    return json.dumps(dataclasses.asdict(manifest), indent=1) + "\n"
