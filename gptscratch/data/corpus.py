"""A corpus as a stream of documents, read twice: once to know it, once to turn it into tokens.

Memory stays bounded whatever the size: a small corpus is kept between the passes, a large one read anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gptscratch.config import DataConfig
from gptscratch.data.characters import Alphabet
from gptscratch.data.cleaning import clean
from gptscratch.data.digest import Digest
from gptscratch.data.encoding import NotTextError
from gptscratch.data.readers import Piece, Tally, read_pieces
from gptscratch.data.sources import (
    Progress,
    Source,
    UnreadableError,
    VanishedError,
    find_sources,
    split_weights,
)
from gptscratch.data.split import (
    VAL_FRACTION,
    Section,
    Side,
    Sides,
    by_document,
    by_tail,
    chosen_fraction,
)
from gptscratch.data.token_files import Removed
from gptscratch.errors import CorpusError

_KEPT = 16_000_000  # characters that are kept in memory between the passes
_GONE = (-1, -1)  # the stamp of a file that is no more


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What the first pass found."""

    files: int
    skipped: int  # files of folders that are not text, may not be read, or vanished before they were read
    documents: int
    characters: int
    bytes: int  # of the text in UTF-8
    hash: str  # of the text and the borders between documents
    alphabet: str  # the distinct characters, sorted
    by_document: bool  # whole documents are held back; else the tail of the text
    salt: int  # of the hash that decides a document's side
    sections: tuple[
        Section, ...
    ]  # of each weighted corpus, or one: whose tail is held back if not by document
    val_fraction: float = VAL_FRACTION  # of the documents or of each section, held back
    replaced: int = 0  # bytes that the encoding does not know, read as U+FFFD by request
    removed: tuple[Removed, ...] = ()  # by each step of cleaning, in their order
    encodings: tuple[tuple[str, int], ...] = ()  # files by their encoding, most frequent first


