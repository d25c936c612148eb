"""A corpus as a stream of documents, and what the first pass over it finds.

The first pass keeps an evenly spread sample. A corpus that is not larger than the sample is read only once.
"""

from __future__ import annotations

import hashlib
import os
import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, repeat

import numpy as np

from gptscratch.config import DataConfig
from gptscratch.data.chunks import Documents, ReadCounts, Reading, Sizes
from gptscratch.data.cleaning import clean
from gptscratch.data.encoding import NotTextError
from gptscratch.data.readers import read_documents
from gptscratch.data.sources import Progress, Source, UnreadableError, find_sources, split_weights
from gptscratch.data.split import DocumentSizes, SplitPlan, hashes_of, plan_split, split_chunks
from gptscratch.data.token_files import Removed
from gptscratch.errors import CorpusError

_RECENT = 2.0  # seconds: a file that is this new may change again without another time


@dataclass(frozen=True, kw_only=True)
class CorpusSummary:
    """The result of the first pass."""

    files: int
    skipped: int  # files of folders that are not text, may not be read, or are gone
    documents: int
    characters: int
    bytes: int  # of the text in UTF-8
    hash: str  # of the text and the borders between documents
    alphabet: str  # the distinct characters, sorted
    split: SplitPlan
    replaced: int  # characters U+FFFD in files that were read with errors="replace"
    removed: tuple[Removed, ...]  # by each cleaning step, in order
    encodings: dict[str, int]  # files by encoding, most frequent first


class Corpus:
    """The text that a ``DataConfig`` names: a component for each weighted corpus, or one; then validation."""

    def __init__(
        self, config: DataConfig, on_progress: Progress | None = None, sizes: Sizes | None = None
    ) -> None:
        """Finds the files. Only stdin and pipes are read: they are copied.

        Raises:
            CorpusError: something named does not exist.
        """
        self.config = config
        self.sizes = sizes or Sizes()
        self.names, self.weights = split_weights(config.corpus)
        self.sources: list[Source] = []
        self._ends: list[int] = []  # the sources of component n end before self._ends[n]
        parts = [(name,) for name in self.names] if self.weights else [self.names]
        for names in [*parts, (config.val_file,)] if config.val_file else parts:
            self.sources += find_sources(config, names, on_progress)
            self._ends.append(len(self.sources))
        self.total_bytes = sum(source.size_and_time()[0] for source in self.sources)

    def __enter__(self) -> Corpus:
        return self

    def __exit__(self, *_: object) -> None:
        """Deletes the copies of streams."""
        for source in self.sources:
            if source.copy is not None:
                source.copy.close()

    def fingerprint(self) -> str:
        """Identifies the files: small ones and streams by content, others by name, size and time."""
        digest = hashlib.blake2b(repr(self._ends).encode(), digest_size=16)
        for source in self.sources:
            size, changed = source.size_and_time()
            digest.update(f"\0{source.format}\0{size}\0".encode())
            if source.copy is not None or self.total_bytes < self.sizes.small:
                for block in _raw_blocks(source):
                    digest.update(block)
                continue
            digest.update(os.path.abspath(source.name).encode(errors="surrogateescape"))  # noqa: PTH100
            now = time.time_ns()
            digest.update(f"\0{changed if now - changed > 1e9 * _RECENT else now}".encode())
        return digest.hexdigest()

    def chunks(
        self, counts: ReadCounts, on_progress: Progress | None = None, stage: str = "reading"
    ) -> Iterator[tuple[int, Documents]]:
        """(component, documents) in order, cleaned. ``counts`` is complete at the end.

        Raises:
            CorpusError: text that cannot be read.
            MissingExtraError: a file or a cleaning step needs a package that is not installed.
        """
        chunks = self._read(counts, on_progress, stage)
        steps = self.config.clean
        return clean(chunks, steps, counts.removed, self.sizes.whole) if steps else chunks

    def _read(
        self, counts: ReadCounts, on_progress: Progress | None, stage: str
    ) -> Iterator[tuple[int, Documents]]:
        done = 0
        for number, source in enumerate(self.sources):
            component, before = bisect_right(self._ends, number), done

            def on_bytes(position: int, before: int = before) -> None:
                if on_progress:
                    on_progress(stage, min(before + position, self.total_bytes), self.total_bytes)

            try:
                for documents in read_documents(Reading(source, self.config, counts, on_bytes, self.sizes)):
                    yield component, documents
            except (NotTextError, UnreadableError):
                if source.named:
                    raise
                counts.skipped += 1
            done += source.size_and_time()[0]


