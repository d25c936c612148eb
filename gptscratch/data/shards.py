"""Shards: several processes or machines tokenize one corpus, and their token files are joined.

Every one reads the whole corpus, so that all find the same split, tokenizer and duplicates, and encodes its
part of the chunks, which takes most of the time. One after the other, the parts are the files of one process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptscratch.data.chunks import Chunk
from gptscratch.data.sources import Progress
from gptscratch.data.token_files import Manifest, SplitCounts, manifest_json, read_manifest
from gptscratch.errors import ConfigError, CorpusError, disk_errors
from gptscratch.files import new_folder

_FILE = "shard.json"  # next to the token files of a shard
_FOLDERS = "shard-*-of-*"


@dataclass(frozen=True, order=True)
class Shard:
    """One of ``count`` parts of a corpus, numbered from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``"3/8"``. Raises ConfigError for anything else."""
        match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
        if match and 1 <= int(match[1]) <= int(match[2]):
            return cls(int(match[1]), int(match[2]))
        raise ConfigError(f"--shard is {text!r}: it must be I/N, I from 1 to N.", "For example: --shard 3/8")

    def folder(self, folder: Path) -> Path:
        """That of this shard in the folder of all."""
        return folder / f"shard-{self.number}-of-{self.count}"

    def chunks(self, chunks: Iterable[Chunk], n_bytes: int, on_progress: Progress) -> Iterator[Chunk]:
        """Those of this shard, from all chunks of a corpus of ``n_bytes``."""
        before = 0
        for chunk in chunks:
            if before * self.count // n_bytes == self.number - 1:
                yield chunk
            else:
                on_progress("reading", before, n_bytes)
            before += int(chunk.sizes.sum())

    def write(self, folder: Path, settings: str) -> None:
        """Write what ``join_shards`` needs; ``settings``: a hash of those that decide about the tokens."""
        (folder / _FILE).write_text(json.dumps({**asdict(self), "settings": settings}), encoding="utf-8")


class _Part(NamedTuple):
    shard: Shard
    folder: Path
    settings: str
    manifest: Manifest


def holds_shards(folder: Path) -> bool:
    return os.path.isdir(folder) and any(folder.glob(f"{_FOLDERS}/{_FILE}"))  # noqa: PTH112 - any name


def is_shard(folder: Path) -> bool:
    return (folder / _FILE).is_file()


def missing_shards(folder: Path) -> list[int]:
    """The numbers of the shards that a folder of shards lacks.

    Raises:
        CorpusError: a shard is damaged or there twice, or made from another text or with other settings.
    """
    parts = _parts_in(folder)
    return sorted({*range(1, parts[0].shard.count + 1)} - {part.shard.number for part in parts})


def join_shards(folder: Path, on_progress: Progress) -> None:
    """Make a folder of token files of a folder of all shards, which are deleted at the end.

    Raises:
        CorpusError: a shard is missing, or as for ``missing_shards``.
        RunError: the disk is full or refuses.
    """
    missing, parts, whole = missing_shards(folder), _parts_in(folder), folder / "joined"
    if missing:
        count = parts[0].shard.count
        raise CorpusError(
            f"{folder} lacks {len(missing):,} of {count:,} shards: {', '.join(map(str, missing[:10]))}.",
            f"Make each: gptscratch tokenize CORPUS --shard {missing[0]}/{count} --out {folder}",
        )
    with disk_errors(f"joining the shards in {folder}"):
        shutil.rmtree(whole, ignore_errors=True)
        with new_folder(whole) as temporary:
            for name in ("train.bin", "val.bin"):
                _join_files([part.folder / name for part in parts], temporary / name, on_progress)
            shutil.copyfile(parts[0].folder / "tokenizer.json", temporary / "tokenizer.json")
            manifest = _joined([part.manifest for part in parts])
            (temporary / "manifest.json").write_text(manifest_json(manifest), encoding="utf-8")
        for name in ("train.bin", "val.bin", "tokenizer.json", "manifest.json"):  # the last one completes it
            (whole / name).replace(folder / name)
        for done in (whole, *(part.folder for part in parts)):
            shutil.rmtree(done)
        for lock in folder.glob(f".{_FOLDERS}.lock"):
            lock.unlink(missing_ok=True)


def _parts_in(folder: Path) -> list[_Part]:
    """The shards in order. Raises CorpusError where they do not belong together."""
    parts = sorted(map(_read, folder.glob(_FOLDERS)))
    for before, part in pairwise(parts):
        names = f"{before.folder.name} and {part.folder.name}"
        if before.shard.count != part.shard.count:
            fault = "are of different numbers of shards"
        elif before.shard == part.shard:
            fault = f"are the same shard, {part.shard.number}"
        elif before.manifest.corpus_hash != part.manifest.corpus_hash:
            fault = "are from different texts"
        elif (before.settings, _common(before.manifest)) != (part.settings, _common(part.manifest)):
            fault = "were made with different settings or tokenizers"
        else:
            continue
        raise CorpusError(f"{names} in {folder} {fault}.", "Delete the wrong one.")
    return parts


def _read(folder: Path) -> _Part:
    manifest = read_manifest(folder)
    try:
        values = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        shard = Shard.parse(f"{values['number']}/{values['count']}")
        settings = str(values["settings"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError):
        raise CorpusError(f"{folder / _FILE} is damaged or missing.", f"Delete {folder}.") from None
    for name, tokens in (("train.bin", manifest.train.tokens), ("val.bin", manifest.val.tokens)):
        file, size = folder / name, tokens * np.dtype(manifest.dtype).itemsize
        if not file.is_file() or file.stat().st_size != size:
            raise CorpusError(f"{file} is not {size:,} bytes long: it is damaged.", f"Delete {folder}.")
    return _Part(shard, folder, settings, manifest)


def _common(manifest: Manifest) -> Manifest:
    """What the manifests of all shards have in common."""
    shares = tuple(replace(share, tokens=0, val_tokens=0) for share in manifest.corpora)
    none = SplitCounts()
    return replace(manifest, key="", corpora=shares, val_unknown_bytes=0, train=none, val=none)


def _joined(manifests: Sequence[Manifest]) -> Manifest:
    def total(sides: Iterable[SplitCounts]) -> SplitCounts:
        counts = [asdict(side) for side in sides]
        return SplitCounts(**{name: sum(each[name] for each in counts) for name in counts[0]})

    first = manifests[0]
    shares = (
        replace(
            own[0], tokens=sum(each.tokens for each in own), val_tokens=sum(each.val_tokens for each in own)
        )
        for own in zip(*(manifest.corpora for manifest in manifests), strict=True)
    )
    return replace(
        first,
        corpora=tuple(shares),
        val_unknown_bytes=sum(manifest.val_unknown_bytes for manifest in manifests),
        train=total(manifest.train for manifest in manifests),
        val=total(manifest.val for manifest in manifests),
    )


def _join_files(parts: Sequence[Path], target: Path, on_progress: Progress) -> None:
    total = sum(part.stat().st_size for part in parts)
    with target.open("wb") as file:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 24)
            on_progress("joining shards", file.tell(), total)
