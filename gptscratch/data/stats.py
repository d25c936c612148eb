"""A corpus X-ray: what is in a text, before anything is trained on it.

Sizes, documents, characters and duplicates are counted over all of it. Words, tokens and the overlap of
both sides are measured on an evenly spread sample where the corpus is large.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tokenizers import models

from gptscratch.config import DataConfig
from gptscratch.data.corpus import Corpus, Scan
from gptscratch.data.shards import Removed
from gptscratch.data.sources import Progress
from gptscratch.data.split import Side
from gptscratch.tokenizer import Tokenizer, build_tokenizer, choose_tokenizer

SAMPLE = 16_000_000  # characters, from which on words and tokens are those of a sample
WINDOW = 13  # words: as GPT-3's authors looked for leakage (Brown et al. 2020, appendix C)
SIZES = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)  # of vocabularies that are tried
TOP = 20
_TRAINED = 8_000_000  # characters that the tried vocabularies learn from
_MEASURED = 2_000_000  # characters that they are measured on
_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True, kw_only=True)
class Character:
    """A character that seldom belongs into text: control, unassigned, private, invisible, U+FFFD."""

    code: str  # U+0085
    name: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Validation text that training text holds too: what a model may know by heart."""

    documents: float  # the share of validation documents that stand in the training text as they are
    windows: float  # the share of the validation text's runs of 13 words that occur in the training text


@dataclass(frozen=True, kw_only=True)
class CorpusStats:
    """What ``corpus_stats`` found; shares are between 0 and 1."""

    files: int
    skipped: int  # files of folders that are no text
    encodings: dict[str, int]  # files by encoding
    bytes: int  # of the text in UTF-8
    characters: int
    lines: int
    documents: int
    document_characters: dict[str, int]  # shortest, median, mean, longest
    duplicate_documents: int  # beyond the first of each
    duplicate_share: float  # of all documents
    removed: tuple[Removed, ...]  # by each step of cleaning
    replaced: int  # bytes read as U+FFFD
    distinct_characters: int
    scripts: dict[str, float]  # share of the letters by alphabet, most frequent first
    odd_characters: tuple[Character, ...]
    sampled: bool  # what follows is of a sample
    words: int  # in the sample
    distinct_words: int
    top_words: tuple[tuple[str, int], ...]
    bytes_per_token: dict[str, float]  # by vocabulary: "characters", "512" ... (BPE)
    top_tokens: tuple[tuple[str, int], ...]  # of the suggested vocabulary
    suggested_tokenizer: str  # char or bpe
    suggested_vocab_size: int  # 0: the kind decides
    by_document: bool  # how it would be split
    overlap: Overlap


def corpus_stats(config: DataConfig, *, on_progress: Progress | None = None) -> CorpusStats:
    """Read a corpus twice and tell what is in it. Memory: 8 bytes a document, and the sample.

    Raises:
        CorpusError: the corpus is missing, empty or cannot be read.
    """
    with Corpus(config) as corpus:
        scan = corpus.scan(on_progress)
        census = _Census(share=min(1.0, SAMPLE / scan.characters))
        done = 0
        for side, piece in corpus.sided_pieces(scan):
            census.add(side, piece.text, piece.ends)
            done += len(piece.text)
            if on_progress:
                on_progress("counting", done, scan.characters)
    census.flush()
    return _stats(scan, census)


def _stats(scan: Scan, census: _Census) -> CorpusStats:
    census.mend(scan.documents)
    lengths = np.frombuffer(census.lengths, np.int64)
    hashes = {side: np.frombuffer(found, np.uint64) for side, found in census.hashes.items()}
    n_distinct = len(np.unique(np.concatenate(list(hashes.values()))))
    words = {side: _WORD.findall("\n".join(texts)) for side, texts in census.texts.items()}
    counted = Counter(word.lower() for found in words.values() for word in found)
    kind, size = choose_tokenizer(scan.characters, len(scan.alphabet))
    bytes_per_token, top_tokens = _tokens(census, size)
    return CorpusStats(
        files=scan.files,
        skipped=scan.skipped,
        encodings=dict(scan.encodings),
        bytes=scan.bytes,
        characters=scan.characters,
        lines=int(census.characters[ord("\n")]),
        documents=len(lengths),
        document_characters={
            "shortest": int(lengths.min()),
            "median": int(np.median(lengths)),
            "mean": int(lengths.mean()),
            "longest": int(lengths.max()),
        },
        duplicate_documents=len(lengths) - n_distinct,
        duplicate_share=1 - n_distinct / len(lengths),
        removed=scan.removed,
        replaced=scan.replaced,
        distinct_characters=len(scan.alphabet),
        scripts=_scripts(census.characters),
        odd_characters=_odd(census.characters),
        sampled=census.share < 1,
        words=counted.total(),
        distinct_words=len(counted),
        top_words=tuple(counted.most_common(TOP)),
        bytes_per_token=bytes_per_token,
        top_tokens=top_tokens,
        suggested_tokenizer=kind,
        suggested_vocab_size=size,
        by_document=scan.by_document,
        overlap=_overlap(hashes, words),
    )


