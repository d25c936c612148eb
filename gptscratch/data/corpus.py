"""A corpus as a stream of documents, read twice: once to know it, once to turn it into tokens.

Memory stays bounded whatever the size: a small corpus is kept between the passes, a large one read anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gptscratch.config import DataConfig
from gptscratch.data.reading import NotTextError, Piece, read_pieces
from gptscratch.data.sources import find_sources
from gptscratch.errors import CorpusError

Progress = Callable[[str, int, int], None]  # stage, done, total
Side = Literal["train", "val"]

SPLIT_BY_DOCUMENT = 20  # documents, from which on whole ones are held back
_KEPT = 16_000_000  # characters that are kept in memory between the passes
_HASHED = (
    1 << 16
)  # characters at a document's start that decide its side: no piece that starts one is shorter
_SALTED = 1000  # documents, up to which the salt is chosen so that the held-back share comes out right
_SALTS = 32


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What the first pass found."""

    files: int
    skipped: int  # files of folders that are no text
    documents: int
    characters: int
    bytes: int  # of the text in UTF-8
    hash: str  # of the text and the borders between documents
    alphabet: str  # the distinct characters, sorted
    by_document: bool  # whole documents are held back; else the tail of the text
    salt: int  # of the hash that decides a document's side
    train_characters: int  # where the tail begins, if not by document


class Corpus:
    """The text that a ``DataConfig`` names."""

    def __init__(self, config: DataConfig) -> None:
        """Finds the files; reads nothing but stdin and pipes, which are spooled.

        Raises:
            CorpusError: something named does not exist.
        """
        self.config = config
        self.sources = find_sources(config)
        self.skipped = 0
        self._kept: list[Piece] | None = None
        self._stamps = [source.stamp() for source in self.sources]
        self.total_bytes = sum(stamp[1] for stamp in self._stamps if stamp)

    def __enter__(self) -> Corpus:
        return self

    def __exit__(self, *_: object) -> None:
        """Gives up the copies of streams."""
        for source in self.sources:
            if source.spooled is not None:
                source.spooled.close()

    @property
    def newest_change(self) -> float:
        """Seconds since the epoch; infinite where a part of the corpus is no file."""
        return max((stamp[2] / 1e9 if stamp else float("inf")) for stamp in self._stamps)

    def fingerprint(self) -> str:
        """Of the files' names, sizes and times, and of how they are read: no file is opened for it."""
        how = {**dataclasses.asdict(self.config), "corpus": self._stamps}
        return hashlib.blake2b(json.dumps(how).encode(), digest_size=16).hexdigest()

    def pieces(self, on_progress: Progress | None = None, stage: str = "reading") -> Iterator[Piece]:
        """Every document in pieces, in order.

        Raises:
            CorpusError: text that cannot be read.
        """
        done, total = 0, self.total_bytes
        self.skipped = 0

        def on_bytes(position: int) -> None:
            if on_progress:
                on_progress(stage, min(done + position, total), total)

        for source, stamp in zip(self.sources, self._stamps, strict=True):
            try:
                yield from read_pieces(source, self.config, on_bytes)
            except NotTextError:
                if source.named:
                    raise
                self.skipped += 1
            done += stamp[1] if stamp else 0

    def scan(self, on_progress: Progress | None = None) -> Scan:
        """The first pass: counts, hash, alphabet, and how the corpus is split.

        Raises:
            CorpusError: the corpus is empty or cannot be read.
        """
        digest = hashlib.blake2b(digest_size=16)
        letters = _Alphabet()
        sides = _Sides(self.config.val_fraction)
        kept: list[Piece] | None = []
        characters = n_bytes = 0
        for piece in self.pieces(on_progress):
            data = piece.text.encode()
            digest.update(data)
            if piece.ends:
                digest.update(b"\xff")  # occurs in no UTF-8 text
            characters += len(piece.text)
            n_bytes += len(data)
            letters.add(piece.text)
            sides.add(piece)
            if kept is not None:
                kept.append(piece)
                kept = kept if characters <= _KEPT else None
        if not characters:
            names = ", ".join(self.config.corpus) or "the standard library"
            skipped = f" ({self.skipped:,} files are no text)" if self.skipped else ""
            raise CorpusError(f"the corpus is empty: there is no text in {names}{skipped}.")
        self._kept = kept
        cut = int(characters * (1 - self.config.val_fraction))
        return Scan(
            files=len(self.sources) - self.skipped,
            skipped=self.skipped,
            documents=sides.documents,
            characters=characters,
            bytes=n_bytes,
            hash=digest.hexdigest(),
            alphabet=letters.sorted(),
            by_document=sides.by_document(),
            salt=sides.salt(),
            train_characters=min(max(cut, 1), characters - 1) if characters > 1 else 1,
        )

    def sided_pieces(self, scan: Scan, on_progress: Progress | None = None) -> Iterator[tuple[Side, Piece]]:
        """The second pass: every piece with the side it is on. The text is ``scan``'s.

        Raises:
            CorpusError: a file changed between the passes.
        """
        pieces = self._kept if self._kept is not None else self.pieces(on_progress, "tokenizing")
        divided = _by_document(pieces, scan, self.config) if scan.by_document else _by_tail(pieces, scan)
        yield from divided
        if [source.stamp() for source in self.sources] != self._stamps:
            raise CorpusError("the corpus changed while it was being read.", "Run the command again.")

    def training_texts(self, scan: Scan) -> Iterator[str]:
        """The text of the training side, in pieces: what a tokenizer may learn from."""
        return (piece.text for side, piece in self.sided_pieces(scan) if side == "train")