class Corpus:
    """The text that a ``DataConfig`` names."""

    def __init__(self, config: DataConfig, on_progress: Progress | None = None) -> None:
        """Finds the files; reads nothing but stdin and pipes, which are copied to the disk.

        Raises:
            CorpusError: something named does not exist.
        """
        self.config = config
        self.names, self.weights = split_weights(config.corpus)
        self.sources: list[Source] = []
        self._ends: list[int] = []  # sources before the end of each weighted corpus, or of all together
        for names in [(name,) for name in self.names] if self.weights else [self.names]:
            self.sources += find_sources(config, names, on_progress)
            self._ends.append(len(self.sources))
        if config.val_file:
            self.sources += find_sources(config, (config.val_file,), on_progress)
        self.skipped = 0
        self._tally = Tally()
        self._removed: dict[str, Removed] = {}
        self._part = 0  # which of self._ends the file being read belongs to; past them: validation
        self._kept: list[Piece] | None = None
        self._stamps = self._read_stamps()
        self.total_bytes = sum(max(0, size) for size in self._stamps[::2])

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
        if any(source.spooled is not None for source in self.sources):
            return float("inf")
        return max(self._stamps[1::2], default=0) / 1e9

    def stamps_key(self) -> str:
        """Of the files' names, sizes and times: no file is opened for it."""
        digest = hashlib.blake2b(self._stamps.tobytes(), digest_size=16)
        here = str(Path.cwd())
        for source in self.sources:
            digest.update(os.path.join(here, source.name).encode(errors="surrogateescape") + b"\0")  # noqa: PTH118
        return digest.hexdigest()

    def reading_key(self) -> str:
        """Of the names that were given and how they are read: the same when the files have changed."""
        how = dataclasses.asdict(self.config)
        for name in ("tokenizer", "vocab_size", "lowercase", "min_frequency"):
            del how[name]
        return hashlib.blake2b(json.dumps([str(Path.cwd()), how]).encode(), digest_size=12).hexdigest()

    def fingerprint(self) -> str:
        """Of the files, how they are read and how they become tokens."""
        how = {**dataclasses.asdict(self.config), "corpus": self.stamps_key(), "weights": self.weights}
        return hashlib.blake2b(json.dumps(how).encode(), digest_size=16).hexdigest()

    def _read_stamps(self) -> array[int]:
        """Two numbers for each source, one behind the other: of millions, objects would fill the memory."""
        return array("q", (number for source in self.sources for number in source.stamp()))

    def pieces(
        self, on_progress: Progress | None = None, stage: str = "reading", *, again: bool = False
    ) -> Iterator[Piece]:
        """Every document in pieces, in order, cleaned; those of the validation corpus come last.

        ``again``: the files must be what they were when they were first read.

        Raises:
            CorpusError: text that cannot be read, or a file that changed.
            VanishedError: a file of a folder that was there is gone.
            MissingExtraError: a file or a step of cleaning needs a package that is not installed.
        """
        pieces = self._pieces(on_progress, stage, again)
        return clean(pieces, self.config.clean, self._removed) if self.config.clean else pieces

    def _pieces(self, on_progress: Progress | None, stage: str, again: bool) -> Iterator[Piece]:
        done, total = 0, self.total_bytes
        self.skipped = 0
        self._tally = Tally()

        def on_bytes(position: int) -> None:
            if on_progress:
                on_progress(stage, min(done + position, total), total)

        for number, source in enumerate(self.sources):
            self._part = sum(number >= end for end in self._ends)
            expected = tuple(self._stamps[2 * number : 2 * number + 2])
            try:
                if again and source.stamp() not in (expected, _GONE):
                    raise _changed()
                yield from read_pieces(source, self.config, on_bytes, self._tally)
            except (NotTextError, UnreadableError):
                if source.named:
                    raise
                self.skipped += 1
            except VanishedError:
                self._stamps[2 * number : 2 * number + 2] = array("q", _GONE)
                if again and expected != _GONE:
                    raise
                self.skipped += 1
            done += max(0, expected[0])

    def scan(self, on_progress: Progress | None = None) -> Scan:
        """The first pass: counts, hash, alphabet, and how the corpus is split.

        Raises:
            CorpusError: the corpus is empty or cannot be read.
        """
        digest = Digest()
        letters = Alphabet()
        given = self.config.val_fraction
        sides = Sides(VAL_FRACTION if given < 0 else given)
        kept: list[Piece] | None = []
        characters = n_bytes = 0
        lengths = [0] * (len(self._ends) + 1)
        for piece in self.pieces(on_progress):
            data = piece.text.encode()
            digest.update(data)
            if piece.ends:
                digest.update(b"\xff")  # occurs in no UTF-8 text
            characters += len(piece.text)
            lengths[self._part] += len(piece.text)
            n_bytes += len(data)
            letters.add(data)
            sides.add(piece)
            if kept is not None:
                kept.append(piece)
                kept = kept if characters <= _KEPT else None
        self._require_text(lengths)
        self._kept = kept
        val_fraction = chosen_fraction(n_bytes, sides.documents) if given < 0 else given
        sides.take(val_fraction)
        return Scan(
            files=len(self.sources) - self.skipped,
            skipped=self.skipped,
            documents=sides.documents,
            characters=characters,
            bytes=n_bytes,
            hash=digest.hexdigest(),
            alphabet=letters.sorted(),
            by_document=not self.config.val_file and sides.by_document(),
            salt=sides.salt(),
            sections=self._sections(lengths, val_fraction),
            val_fraction=val_fraction,
            replaced=self._tally.replaced,
            removed=tuple(self._removed.values()),
            encodings=tuple(self._tally.encodings.most_common()),
        )

    def _sections(self, lengths: list[int], val_fraction: float) -> tuple[Section, ...]:
        *own, validation = lengths
        found, start = [], 0
        for length in own:
            cut = int(length * (1 - val_fraction))
            train = length if self.config.val_file else min(max(cut, 1), max(length - 1, 1))
            found.append(Section(start + train, start + length))
            start += length
        if validation:
            found[-1] = Section(found[-1].train_end, start + validation)
        return tuple(found)

    def _require_text(self, lengths: list[int]) -> None:
        for number, length in enumerate(lengths[:-1]):
            if length:
                continue
            names = self.names[number] if self.weights else ", ".join(self.names) or "the standard library"
            skipped = f" ({self.skipped:,} files passed over)" if self.skipped else ""
            left = " that the cleaning leaves" if self.config.clean else ""
            raise CorpusError(f"the corpus is empty: there is no text{left} in {names}{skipped}.")
        if self.config.val_file and not lengths[-1]:
            raise CorpusError(f"the validation corpus is empty: there is no text in {self.config.val_file}.")

    def sided_pieces(
        self, scan: Scan, on_progress: Progress | None = None, stage: str = "reading"
    ) -> Iterator[tuple[Side, Piece]]:
        """The second pass: every piece with the side it is on. The text is ``scan``'s.

        Raises:
            CorpusError: a file changed between the passes.
        """
        pieces = self._kept if self._kept is not None else self.pieces(on_progress, stage, again=True)
        if scan.by_document:
            yield from by_document(pieces, scan.salt, scan.val_fraction)
        else:
            yield from by_tail(pieces, scan.sections)
        self._require_unchanged()

    def _require_unchanged(self) -> None:
        """A file of a folder may vanish once it is read."""
        now = self._read_stamps()
        if now == self._stamps:
            return
        for number, source in enumerate(self.sources):
            here = slice(2 * number, 2 * number + 2)
            gone = tuple(now[here]) == _GONE and not source.named
            if now[here] != self._stamps[here] and not gone:
                raise _changed()

    def training_texts(self, scan: Scan, on_progress: Progress | None = None) -> Iterator[str]:
        """The text of the training side, in pieces: what a tokenizer may learn from."""
        sided = self.sided_pieces(scan, on_progress, "training tokenizer")
        return (piece.text for side, piece in sided if side == "train")


def _changed() -> CorpusError:
    return CorpusError("the corpus changed while it was being read.", "Run the command again.")
