"""The job between a corpus and training: scan, make or load the tokenizer, write token files.

Token files are named by what they come from: asked for again, they are there. A call that was interrupted
is gone on with by the next one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from gptscratch import paths
from gptscratch.config import DataConfig
from gptscratch.data.corpus import Corpus, Scan
from gptscratch.data.existing import (
    Prepared,
    as_it_is,
    find_tokens,
    require_ours,
    reused,
    token_folder,
    unfinished_tokenizer,
)
from gptscratch.data.lock import one_at_a_time
from gptscratch.data.remember import is_settled, is_stamped, remember_scan, remembered_scan
from gptscratch.data.sources import Progress, split_weights, until_none_vanishes
from gptscratch.data.token_files import FORMAT, Manifest, open_tokens
from gptscratch.data.tokens import write_tokens
from gptscratch.data.writer import LOCK, discard_stale
from gptscratch.tokenizer import KINDS, MIN_FREQUENCY, Tokenizer, build_tokenizer, choose_tokenizer
from gptscratch.tokenizer.train import bpe_seconds, bpe_vocab_size, sample_limit

__all__ = ["Prepared", "ineffective", "prepare"]

_SAID = 4_000_000  # characters, from which on it is said how long a BPE takes to train


def prepare(config: DataConfig, *, on_progress: Progress | None = None, out: Path | None = None) -> Prepared:
    """Token files for a corpus, in the cache directory or in ``out``.

    A folder of token files as the only corpus is used as it is.

    Args:
        on_progress: called with (stage, done, total) in bytes: "reading" of the files, "tokenizing" of the
            text. A total of 0 means that the stage's end cannot be told.

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
    with Corpus(config, on_progress) as corpus:
        return until_none_vanishes(
            lambda: _prepared(corpus, loaded, on_progress or _ignore, out), on_progress
        )


def ineffective(config: DataConfig, manifest: Manifest) -> list[str]:
    """What was asked for and is not so in the tokens that were made, a line each."""
    kind = manifest.tokenizer_kind
    asked = {"--vocab-size": config.vocab_size, "--lowercase": config.lowercase,
             "--min-frequency": config.min_frequency}  # fmt: skip
    if config.tokenizer not in ("", *KINDS):
        return [
            f"{flag} has no effect: {config.tokenizer} is a finished tokenizer."
            for flag in asked
            if asked[flag]
        ]
    found = []
    if config.min_frequency and kind != "word":
        found.append(f"--min-frequency has no effect with a {kind} tokenizer, only with --tokenizer word.")
    if config.vocab_size > manifest.vocab_size:
        found.append(
            f"The vocabulary has {manifest.vocab_size:,} entries, not {config.vocab_size:,}: "
            "the text gives no more."
        )
    return found


def _prepared(corpus: Corpus, loaded: Tokenizer | None, on_progress: Progress, out: Path | None) -> Prepared:
    config = corpus.config
    sources = _sources_key(corpus, loaded)
    known = find_tokens(out, sources=sources) if sources else None
    if known:
        return reused(known, None)
    scan = _scanned(corpus, on_progress)
    kind, vocab_size = _kind_and_size(config, scan)
    recipe = _recipe(config, scan, kind, vocab_size, loaded)
    known = find_tokens(out, recipe=recipe)
    if known:
        return reused(known, scan)
    tokenizer = loaded or unfinished_tokenizer(out, recipe)
    tokenizer = tokenizer or _trained(corpus, scan, kind, vocab_size, on_progress)
    folder = out or paths.tokens_dir() / _digest(scan.hash, _split_key(config, scan), tokenizer.hash)

    def waiting() -> None:
        on_progress("waiting for another gptscratch that writes these token files", 0, 0)

    with one_at_a_time(folder / LOCK, waiting):
        known = find_tokens(folder, recipe=recipe)  # by another process meanwhile
        if known:
            return reused(known, scan)
        stamped = _sources_key(corpus, loaded) if is_settled(corpus) else ""
        manifest = write_tokens(corpus, scan, tokenizer, folder, recipe, stamped, on_progress)
    return Prepared(folder, tokenizer, open_tokens(folder), manifest, scan, False)


