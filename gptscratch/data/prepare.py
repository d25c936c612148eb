"""The job between a corpus and training: scan, make or load the tokenizer, write token files.

Token files are named by what they come from: asked for again, they are there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from gptscratch import paths
from gptscratch.config import DataConfig
from gptscratch.data.corpus import Corpus, Progress, Scan
from gptscratch.data.existing import Prepared, as_it_is, find_tokens, require_ours, reused, token_folder
from gptscratch.data.reading import Piece
from gptscratch.data.shards import (
    FORMAT,
    SPLITS,
    Manifest,
    ShardWriter,
    Share,
    SplitCounts,
    open_tokens,
)
from gptscratch.data.sources import split_weights
from gptscratch.data.split import Side
from gptscratch.tokenizer import KINDS, MIN_FREQUENCY, Tokenizer, build_tokenizer, choose_tokenizer

__all__ = ["Prepared", "prepare"]

_BATCH = 1 << 21  # characters encoded at once: about 60 MB of the library's objects
_STAMPED = 8 << 20  # bytes, from which on a corpus is known again by its files' sizes and times
_RACY = 2.0  # seconds: a file this fresh may change again without its time changing


def prepare(config: DataConfig, *, on_progress: Progress | None = None, out: Path | None = None) -> Prepared:
    """Token files for a corpus, in the cache directory or in ``out``.

    A folder of token files as the only corpus is used as it is.

    Args:
        on_progress: called with (stage, done, total); stages are "reading" and "tokenizing", in
            bytes of the files or characters, and "training tokenizer", with a total of 0.

    Raises:
        CorpusError: the corpus is missing, empty or cannot be read, or ``out`` holds something else.
        TokenizerError: the tokenizer is unknown or does not fit.
        RunError: the token files cannot be written.
    """
    loaded = Tokenizer.load(config.tokenizer) if config.tokenizer not in ("", *KINDS) else None
    folder = token_folder(config)
    if folder is not None:
        return as_it_is(folder, config, loaded, out)
    if out is not None:
        require_ours(out)
    with Corpus(config) as corpus:
        return _prepared(corpus, loaded, on_progress, out)


def _prepared(
    corpus: Corpus, loaded: Tokenizer | None, on_progress: Progress | None, out: Path | None
) -> Prepared:
    config = corpus.config
    sources = _sources_key(corpus, loaded)
    known = find_tokens(out, sources=sources) if sources else None
    if known:
        return reused(known, None)
    scan = corpus.scan(on_progress)
    kind, vocab_size = _kind_and_size(config, scan)
    recipe = _recipe(config, scan, kind, vocab_size, loaded)
    known = find_tokens(out, recipe=recipe)
    if known:
        return reused(known, scan)
    tokenizer = loaded or _trained(corpus, scan, kind, vocab_size, on_progress)
    folder = out or paths.tokens_dir() / _digest(scan.hash, _split_key(config, scan), tokenizer.hash)
    stamped = sources if time.time() - corpus.newest_change > _RACY else ""
    manifest = _write(corpus, scan, tokenizer, folder, recipe, stamped, on_progress)
    return Prepared(folder, tokenizer, open_tokens(folder), manifest, scan, False)


def _kind_and_size(config: DataConfig, scan: Scan) -> tuple[str, int]:
    if config.tokenizer:
        return config.tokenizer, config.vocab_size
    if config.vocab_size:
        return "bpe", config.vocab_size  # whoever names a size wants a tokenizer that has one
    return choose_tokenizer(scan.characters, len(scan.alphabet))


def _trained(
    corpus: Corpus, scan: Scan, kind: str, vocab_size: int, on_progress: Progress | None
) -> Tokenizer:
    if on_progress and kind in ("word", "bpe"):
        on_progress("training tokenizer", 0, 0)
    config = corpus.config
    library = build_tokenizer(
        kind,
        lambda: corpus.training_texts(scan),
        alphabet=scan.alphabet,
        n_characters=scan.characters,
        vocab_size=vocab_size,
        lowercase=config.lowercase,
        min_frequency=config.min_frequency,
    )
    return Tokenizer(library)


def _write(
    corpus: Corpus,
    scan: Scan,
    tokenizer: Tokenizer,
    folder: Path,
    recipe: str,
    sources: str,
    on_progress: Progress | None,
) -> Manifest:
    counts = {
        side: dict.fromkeys(("documents", "characters", "bytes", "tokens", "unknown"), 0) for side in SPLITS
    }
    end = tokenizer.eot_id if scan.documents > 1 else None
    ending = np.array([] if end is None else [end], dtype=tokenizer.dtype)
    done = 0
    tokens = [0] * len(scan.sections)  # of each one's training side
    with ShardWriter(folder, tokenizer.dtype) as writer:
        for batch in _batched(corpus.sided_pieces(scan)):
            encoded = tokenizer.encode_arrays([piece.text for _, piece in batch])
            for (side, piece), ids in zip(batch, encoded, strict=True):
                ids = np.concatenate((ids, ending)) if piece.ends and end is not None else ids
                writer.add(side, ids)
                if side == "train":
                    tokens[sum(done >= section.end for section in scan.sections)] += len(ids)
                _count(counts[side], piece, ids, tokenizer.unk_id)
                done += len(piece.text)
            if on_progress:
                on_progress("tokenizing", done, scan.characters)
        manifest = Manifest(
            dtype=np.dtype(tokenizer.dtype).name,
            vocab_size=tokenizer.vocab_size,
            tokenizer_kind=tokenizer.kind,
            tokenizer_hash=tokenizer.hash,
            corpus_hash=scan.hash,
            recipe=recipe,
            sources=sources,
            end_of_text=end,
            files=scan.files,
            skipped=scan.skipped,
            by_document=scan.by_document,
            replaced=scan.replaced,
            removed=scan.removed,
            corpora=_shares(corpus, tokens),
            train=SplitCounts(**counts["train"]),
            val=SplitCounts(**counts["val"]),
        )
        writer.finish(manifest, tokenizer.library.to_str(pretty=True))
    return manifest


def _shares(corpus: Corpus, tokens: list[int]) -> tuple[Share, ...]:
    if not corpus.weights:
        return ()
    named = zip(corpus.names, corpus.weights, tokens, strict=True)
    return tuple(Share(name=name, weight=weight, tokens=count) for name, weight, count in named)


def _count(counts: dict[str, int], piece: Piece, ids: np.ndarray, unk_id: int | None) -> None:
    text = piece.text
    counts["documents"] += piece.ends
    counts["characters"] += len(text)
    counts["bytes"] += len(text) if text.isascii() else len(text.encode())
    counts["tokens"] += len(ids)
    counts["unknown"] += 0 if unk_id is None else int(np.count_nonzero(ids == unk_id))


def _batched(pieces: Iterable[tuple[Side, Piece]]) -> Iterator[list[tuple[Side, Piece]]]:
    batch: list[tuple[Side, Piece]] = []
    size = 0
    for sided in pieces:
        batch.append(sided)
        size += len(sided[1].text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _split_key(config: DataConfig, scan: Scan) -> str:
    weights = split_weights(config.corpus)[1]
    return f"{weights} {config.val_fraction!r} {scan.by_document} {scan.salt} {scan.sections}"


def _recipe(config: DataConfig, scan: Scan, kind: str, vocab_size: int, loaded: Tokenizer | None) -> str:
    asked = (kind, vocab_size, config.lowercase, config.min_frequency or MIN_FREQUENCY)
    made_of = loaded.hash if loaded else json.dumps(asked)
    return _digest(str(FORMAT), scan.hash, _split_key(config, scan), made_of)


def _sources_key(corpus: Corpus, loaded: Tokenizer | None) -> str:
    """Empty where the corpus is small enough to read again, or is no file."""
    if corpus.total_bytes < _STAMPED or corpus.newest_change == float("inf"):
        return ""
    return _digest(str(FORMAT), corpus.fingerprint(), loaded.hash if loaded else "")


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