def _by_tail(pieces: Iterator[Piece] | list[Piece], scan: Scan) -> Iterator[tuple[Side, Piece]]:
    position = 0
    for piece in pieces:
        left = scan.train_characters - position
        position += len(piece.text)
        if left >= len(piece.text):
            yield "train", Piece(piece.text, piece.ends or left == len(piece.text))
        elif left <= 0:
            yield "val", piece
        else:
            yield "train", Piece(piece.text[:left], True)
            yield "val", Piece(piece.text[left:], piece.ends)


def _by_document(
    pieces: Iterator[Piece] | list[Piece], scan: Scan, config: DataConfig
) -> Iterator[tuple[Side, Piece]]:
    starts = True
    side: Side = "train"
    for piece in pieces:
        if starts:
            side = "val" if _salted(_start_hash(piece), scan.salt) < config.val_fraction else "train"
        yield side, piece
        starts = piece.ends


def _start_hash(piece: Piece) -> int:
    digest = hashlib.blake2b(piece.text[:_HASHED].encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _salted(start_hash: int, salt: int) -> float:
    """Uniform in [0, 1): equal documents share it."""
    return ((start_hash * (2 * salt + 1)) & (2**64 - 1)) / 2**64


class _Sides:
    """Counts documents and characters on either side, while the corpus streams by."""

    def __init__(self, val_fraction: float) -> None:
        self.documents = 0
        self._fraction = val_fraction
        self._first: list[list[int]] = []  # [hash, characters] of the first documents
        self._val_documents = 0  # with salt 0
        self._starts = True

    def add(self, piece: Piece) -> None:
        if self._starts:
            start_hash = _start_hash(piece)
            self._val_documents += _salted(start_hash, 0) < self._fraction
            if self.documents < _SALTED:
                self._first.append([start_hash, 0])
        if self.documents < _SALTED:
            self._first[-1][1] += len(piece.text)
        self.documents += piece.ends
        self._starts = piece.ends

    def salt(self) -> int:
        """Few documents may fall unevenly: the salt whose share of characters comes nearest is taken."""
        if self.documents > _SALTED:
            return 0
        return min(range(_SALTS), key=lambda salt: abs(self._share(salt) - self._fraction))

    def by_document(self) -> bool:
        if self.documents < SPLIT_BY_DOCUMENT:
            return False
        if self.documents > _SALTED:
            return 0 < self._val_documents < self.documents
        return 0.0 < self._share(self.salt()) < 1.0

    def _share(self, salt: int) -> float:
        total = sum(length for _, length in self._first) or 1
        return sum(length for h, length in self._first if _salted(h, salt) < self._fraction) / total


class _Alphabet:
    """The distinct characters of a stream of text."""

    def __init__(self) -> None:
        self._known = np.zeros(0x110000, dtype=bool)
        self._ascii = b""  # those already seen: what is left after deleting them is new
        self._waiting: list[str] = []
        self._size = 0

    def add(self, text: str) -> None:
        self._waiting.append(text)  # joined, since a corpus may be millions of short texts
        self._size += len(text)
        if self._size > 1 << 18:
            self._flush()

    def sorted(self) -> str:
        self._flush()
        return "".join(map(chr, np.flatnonzero(self._known)))

    def _flush(self) -> None:
        text = "".join(self._waiting)
        self._waiting, self._size = [], 0
        if text.isascii():
            new = bytes(set(text.encode("ascii").translate(None, self._ascii)))
            self._ascii += new
            self._known[list(new)] = True
        else:
            self._known[np.frombuffer(text.encode("utf-32-le"), np.uint32)] = True