def _scanned(corpus: Corpus, on_progress: Progress) -> Scan:
    """The first pass, if its result is not known. What a corpus that changed left unfinished is deleted."""
    before = remembered_scan(corpus)
    if before and before.same:
        return before.scan
    scan = corpus.scan(on_progress)
    remember_scan(corpus, scan)
    gone = before.scan.hash if before and before.scan.hash != scan.hash else ""
    if discard_stale(paths.tokens_dir(), gone):
        on_progress("the text has changed: token files that were not finished are made anew", 0, 0)
    return scan


def _ignore(stage: str, done: int, total: int) -> None:
    """For those who want no progress."""


def _kind_and_size(config: DataConfig, scan: Scan) -> tuple[str, int | None]:
    if config.tokenizer:
        return config.tokenizer, config.vocab_size
    if config.vocab_size:
        return "bpe", config.vocab_size  # whoever names a size wants a tokenizer that has one
    return choose_tokenizer(scan.characters, len(scan.alphabet))


def _trained(
    corpus: Corpus, scan: Scan, kind: str, vocab_size: int | None, on_progress: Progress
) -> Tokenizer:
    config = corpus.config
    if kind == "bpe" and scan.characters > _SAID:
        _say_how_long(corpus, scan, vocab_size, on_progress)
    library = build_tokenizer(
        kind,
        _sample(corpus, scan, on_progress) if kind == "bpe" else corpus.training_texts(scan, on_progress),
        alphabet=scan.alphabet,
        vocab_size=vocab_size
        or (bpe_vocab_size(scan.characters, len(scan.alphabet)) if kind == "bpe" else None),
        lowercase=config.lowercase,
        min_frequency=config.min_frequency,
    )
    return Tokenizer(library)


def _say_how_long(corpus: Corpus, scan: Scan, vocab_size: int | None, on_progress: Progress) -> None:
    head = _head(corpus, scan)
    entries = vocab_size or bpe_vocab_size(scan.characters, len(scan.alphabet))
    characters = min(scan.characters, sample_limit(head))
    seconds = bpe_seconds(head, characters, entries)
    part = f"{characters / scan.characters * scan.bytes / 1e6:,.0f} MB of {scan.bytes / 1e6:,.0f} MB"
    on_progress(f"training {entries:,} BPE entries on {part}, about {seconds:,.0f} s", 0, 0)


def _head(corpus: Corpus, scan: Scan) -> list[str]:
    """The first million characters or so."""
    found: list[str] = []
    for text in corpus.training_texts(scan):
        found.append(text)
        if sum(map(len, found)) >= 1_000_000:
            break
    return found


def _sample(corpus: Corpus, scan: Scan, on_progress: Progress) -> Iterator[str]:
    """An evenly spread share of the text, as much as a BPE is trained on."""
    share, credit = sample_limit(_head(corpus, scan)) / max(1, scan.characters), 0.0
    for text in corpus.training_texts(scan, on_progress):
        credit += share * len(text)
        if credit >= len(text):
            credit -= len(text)
            yield text


def _split_key(config: DataConfig, scan: Scan) -> str:
    weights = split_weights(config.corpus)[1]
    return f"{weights} {scan.val_fraction!r} {scan.by_document} {scan.salt} {scan.sections}"


def _recipe(
    config: DataConfig, scan: Scan, kind: str, vocab_size: int | None, loaded: Tokenizer | None
) -> str:
    asked = (kind, vocab_size, config.lowercase, config.min_frequency or MIN_FREQUENCY)
    made_of = loaded.hash if loaded else json.dumps(asked)
    return _digest(str(FORMAT), scan.hash, _split_key(config, scan), made_of)


def _sources_key(corpus: Corpus, loaded: Tokenizer | None) -> str:
    """Empty where the corpus is small enough to read again, or is no file."""
    if not is_stamped(corpus):
        return ""
    return _digest(str(FORMAT), corpus.fingerprint(), loaded.hash if loaded else "")


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
