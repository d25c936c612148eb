"""Which side of the split a document is on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gptscratch.data.readers import Piece

Side = Literal["train", "val"]

VAL_FRACTION = 0.1
MOST_VAL_BYTES = 20_000_000
LEAST_VAL_DOCUMENTS = 30
SPLIT_BY_DOCUMENT = 20  # documents, from which on whole ones are held back
_HASHED = (
    1 << 16
)  # characters at a document's start that decide its side: no piece that starts one is shorter
_SALTED = 1000  # documents, up to which the salt is chosen so that the held-back share comes out right
_SALTS = 32


@dataclass(frozen=True)
class Section:
    """A stretch of the text whose tail is held back: the whole of it, or one of several corpora."""

    train_end: int  # characters before its tail, from the beginning of the text
    end: int  # characters before its end


def by_tail(pieces: Iterable[Piece], sections: Sequence[Section]) -> Iterator[tuple[Side, Piece]]:
    """The tail of each section is for validation; a piece never reaches over a section's end."""
    position = number = 0
    for piece in pieces:
        while position >= sections[number].end:
            number += 1
        left = sections[number].train_end - position
        position += len(piece.text)
        if left >= len(piece.text):
            yield "train", Piece(piece.text, piece.ends or left == len(piece.text))
        elif left <= 0:
            yield "val", piece
        else:
            yield "train", Piece(piece.text[:left], True)
            yield "val", Piece(piece.text[left:], piece.ends)


def by_document(pieces: Iterable[Piece], salt: int, val_fraction: float) -> Iterator[tuple[Side, Piece]]:
    starts = True
    side: Side = "train"
    for piece in pieces:
        if starts:
            side = "val" if _salted(start_hash(piece), salt) < val_fraction else "train"
        yield side, piece
        starts = piece.ends


def start_hash(piece: Piece) -> int:
    digest = hashlib.blake2b(piece.text[:_HASHED].encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _salted(hashed: int, salt: int) -> float:
    """Uniform in [0, 1): equal documents share it."""
    return ((hashed * (2 * salt + 1)) & (2**64 - 1)) / 2**64


def chosen_fraction(n_bytes: int, n_documents: int) -> float:
    """The share that is held back where none is given: a tenth, but of a large corpus not more than serves.

    Of documents, as many as make it sure that some fall on that side.
    """
    enough = MOST_VAL_BYTES / max(1, n_bytes)
    if n_documents >= SPLIT_BY_DOCUMENT:
        enough = max(enough, LEAST_VAL_DOCUMENTS / n_documents)
    return min(VAL_FRACTION, enough)


class Sides:
    """Counts documents and characters on either side, while the corpus streams by."""

    def __init__(self, val_fraction: float) -> None:
        self.documents = 0
        self._fraction = val_fraction
        self._first: list[list[int]] = []  # [hash, characters] of the first documents
        self._val_documents = 0  # with salt 0
        self._starts = True

    def add(self, piece: Piece) -> None:
        if self._starts:
            hashed = start_hash(piece)
            self._val_documents += _salted(hashed, 0) < self._fraction
            if self.documents < _SALTED:
                self._first.append([hashed, 0])
        if self.documents < _SALTED:
            self._first[-1][1] += len(piece.text)
        self.documents += piece.ends
        self._starts = piece.ends

    def take(self, val_fraction: float) -> None:
        """Another share than at first, known when all documents are."""
        self._fraction = val_fraction

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
