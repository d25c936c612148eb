"""A corpus X-ray: what is in a text, before anything is trained on it.

Sizes, documents, characters and duplicates are counted over all of it, and so is the overlap of both sides.
Words and tokens are those of an evenly spread sample where the corpus is large.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import models

from gptscratch.config import DataConfig
from gptscratch.data.characters import Character, odd_characters, script_shares
from gptscratch.data.corpus import Corpus, Scan
from gptscratch.data.overlap import Overlap, Windows
from gptscratch.data.sources import Progress, until_none_vanishes
from gptscratch.data.split import Side
from gptscratch.data.token_files import Removed
from gptscratch.tokenizer import Tokenizer, build_tokenizer, choose_tokenizer

SAMPLE = 16_000_000  # characters, from which on words and tokens are those of a sample
SIZES = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)  # of vocabularies that are tried
TOP = 20
_SHOWN = 1024  # entries of the vocabulary whose tokens are shown where none is suggested
_TRAINED = 8_000_000  # characters that the tried vocabularies learn from
_MEASURED = 2_000_000  # characters that they are measured on
_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True, kw_only=True)
class CorpusStats:
    """What ``corpus_stats`` found; shares are between 0 and 1."""

    files: int
    skipped: int  # files of folders that are no text, or had vanished
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
    odd_characters: tuple[Character, ...]  # most frequent first
    sample_share: float  # the part of the text that words and tokens are counted in
    words: int  # in the sample
    distinct_words: int
    top_words: tuple[tuple[str, int], ...]
    bytes_per_token: dict[str, float]  # by vocabulary: "characters", "512" ... (BPE)
    top_tokens: tuple[tuple[str, int], ...]  # of ``top_tokens_of`` entries, on validation text
    top_tokens_of: int  # the suggested size, or 1,024, or what the text gives
    suggested_tokenizer: str  # char or bpe
    suggested_vocab_size: int  # 0: the kind decides
    split: str  # what is held back: "documents", the "tail" of the text, or a "file" of its own
    val_documents: int  # that are held back; 0 for a part of one
    overlap: Overlap


def corpus_stats(config: DataConfig, *, on_progress: Progress | None = None) -> CorpusStats:
    """Read a corpus twice and tell what is in it. Memory: 16 bytes a document, and the sample.

    Raises:
        CorpusError: the corpus is missing, empty or cannot be read.
    """
    with Corpus(config, on_progress) as corpus:
        scan, census = until_none_vanishes(lambda: _counted(corpus, on_progress), on_progress)
    if on_progress:
        on_progress("trying vocabularies", 0, 1)
    return _stats(config, scan, census)


def _counted(corpus: Corpus, on_progress: Progress | None) -> tuple[Scan, _Census]:
    scan = corpus.scan(on_progress)
    census = _Census(min(1.0, SAMPLE / scan.characters))
    done = 0
    for side, piece in corpus.sided_pieces(scan):
        census.add(side, piece.text, piece.ends)
        done += len(piece.text.encode())
        if on_progress:
            on_progress("counting", done, scan.bytes)
    return scan, census


def _stats(config: DataConfig, scan: Scan, census: _Census) -> CorpusStats:
    census.mend(scan.documents)
    lengths = np.frombuffer(census.lengths, np.int64)
    hashes = {side: np.frombuffer(found, np.uint64) for side, found in census.hashes.items()}
    known = np.isin(hashes["val"], hashes["train"])
    duplicates = len(lengths) - len(np.unique(np.concatenate(list(hashes.values()))))
    characters = census.counted()
    kind, size = choose_tokenizer(scan.characters, len(scan.alphabet))
    bytes_per_token, top_tokens, top_tokens_of = _tokens(census.texts, size or _SHOWN)
    words = census.words
    return CorpusStats(
        files=scan.files,
        skipped=scan.skipped,
        encodings=dict(scan.encodings),
        bytes=scan.bytes,
        characters=scan.characters,
        lines=int(characters[ord("\n")]),
        documents=len(lengths),
        document_characters={
            "shortest": int(lengths.min()),
            "median": int(np.median(lengths)),
            "mean": int(lengths.mean()),
            "longest": int(lengths.max()),
        },
        duplicate_documents=duplicates,
        duplicate_share=duplicates / len(lengths),
        removed=scan.removed,
        replaced=scan.replaced,
        distinct_characters=len(scan.alphabet),
        scripts=script_shares(characters, TOP),
        odd_characters=odd_characters(characters, TOP),
        sample_share=census.share,
        words=words.total(),
        distinct_words=len(words),
        top_words=tuple(words.most_common(TOP)),
        bytes_per_token=bytes_per_token,
        top_tokens=top_tokens,
        top_tokens_of=top_tokens_of,
        suggested_tokenizer=kind,
        suggested_vocab_size=size or 0,
        split="file" if config.val_file else "documents" if scan.by_document else "tail",
        val_documents=len(known),
        overlap=Overlap(
            documents=float(known.mean()) if len(known) else 0.0, windows=census.windows.shared()
        ),
    )


class _Census:
    """What one pass over the text counts and keeps."""

    def __init__(self, share: float) -> None:
        """``share`` of the text is kept."""
        self.share = share
        self.lengths = array("q")  # of the documents, in characters
        self.hashes: dict[Side, array[int]] = {"train": array("Q"), "val": array("Q")}  # of the documents
        self.texts: dict[Side, list[str]] = {"train": [], "val": []}
        self.words: Counter[str] = Counter()
        self.windows = Windows(share)
        self._characters = np.zeros(0x110000, np.int64)
        self._waiting: list[str] = []
        self._size = 0
        self._credit = 0.0
        self._length = 0
        self._digest = hashlib.blake2b(digest_size=8)

    def add(self, side: Side, text: str, ends: bool) -> None:
        self._length += len(text)
        self._digest.update(text.encode())
        if ends:
            self.lengths.append(self._length)
            self.hashes[side].append(int.from_bytes(self._digest.digest(), "little"))
            self._length, self._digest = 0, hashlib.blake2b(digest_size=8)
        self.windows.add(side, text)
        self._waiting.append(text)
        self._size += len(text)
        if self._size > 1 << 20:
            self._count()
        self._credit += self.share * len(text)
        if self._credit >= len(text):
            self._credit -= len(text)
            self.texts[side].append(text)
            self.words.update(_WORD.findall(text.lower()))

    def mend(self, documents: int) -> None:
        """The split at the tail may have cut a document in two: it is counted once, as training text."""
        if len(self.lengths) > documents:
            cut = len(self.hashes["train"])
            self.lengths[cut - 1] += self.lengths.pop(cut)
            self.hashes["val"].pop(0)

    def counted(self) -> NDArray[np.int64]:
        """How often each code point occurs."""
        self._count()
        return self._characters

    def _count(self) -> None:
        codes = np.frombuffer("".join(self._waiting).encode("utf-32-le"), "<i4")
        found = np.bincount(codes)
        self._characters[: len(found)] += found
        self._waiting, self._size = [], 0


def _tokens(
    texts: dict[Side, list[str]], shown: int
) -> tuple[dict[str, float], tuple[tuple[str, int], ...], int]:
    """Bytes per token of vocabularies of several sizes, on text they did not learn from; the most frequent
    tokens of the one with ``shown`` entries, or of the largest below; its size.

    One BPE is trained: a smaller one is the beginning of a larger.
    """
    train = _most(texts["train"] or texts["val"], _TRAINED)
    text = "\n".join(_most(texts["val"] or train, _MEASURED))
    n_bytes = len(text.encode())
    library = build_tokenizer("bpe", train, alphabet="", vocab_size=SIZES[-1])
    spec = json.loads(library.to_str())["model"]
    merges = [tuple(pair) for pair in spec["merges"]]
    found = {"characters": n_bytes / max(1, len(text))}
    n_entries = len(spec["vocab"])
    top: tuple[tuple[str, int], ...] = ()
    for size in SIZES:
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


def _most(texts: list[str], limit: int) -> list[str]:
    """An evenly spread part of the texts, of about ``limit`` characters."""
    total = sum(map(len, texts))
    step = max(1, -(-total // limit))
    return texts[::step]
