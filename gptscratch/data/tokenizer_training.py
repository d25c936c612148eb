"""The tokenizer of a corpus: which kind, and the text that it learns from."""

from __future__ import annotations

from collections.abc import Iterable

from gptscratch.data.chunks import ReadCounts
from gptscratch.data.corpus import Corpus, CorpusSummary, Sample
from gptscratch.data.sources import Progress
from gptscratch.data.split import split_chunks
from gptscratch.tokenizer import Tokenizer, build_tokenizer, choose_tokenizer
from gptscratch.tokenizer.train import bpe_seconds, bpe_vocab_size, sample_limit

_LARGE = 4_000_000  # characters, from which on it is announced how long training a BPE takes
_TIMED = 1_000_000  # characters on which that is measured


def train_tokenizer(
    corpus: Corpus, summary: CorpusSummary, sample: Sample, on_progress: Progress
) -> Tokenizer:
    """The tokenizer that the settings ask for; it learns from training text alone.

    Raises:
        TokenizerError: the vocabulary is too small for its kind.
    """
    config, n_distinct = corpus.config, len(summary.alphabet)
    kind, size = config.tokenizer, config.vocab_size
    if not kind:  # a size without a kind asks for a tokenizer that has one
        kind, size = ("bpe", size) if size else choose_tokenizer(summary.characters, n_distinct)
    texts: Iterable[str] = ()
    if kind == "bpe":
        size = size or bpe_vocab_size(summary.characters, n_distinct)
        texts = _bpe_texts(sample.texts(summary.split)["train"])
        if summary.characters > _LARGE:
            _announce(texts, summary, size, on_progress)
    elif kind == "word":
        chunks = sample.chunks or corpus.chunks(ReadCounts(), on_progress, "training tokenizer")
        parts = split_chunks(chunks, summary.split)
        texts = (text for side, _, chunk in parts if side == "train" for text in chunk.texts)
    library = build_tokenizer(
        kind,
        texts,
        alphabet=summary.alphabet,
        vocab_size=size,
        lowercase=config.lowercase,
        min_frequency=config.min_frequency,
    )
    return Tokenizer(library)


def _bpe_texts(texts: list[str]) -> list[str]:
    """An evenly spread part of the texts, as large as a BPE should learn from."""
    return texts[:: -(-sum(map(len, texts)) // sample_limit(texts)) or 1]


def _announce(texts: list[str], summary: CorpusSummary, size: int, on_progress: Progress) -> None:
    characters = sum(map(len, texts))
    timed = texts[: max(1, len(texts) * _TIMED // max(1, characters))]
    seconds = bpe_seconds(timed, characters, size)
    part = f"{characters / summary.characters * summary.bytes / 1e6:,.0f} MB of {summary.bytes / 1e6:,.0f} MB"
    on_progress(f"training {size:,} BPE entries on {part}, about {seconds:,.0f} s", 0, 0)