class Sample:
    """Every n-th text of a corpus, of at most ``limit`` characters; n doubles when the sample is full.

    Attributes:
        chunks: the whole corpus, or None where it is larger than the sample.
    """

    def __init__(self, limit: int) -> None:
        self.chunks: list[tuple[int, Documents]] | None = []
        self._limit = limit
        self._stride = 1
        self._seen = self._size = 0
        self._kept: list[tuple[int, int, int, str]] = []  # component, place of the end, document hash, text

    def add(self, component: int, documents: Documents, ends: list[int], hashes: list[int]) -> None:
        """``ends``: where the texts end in the component; ``hashes``: of the texts' documents."""
        if self.chunks is not None:
            self.chunks.append((component, documents))
        first = -self._seen % self._stride
        self._seen += len(documents.texts)
        new = list(zip(repeat(component), ends, hashes, documents.texts, strict=False))[first :: self._stride]
        self._kept += new
        self._size += sum(len(kept[3]) for kept in new)
        while self._size > self._limit and len(self._kept) > 1:
            self._stride *= 2
            self._kept, self.chunks = self._kept[::2], None
            self._size = sum(len(kept[3]) for kept in self._kept)

    def texts(self, split: SplitPlan) -> dict[str, list[str]]:
        """The "train" and "val" text in the sample. A text of both is divided, in a part of a corpus val."""
        found: dict[str, list[str]] = {"train": [], "val": []}
        if self.chunks is not None:
            for side, _, documents in split_chunks(self.chunks, split):
                found[side] += documents.texts
            return found
        for component, end, document_hash, text in self._kept:
            found[split.side(component, end - 1, document_hash)].append(text)
        return found


def survey(corpus: Corpus, on_progress: Progress | None = None) -> tuple[CorpusSummary, Sample]:
    """The first pass: counts, hash, alphabet, how the corpus is split, and a sample of its chunks.

    Raises:
        CorpusError: the corpus is empty or cannot be read.
    """
    config = corpus.config
    counts, sample, documents = ReadCounts(), Sample(corpus.sizes.sample), DocumentSizes()
    text_hash, alphabet = TextHash(), _Alphabet()
    lengths = [0] * (len(corpus.weights or (1,)) + bool(corpus.config.val_file))
    n_bytes = open_hash = 0
    begins = True  # the next text begins a document
    for component, chunk in corpus.chunks(counts, on_progress):
        sizes = list(map(len, chunk.texts))
        hashes = hashes_of(chunk.texts if begins else chunk.texts[1:])
        documents.add(hashes, sizes)
        data = text_hash.add(chunk)
        n_bytes += len(data) - len(sizes) + (not chunk.complete)
        alphabet.add(data)
        ends = list(accumulate(sizes, initial=lengths[component]))[1:]
        of_texts = hashes.tolist() if begins else [open_hash, *hashes.tolist()]
        sample.add(component, chunk, ends, of_texts)
        lengths[component], open_hash, begins = ends[-1], of_texts[-1], chunk.complete
    _require_text(corpus, counts, lengths)
    summary = CorpusSummary(
        files=len(corpus.sources) - counts.skipped,
        skipped=counts.skipped,
        documents=documents.count,
        characters=sum(lengths),
        bytes=n_bytes,
        hash=text_hash.hexdigest(),
        alphabet=alphabet.sorted(),
        split=plan_split(documents, lengths, config.val_fraction, n_bytes, val_file=bool(config.val_file)),
        replaced=counts.replaced,
        removed=tuple(counts.removed.values()),
        encodings=dict(counts.encodings.most_common()),
    )
    return summary, sample


class TextHash:
    """The hash of a text and of the borders between its documents."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)

    def add(self, documents: Documents) -> bytes:
        """The texts in UTF-8; 0xff, which occurs in no such text, follows each complete document."""
        data = b"\xff".join([text.encode() for text in documents.texts]) + b"\xff" * documents.complete
        self._digest.update(data)
        return data

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class _Alphabet:
    """The distinct characters of a stream of text in UTF-8, in which 0xff is left out."""

    def __init__(self) -> None:
        self._known = np.zeros(0x110000, dtype=bool)
        self._seen = b"\xff"  # with the ASCII that occurred: deleted, so that only the rest is decoded

    def add(self, data: bytes) -> None:
        rest = data.translate(None, self._seen)
        if rest:
            self._known[np.frombuffer(rest.decode().encode("utf-32-le"), np.uint32)] = True
            self._seen = bytes([*np.flatnonzero(self._known[:128]), 0xFF])

    def sorted(self) -> str:
        return "".join(map(chr, np.flatnonzero(self._known)))


def _raw_blocks(source: Source) -> Iterator[bytes]:
    try:
        with source.open() as (file, _):
            file.seek(0)
            while block := file.read(1 << 20):
                yield block
    except CorpusError:
        yield b"unreadable"  # reading will tell


def _require_text(corpus: Corpus, counts: ReadCounts, lengths: list[int]) -> None:
    config = corpus.config
    if config.val_file and not lengths[-1]:
        raise CorpusError(f"the validation corpus is empty: there is no text in {config.val_file}.")
    names = corpus.names if corpus.weights else [", ".join(corpus.names) or "the default corpus"]
    empty = next((name for name, length in zip(names, lengths, strict=False) if not length), None)
    if empty is not None:
        skipped = f" ({counts.skipped:,} files skipped)" if counts.skipped else ""
        left = " left after cleaning" if config.clean else ""
        raise CorpusError(f"the corpus is empty: there is no text{left} in {empty}{skipped}.")
