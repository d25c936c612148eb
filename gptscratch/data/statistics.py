"""Statistics of a corpus, before anything is trained on it.

Sizes, documents, characters and duplicates are counted over all of it. Words, tokens and the overlap of
training and validation text are those of an evenly spread sample where the corpus is large.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from array import array
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import models

from gptscratch.config import DataConfig
from gptscratch.data.chunks import Chunk, ReadCounts, Removed, Sizes, texts_of
from gptscratch.data.corpus import Corpus, Survey, survey
from gptscratch.data.sources import Progress
from gptscratch.tokenizer import Tokenizer, build_tokenizer, choose_tokenizer

VOCAB_SIZES = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)  # that are tried
TOP = 20
WINDOW = 13  # words: as GPT-3's authors looked for leakage (Brown et al. 2020, appendix C)
_SAMPLE = 16_000_000  # bytes
_TRAINED, _MEASURED = 8_000_000, 2_000_000  # characters for the vocabularies that are tried
_SHOWN = 1024  # entries of the vocabulary whose tokens are shown where none is suggested
_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True, kw_only=True)
class Character:
    """A character that rarely belongs in text: control, unassigned, private, invisible, U+FFFD."""

    code: str  # U+0085
    name: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Validation text that is in the training text too, so that it may be memorized."""

    documents: float  # the share of validation documents that are also training documents
    windows: float  # the share of the validation text's runs of 13 words that occur in the training text


@dataclass(frozen=True, kw_only=True)
class CorpusStatistics:
    """The result of ``corpus_statistics``; shares are between 0 and 1."""

    files: int
    skipped: int  # files of folders that are not text, may not be read, or are gone
    encodings: dict[str, int]  # files by encoding
    bytes: int  # of the text in UTF-8
    characters: int
    lines: int
    documents: int
    document_characters: dict[str, int]  # shortest, median, mean, longest
    duplicate_documents: int  # beyond the first of each
    duplicate_share: float  # of all documents
    removed: tuple[Removed, ...]  # by each cleaning step
    replaced: int  # characters U+FFFD in files that were read with errors="replace"
    distinct_characters: int
    scripts: dict[str, float]  # share of the letters by alphabet, most frequent first
    odd_characters: tuple[Character, ...]  # most frequent first
    sample_share: float  # the part of the text in which words and tokens are counted
    words: int  # in the sample
    distinct_words: int
    top_words: tuple[tuple[str, int], ...]
    bytes_per_token: dict[str, float]  # by vocabulary: "characters", "512" ... (BPE)
    top_tokens: tuple[tuple[str, int], ...]  # of ``top_tokens_of`` entries, on validation text
    top_tokens_of: int  # the suggested size, or 1,024, or what the text gives
    suggested_tokenizer: str  # char or bpe
    suggested_vocab_size: int  # 0: the kind decides
    split: str  # what is held out: "documents", the "tail" of the text, or a "file" of its own
    val_documents: int  # that are held out; 0 for a part of one
    overlap: Overlap


def corpus_statistics(
    config: DataConfig, *, on_progress: Progress | None = None, sizes: Sizes | None = None
) -> CorpusStatistics:
    """Read a corpus and say what is in it. Memory: 16 bytes a document, and a sample of characters.

    Raises:
        CorpusError: the corpus is missing, empty or cannot be read.
    """
    with Corpus(config, on_progress, sizes or Sizes(sample=_SAMPLE)) as corpus:
        seen = survey(corpus)
        counts = _Counts(share=min(1.0, corpus.sizes.sample / seen.bytes))
        for chunk in seen.sample.chunks if seen.sample.is_whole else corpus.chunks(ReadCounts(), "counting"):
            counts.add(chunk, seen.split.parts(chunk))
    corpus.on_progress("trying vocabularies", 0, 1)
    return _statistics(seen, counts)


def _statistics(seen: Survey, counts: _Counts) -> CorpusStatistics:
    lengths = np.frombuffer(counts.lengths, np.int64)
    train_hashes, val_hashes = (np.frombuffer(hashes, np.uint64) for hashes in counts.hashes)
    known = np.isin(val_hashes, train_hashes)
    duplicates = len(train_hashes) + len(val_hashes) - len(np.union1d(train_hashes, val_hashes))
    val_documents = seen.documents - len(train_hashes)  # without one that the split divides
    kind, size = choose_tokenizer(seen.characters, len(seen.alphabet))
    train, val = seen.sample.texts(seen.split)
    bytes_per_token, top_tokens, top_tokens_of = _tokens(train, val, size or _SHOWN)
    words = Counter(word for text in [*train, *val] for word in _words(text))
    characters = counts.characters
    return CorpusStatistics(
        files=seen.files,
        skipped=seen.counts.skipped,
        encodings=dict(seen.counts.encodings.most_common()),
        bytes=seen.bytes,
        characters=seen.characters,
        lines=int(characters[ord("\n")]),
        documents=seen.documents,
        document_characters={
            "shortest": int(lengths.min()),
            "median": int(np.median(lengths)),
            "mean": int(lengths.mean()),
            "longest": int(lengths.max()),
        },
        duplicate_documents=duplicates,
        duplicate_share=duplicates / seen.documents,
        removed=seen.counts.removed,
        replaced=seen.counts.replaced,
        distinct_characters=len(seen.alphabet),
        scripts=_script_shares(characters),
        odd_characters=_odd_characters(characters),
        sample_share=sum(map(len, [*train, *val])) / seen.characters,
        words=words.total(),
        distinct_words=len(words),
        top_words=tuple(words.most_common(TOP)),
        bytes_per_token=bytes_per_token,
        top_tokens=top_tokens,
        top_tokens_of=top_tokens_of,
        suggested_tokenizer=kind,
        suggested_vocab_size=size or 0,
        split=seen.split.kind,
        val_documents=val_documents,
        overlap=Overlap(
            documents=float(known.sum()) / max(1, val_documents), windows=counts.shared_windows()
        ),
    )


