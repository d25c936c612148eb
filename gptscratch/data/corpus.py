"""A corpus as a stream of chunks, and what the first pass over it finds.

The first pass keeps an evenly spread sample. A corpus that is not larger than the sample is read only once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from gptscratch import paths
from gptscratch.config import DataConfig
from gptscratch.data.chunks import END, Chunk, ReadCounts, Reading, Sizes, located, texts_of
from gptscratch.data.cleaning import clean, steps_named
from gptscratch.data.encoding import NotTextError
from gptscratch.data.readers import read_documents
from gptscratch.data.sources import Progress, Source, UnreadableError, find_sources, split_weights
from gptscratch.data.split import SplitPlan, chosen_fraction, plan_split
from gptscratch.data.token_folder import is_tokens
from gptscratch.errors import CorpusError

_RECENT = 2.0  # seconds: a file that is this new may change again without a new modification time
_FIRST = 1 << 20  # documents of a component from which the split is planned: 16 bytes each


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The result of the first pass."""

    files: int
    documents: int
    characters: int
    bytes: int  # of the text in UTF-8
    hash: str  # of the text and the borders between documents
    val_hash: str  # the same of a validation text with files of its own, else empty
    alphabet: str  # the distinct characters, sorted
    split: SplitPlan
    counts: ReadCounts
    sample: Sample


class Corpus:
    """The text that a ``DataConfig`` names: a component for each weighted corpus, or one; then validation."""

    def __init__(
        self, config: DataConfig, on_progress: Progress | None = None, sizes: Sizes | None = None
    ) -> None:
        """Finds the files. Only stdin and pipes are read: they are copied.

        Raises:
            CorpusError: something named does not exist, or is a folder of token files.
        """
        self.config = config
        self.on_progress: Progress = on_progress or (lambda *_: None)
        self.sizes = sizes or Sizes()
        self.names, self.weights = split_weights(config.corpus)
        named: list[Sequence[str]] = [[name] for name in self.names] if self.weights else [self.names]
        if config.val_file:
            named.append([config.val_file])
        for name in chain.from_iterable(named):
            if is_tokens(paths.expanded(name)):
                raise CorpusError(
                    f"{name} holds token files, which cannot be joined with other corpora or read as text.",
                    "Train on it alone, or name the text that the tokens were made from.",
                )
        self.components = [find_sources(names, config, self.on_progress) for names in named]
        self.sources: list[Source] = [source for sources in self.components for source in sources]
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
        digest = hashlib.blake2b(repr([len(sources) for sources in self.components]).encode(), digest_size=16)
        for source in self.sources:
            size, changed = source.size_and_time()
            digest.update(f"\0{source.format}\0{size}\0".encode())
            if source.copy is not None or self.total_bytes < self.sizes.small:
                with contextlib.suppress(CorpusError), source.open() as (file, _):  # else reading will tell
                    file.seek(0)
                    while block := file.read(1 << 20):
                        digest.update(block)
            else:
                digest.update(os.path.abspath(source.name).encode(errors="surrogateescape"))  # noqa: PTH100
                now = time.time_ns()
                digest.update(f"\0{changed if now - changed > 1e9 * _RECENT else now}".encode())
        return digest.hexdigest()

    def chunks(self, counts: ReadCounts, stage: str = "") -> Iterator[Chunk]:
        """The text in order, cleaned. ``counts`` is complete at the end. ``stage`` is that of the progress.

        Raises:
            CorpusError: text that cannot be read.
            MissingExtraError: a file or a cleaning step needs a package that is not installed.
        """
        steps = steps_named(self.config.clean)
        before = 0
        for component, sources in enumerate(self.components):
            documents = self._read(sources, counts, stage, before)
            if steps:
                documents = clean(documents, steps, counts.cleaning, self.sizes.whole)
            yield from located(documents, component, self.sizes.chunk)
            before += sum(source.size_and_time()[0] for source in sources)

    def _read(self, sources: list[Source], counts: ReadCounts, stage: str, done: int) -> Iterator[bytes]:
        for source in sources:

            def on_bytes(position: int, before: int = done) -> None:
                if stage:
                    self.on_progress(stage, min(before + position, self.total_bytes), self.total_bytes)

            try:
                yield from read_documents(Reading(source, self.config, counts, self.sizes, on_bytes))
            except (NotTextError, UnreadableError):
                if source.named:
                    raise
                counts.skipped += 1
            done += source.size_and_time()[0]