@dataclass
class _Census:
    """What one pass over the text counts and keeps."""

    share: float  # of the characters that are kept
    characters: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0x110000, np.int64))
    lengths: array[int] = field(default_factory=lambda: array("q"))  # of the documents
    hashes: dict[Side, array[int]] = field(default_factory=lambda: {"train": array("Q"), "val": array("Q")})
    texts: dict[Side, list[str]] = field(default_factory=lambda: {"train": [], "val": []})
    _waiting: list[str] = field(default_factory=list)
    _size: int = 0
    _credit: float = 0.0
    _length: int = 0
    _digest: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=8))

    def add(self, side: Side, text: str, ends: bool) -> None:
        self._length += len(text)
        self._digest.update(text.encode())
        if ends:
            self.lengths.append(self._length)
            self.hashes[side].append(int.from_bytes(self._digest.digest(), "little"))
            self._length, self._digest = 0, hashlib.blake2b(digest_size=8)
        self._waiting.append(text)
        self._size += len(text)
        if self._size > 1 << 20:
            self.flush()
        self._credit += self.share * len(text)
        if self._credit >= len(text):
            self._credit -= len(text)
            self.texts[side].append(text)

    def mend(self, documents: int) -> None:
        """The split at the tail may have cut a document in two: it is counted once, as training text."""
        if len(self.lengths) > documents:
            cut = len(self.hashes["train"])
            self.lengths[cut - 1] += self.lengths.pop(cut)
            self.hashes["val"].pop(0)

    def flush(self) -> None:
        codes = np.frombuffer("".join(self._waiting).encode("utf-32-le"), "<i4")
        found = np.bincount(codes)
        self.characters[: len(found)] += found
        self._waiting, self._size = [], 0


def _scripts(characters: NDArray[np.int64]) -> dict[str, float]:
    """The first word of a letter's Unicode name tells its alphabet."""
    found: Counter[str] = Counter()
    for code in np.flatnonzero(characters):
        letter = chr(int(code))
        if letter.isalpha():
            found[unicodedata.name(letter, "unknown").split()[0].capitalize()] += int(characters[code])
    return {name: count / found.total() for name, count in found.most_common(TOP)}


def _odd(characters: NDArray[np.int64]) -> tuple[Character, ...]:
    found = []
    for code in np.flatnonzero(characters):
        letter = chr(int(code))
        if letter == "\ufffd" or (unicodedata.category(letter)[0] == "C" and letter not in "\n\t"):
            name = unicodedata.name(letter, "control character" if code < 0xA0 else "no name")
            found.append(Character(code=f"U+{code:04X}", name=name.lower(), count=int(characters[code])))
    return tuple(sorted(found, key=lambda character: -character.count)[:TOP])


def _tokens(census: _Census, suggested: int) -> tuple[dict[str, float], tuple[tuple[str, int], ...]]:
    """Bytes per token of vocabularies of several sizes, on text they did not learn from, and top tokens.

    One BPE is trained: a smaller one is the beginning of a larger.
    """
    train = _most(census.texts["train"] or census.texts["val"], _TRAINED)
    text = "\n".join(_most(census.texts["val"] or train, _MEASURED))
    n_bytes = len(text.encode())
    library = build_tokenizer("bpe", lambda: train, alphabet="", n_characters=1, vocab_size=SIZES[-1])
    spec = json.loads(library.to_str())["model"]
    merges = [tuple(pair) for pair in spec["merges"]]
    found = {"characters": n_bytes / max(1, len(text))}
    top: tuple[tuple[str, int], ...] = ()
    for size in SIZES:
        kept = {token: i for token, i in spec["vocab"].items() if i < size}
        library.model = models.BPE(kept, merges[: size - 257])
        tokenizer = Tokenizer(library)
        ids = tokenizer.encode_array(text)
        found[str(min(size, len(spec["vocab"])))] = n_bytes / max(1, len(ids))
        if size == (suggested or 1024):
            counts = np.bincount(ids)
            best = np.argsort(-counts, kind="stable")[:TOP]
            top = tuple((tokenizer.decode([int(i)]), int(counts[i])) for i in best if counts[i])
        if size >= len(spec["vocab"]):
            break
    return found, top


def _most(texts: list[str], limit: int) -> list[str]:
    """An evenly spread part of the texts, of about ``limit`` characters."""
    total = sum(map(len, texts))
    step = max(1, -(-total // limit))
    return texts[::step]


def _overlap(hashes: dict[Side, NDArray[np.uint64]], words: dict[Side, list[str]]) -> Overlap:
    known = np.isin(hashes["val"], hashes["train"])
    windows = {side: _windows(found) for side, found in words.items()}
    shared = np.isin(windows["val"], windows["train"])
    return Overlap(
        documents=float(known.mean()) if len(known) else 0.0,
        windows=float(shared.mean()) if len(shared) else 0.0,
    )


def _windows(words: list[str]) -> NDArray[np.uint64]:
    """A hash of each run of ``WINDOW`` words, in lower case."""
    hashes = np.fromiter((_hashed(word) for word in words), np.uint64, len(words))
    found = np.zeros(max(0, len(words) - WINDOW + 1), np.uint64)
    for place in range(WINDOW):
        found = (found * np.uint64(0x9E3779B97F4A7C15)) ^ (hashes[place : place + len(found)])
    return found


@functools.lru_cache(1 << 18)
def _hashed(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.lower().encode(), digest_size=8).digest(), "little")
