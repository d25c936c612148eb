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
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from gptscratch.errors import CorpusError

FORMAT = 3
Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
TokenArray = NDArray[np.unsignedinteger[Any]]

_CHUNK = 1 << 22  # tokens counted at once
_CHUNKS = 16  # of a long text: enough for its frequencies
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
class Removed:
    """Counts of what one cleaning step removed."""

    step: str
    documents: int = 0  # dropped
    characters: int = 0  # with those of the dropped documents; below 0 where a step made text longer
    changed: int = 0  # documents kept, but changed


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
    corpus_hash: str  # of the text and the borders between documents
    end_of_text: int | None  # the token between documents
    files: int
    skipped: int  # files of folders that are not text, may not be read, or were gone
    split: str  # "documents": whole ones are held out; "tail" of the text; "file": a corpus of its own
    documents: int  # of both sides; one that the split divides is counted once
    distinct_characters: int
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
        CorpusError: there is none, it is damaged, or of a newer format.
    """
    file = folder / "manifest.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["format"] <= FORMAT:
            train, val = (_checked(SplitCounts(**values.pop(name))) for name in SPLITS)
            values["removed"] = tuple(_checked(Removed(**step)) for step in values.get("removed", ()))
            values["corpora"] = tuple(_checked(Share(**share)) for share in values.get("corpora", ()))
            manifest = Manifest(**_of_this_format(values, val), train=train, val=val)
            _require_consistent(_checked(manifest))
            return manifest
    except FileNotFoundError:
        raise CorpusError(f"{folder} holds no token files: it has no manifest.json.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CorpusError(f"{file} is damaged.", f"Delete {folder}: it is made again.") from None
    raise CorpusError(f"{folder} was written by a newer gptscratch.", "Update gptscratch to read it.")


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


def manifest_json(manifest: Manifest) -> str:
    return json.dumps(dataclasses.asdict(manifest), indent=1) + "\n"


def token_counts(tokens: TokenArray, vocab_size: int) -> NDArray[np.int64]:
    """(vocab_size,) counts over the tokens, or over chunks spread evenly where they are many."""
    counts = np.zeros(vocab_size, np.int64)
    for chunk in _spread(tokens):
        counts += np.bincount(chunk, minlength=vocab_size)
    return counts


def _spread(tokens: TokenArray) -> Iterator[TokenArray]:
    starts = np.arange(0, len(tokens), _CHUNK)
    if len(starts) > _CHUNKS:
        starts = starts[np.linspace(0, len(starts) - 1, _CHUNKS).astype(int)]
    return (tokens[start : start + _CHUNK] for start in starts)


def _map(file: Path, manifest: Manifest, n_tokens: int) -> TokenArray:
    little = np.dtype(manifest.dtype).newbyteorder("<")
    hint = f"Delete {file.parent}: it is made again."
    size = file.stat().st_size if file.is_file() else -1
    if size != n_tokens * little.itemsize:
        state = "missing" if size < 0 else f"{size:,} bytes long, not {n_tokens * little.itemsize:,}"
        raise CorpusError(f"{file} is damaged: it is {state}.", hint)
    tokens: TokenArray = np.memmap(file, little, mode="r") if n_tokens else np.zeros(0, little)
    largest = max((int(chunk.max()) for chunk in _spread(tokens)), default=-1)
    if largest >= manifest.vocab_size:
        last = manifest.vocab_size - 1
        raise CorpusError(
            f"{file} is damaged: it holds the id {largest:,}, and the vocabulary ends at {last:,}.", hint
        )
    return tokens


def _of_this_format(values: dict[str, Any], val: SplitCounts) -> dict[str, Any]:
    """The fields of formats 1 and 2 as those of format 3; what they do not say is estimated or left open."""
    if values["format"] == FORMAT:
        return values
    values = {k: v for k, v in values.items() if k not in ("recipe", "sources")}
    by_document = values.pop("by_document")
    new = {
        "key": "",
        "lossy": False,
        "split": "documents" if by_document else "tail",
        "documents": 0,
        "distinct_characters": 0,
        "val_unknown_bytes": val.bytes * val.unknown // max(1, val.tokens),
    }
    return {**new, **values}


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