class _Counts:
    """The counts of one pass over the text; pairs are for training and validation."""

    def __init__(self, share: float) -> None:
        """``share`` of the distinct runs of words are kept: those with the smallest hashes, so that a run is
        kept on both sides or on neither (the "modulo" sketch of Broder 1997, On the resemblance and
        containment of documents).
        """
        self.lengths = array("q")  # of the documents, in characters
        self.characters = np.zeros(0x110000, np.int64)  # how often each code point occurs
        self.hashes = array("Q"), array("Q")  # of the documents
        self._windows = array("Q"), array("Q")
        self._limit = np.uint64(min(share * 2**64, 2**64 - 1))
        self._length = 0  # of the open document
        self._digests = [hashlib.blake2b(digest_size=8), hashlib.blake2b(digest_size=8)]

    def add(self, chunk: Chunk, parts: tuple[bytes, bytes]) -> None:
        texts, ends = texts_of(chunk.data)
        found = np.bincount(np.frombuffer("".join(texts).encode("utf-32-le"), "<i4"))
        self.characters[: len(found)] += found
        for text, end in zip(texts, ends, strict=True):
            self._length += len(text)
            if end:
                self.lengths.append(self._length)
                self._length = 0
        for side, part in enumerate(parts):
            for text, end in zip(*texts_of(part), strict=True):
                windows = _windows(_words(text))
                self._windows[side].frombytes(windows[windows <= self._limit].tobytes())
                self._digests[side].update(text.encode())
                if end:
                    self.hashes[side].append(int.from_bytes(self._digests[side].digest(), "little"))
                    self._digests[side] = hashlib.blake2b(digest_size=8)

    def shared_windows(self) -> float:
        """The share of the runs of words in the validation text that the training text has too."""
        train, val = (np.frombuffer(windows, np.uint64) for windows in self._windows)
        return float(np.isin(val, train).mean()) if len(val) else 0.0


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _windows(words: list[str]) -> NDArray[np.uint64]:
    """A hash of each run of ``WINDOW`` words."""
    hashes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    found = np.zeros(max(0, len(words) - WINDOW + 1), np.uint64)
    for place in range(WINDOW):  # products wrap around
        found = (found ^ hashes[place : place + len(found)]) * np.uint64(0x9E3779B97F4A7C15)
        found ^= found >> np.uint64(32)
    return found


def _tokens(
    train: list[str], val: list[str], shown: int
) -> tuple[dict[str, float], tuple[tuple[str, int], ...], int]:
    """Bytes per token of vocabularies of several sizes, on text they did not learn from; the most frequent
    tokens of the one with ``shown`` entries, or of the largest below; its size.

    One BPE is trained: a smaller one is the beginning of a larger one.
    """
    train = _spread(train or val, _TRAINED)
    text = "\n".join(_spread(val or train, _MEASURED))
    n_bytes = len(text.encode())
    library = build_tokenizer("bpe", train, alphabet="", vocab_size=VOCAB_SIZES[-1])
    spec = json.loads(library.to_str())["model"]
    merges = [tuple(pair) for pair in spec["merges"]]
    found = {"characters": n_bytes / max(1, len(text))}
    n_entries = len(spec["vocab"])
    top: tuple[tuple[str, int], ...] = ()
    for size in VOCAB_SIZES:
        kept = {token: i for token, i in spec["vocab"].items() if i < size}
        library.model = models.BPE(kept, merges[: size - 257])
        tokenizer = Tokenizer(library)
        ids = tokenizer.encode_array(text)
        found[str(min(size, n_entries))] = n_bytes / max(1, len(ids))
        if size <= shown:
            counts = np.bincount(ids)
            best = np.argsort(-counts, kind="stable")[:TOP]
            top = tuple((tokenizer.token_text(int(i)), int(counts[i])) for i in best if counts[i])
        if size >= n_entries:
            break
    return found, top, min(shown, n_entries)


def _spread(texts: list[str], limit: int) -> list[str]:
    """An evenly spread part of the texts, of about ``limit`` characters."""
    return texts[:: max(1, -(-sum(map(len, texts)) // limit))]


def _script_shares(counts: NDArray[np.int64]) -> dict[str, float]:
    """The share of the letters by alphabet: the first word of a letter's Unicode name."""
    found: Counter[str] = Counter()
    for code in np.flatnonzero(counts):
        letter = chr(int(code))
        if letter.isalpha():
            plain = unicodedata.normalize("NFKC", letter)[0]  # º is a variant of o
            found[unicodedata.name(plain, "unknown").split()[0].capitalize()] += int(counts[code])
    return {name: count / found.total() for name, count in found.most_common(TOP)}


def _odd_characters(counts: NDArray[np.int64]) -> tuple[Character, ...]:
    found = []
    for code in np.flatnonzero(counts):
        letter = chr(int(code))
        if letter == "\ufffd" or (unicodedata.category(letter)[0] == "C" and letter not in "\n\t"):
            name = unicodedata.name(letter, "control character" if code < 0xA0 else "no name")
            found.append(Character(code=f"U+{code:04X}", name=name.lower(), count=int(counts[code])))
    return tuple(sorted(found, key=lambda character: -character.count)[:TOP])