class Sample:
    """Every n-th chunk of a corpus, of at most ``limit`` bytes; n doubles when the sample is full.

    Attributes:
        chunks: the sample.
        is_whole: whether it is the whole corpus.
    """

    def __init__(self, limit: int) -> None:
        self.chunks: list[Chunk] = []
        self.is_whole = True
        self._limit, self._stride = limit, 1
        self._seen = self._size = 0

    def add(self, chunk: Chunk) -> None:
        if self._seen % self._stride == 0:
            self.chunks.append(chunk)
            self._size += len(chunk.data)
        self._seen += 1
        while self._size > self._limit and len(self.chunks) > 1:
            self._stride *= 2
            self.chunks, self.is_whole = self.chunks[::2], False
            self._size = sum(len(kept.data) for kept in self.chunks)

    def texts(self, split: SplitPlan) -> tuple[list[str], list[str]]:
        """The training and the validation texts of the sample."""
        train, val = zip(*map(split.parts, self.chunks), strict=True)
        return _texts(train), _texts(val)


def _texts(parts: Sequence[bytes]) -> list[str]:
    return [text for part in parts for text in texts_of(part)[0]]


def survey(corpus: Corpus) -> Survey:
    """The first pass: counts, hash, alphabet, how the corpus is split, and a sample of its chunks.

    Raises:
        CorpusError: the corpus is empty or cannot be read.
    """
    config = corpus.config
    counts, sample = ReadCounts(), Sample(corpus.sizes.sample)
    text_hash, val_hash = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    alphabet = _Alphabet()
    lengths = [0] * len(corpus.components)
    known = [(array("Q"), array("q")) for _ in corpus.components]
    n_bytes = documents = 0
    for chunk in corpus.chunks(counts, "reading"):
        text_hash.update(chunk.data)
        if config.val_file and chunk.component == len(lengths) - 1:
            val_hash.update(chunk.data)
        alphabet.add(chunk.data)
        sample.add(chunk)
        lengths[chunk.component] = chunk.end
        size = int(chunk.sizes.sum())
        n_bytes += size
        documents += len(chunk.data) - size  # a byte ends each
        hashes, sizes = known[chunk.component]
        if len(hashes) < _FIRST:
            hashes.frombytes(chunk.hashes.tobytes())
            sizes.frombytes(chunk.sizes.tobytes())
    _require_text(corpus, counts, lengths)
    fraction = config.val_fraction or chosen_fraction(n_bytes, documents)
    first = [(np.frombuffer(hashes, np.uint64), np.frombuffer(sizes, np.int64)) for hashes, sizes in known]
    return Survey(
        files=len(corpus.sources) - counts.skipped,
        documents=documents,
        characters=sum(lengths),
        bytes=n_bytes,
        hash=text_hash.hexdigest(),
        val_hash=val_hash.hexdigest() if config.val_file else "",
        alphabet=alphabet.sorted(),
        split=plan_split(first, documents, lengths, fraction, val_file=bool(config.val_file)),
        counts=counts,
        sample=sample,
    )


class _Alphabet:
    """The distinct characters of a stream of text in UTF-8, in which 0xff is left out."""

    def __init__(self) -> None:
        self._known = np.zeros(0x110000, dtype=bool)
        self._seen = END  # with the ASCII that occurred: deleted, so that only the rest is decoded

    def add(self, data: bytes) -> None:
        rest = data.translate(None, self._seen)
        if rest:
            self._known[np.frombuffer(rest.decode().encode("utf-32-le"), np.uint32)] = True
            self._seen = bytes([*np.flatnonzero(self._known[:128]), 0xFF])

    def sorted(self) -> str:
        return "".join(map(chr, np.flatnonzero(self._known)))


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
