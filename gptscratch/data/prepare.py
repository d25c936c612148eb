"""The job between a corpus and training: read it, make or load the tokenizer, write token files.

Token files are found again by one key: a hash of the corpus's files and of all settings that decide about
tokens. They are built in a temporary folder that is renamed; an interrupted call begins again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from gptscratch import paths
from gptscratch.config import DataConfig
from gptscratch.data.chunks import Documents, ReadCounts, Sizes
from gptscratch.data.corpus import Corpus, CorpusSummary, Sample, TextHash, survey
from gptscratch.data.sources import Progress
from gptscratch.data.split import split_chunks
from gptscratch.data.token_files import (
    FORMAT,
    Manifest,
    Share,
    Tokens,
    manifest_json,
    open_tokens,
    read_manifest,
)
from gptscratch.data.token_writer import Written, write_tokens
from gptscratch.data.tokenizer_training import train_tokenizer
from gptscratch.errors import CorpusError, UserError, disk_errors
from gptscratch.files import new_folder
from gptscratch.tokenizer import KINDS, Tokenizer
from gptscratch.tokenizer.bulk import bulk_encoder

FILES = (
    "train.bin",
    "val.bin",
    "tokenizer.json",
    "manifest.json",
    "train.suffixes",
)  # the last: memorization
_ABANDONED = 86_400.0  # seconds


@dataclass(frozen=True)
class Prepared:
    """A corpus prepared for training."""

    folder: Path
    tokenizer: Tokenizer
    tokens: Tokens
    manifest: Manifest
    reused: bool  # the token files existed already


def prepare(
    config: DataConfig,
    *,
    on_progress: Progress | None = None,
    out: Path | None = None,
    sizes: Sizes | None = None,
) -> Prepared:
    """Token files for a corpus, in the cache directory or in ``out``.

    A folder of token files as the only corpus is used as it is.

    Args:
        on_progress: called with (stage, done, total) in bytes. A total of 0 means that it is not known.

    Raises:
        CorpusError: the corpus is missing, empty or cannot be read, or ``out`` holds something else.
        TokenizerError: the tokenizer is unknown or does not fit.
        RunError: the token files cannot be written.
    """
    progress = on_progress or _ignore
    loaded = Tokenizer.load(config.tokenizer) if config.tokenizer not in (None, *KINDS) else None
    folder = _token_folder(config)
    if folder is not None:
        return _used_as_it_is(folder, config, loaded, out)
    if out is not None:
        out = out.expanduser().resolve()
        _require_free(out)
    with Corpus(config, progress, sizes) as corpus:
        key = cache_key(corpus, loaded)
        folder = out or paths.tokens_dir() / key
        with contextlib.nullcontext() if out else _one_at_a_time(key, progress):
            with contextlib.suppress(UserError):  # missing, or damaged: it is made again
                if read_manifest(folder).key == key:
                    return open_prepared(folder, loaded)
            tokenizer = _build(corpus, loaded, folder, key, progress)
    return dataclasses.replace(open_prepared(folder, tokenizer), reused=False)


def open_prepared(folder: Path, tokenizer: Tokenizer | None = None) -> Prepared:
    """An existing folder of token files; a ``tokenizer`` that they were made with is not loaded again.

    Raises:
        CorpusError: it is damaged, or its tokenizer is another one.
    """
    tokens = open_tokens(folder)
    if not (folder / "tokenizer.json").is_file():
        raise CorpusError(f"{folder} is damaged: it has no tokenizer.json.")
    if tokenizer is None or tokenizer.hash != tokens.manifest.tokenizer_hash:
        tokenizer = Tokenizer.load(folder)
    if tokenizer.hash != tokens.manifest.tokenizer_hash:
        raise CorpusError(f"{folder} is damaged: its tokenizer.json is not the one that its tokens are from.")
    return Prepared(folder, tokenizer, tokens, tokens.manifest, True)


def cache_key(corpus: Corpus, loaded: Tokenizer | None) -> str:
    """The hash of everything that decides about the tokens."""
    settings = dataclasses.asdict(corpus.config)
    for name in ("corpus", "val_file", "glob"):  # in the fingerprint
        del settings[name]
    settings |= {"tokenizer": loaded.hash if loaded else corpus.config.tokenizer, "weights": corpus.weights}
    names = corpus.names if corpus.weights else ()  # they are in the manifest
    parts = [FORMAT, corpus.fingerprint(), names, settings, dataclasses.asdict(corpus.sizes)]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


def ineffective(config: DataConfig, manifest: Manifest) -> list[str]:
    """Options that had no effect on the token files, one line each."""
    kind = manifest.tokenizer_kind
    asked = {"--vocab-size": config.vocab_size, "--lowercase": config.lowercase,
             "--min-frequency": config.min_frequency}  # fmt: skip
    if config.tokenizer not in (None, *KINDS):
        given = (flag for flag, value in asked.items() if value)
        return [f"{flag} has no effect: {config.tokenizer} is a finished tokenizer." for flag in given]
    found = []
    if config.min_frequency and kind != "word":
        found.append(f"--min-frequency has no effect with a {kind} tokenizer, only with --tokenizer word.")
    if config.vocab_size and config.vocab_size > manifest.vocab_size:
        found.append(
            f"The vocabulary has {manifest.vocab_size:,} entries, not {config.vocab_size:,}: "
            "the text gives no more."
        )
    return found


def _build(
    corpus: Corpus, loaded: Tokenizer | None, folder: Path, key: str, on_progress: Progress
) -> Tokenizer:
    summary, sample = survey(corpus, on_progress)
    tokenizer = loaded or train_tokenizer(corpus, summary, sample, on_progress)
    end_of_text = tokenizer.eot_id if summary.documents > 1 else None
    with disk_errors(f"writing {folder}"), new_folder(folder) as temporary:
        tokenizer.save(temporary / "tokenizer.json")
        written = write_tokens(
            temporary,
            split_chunks(_second_pass(corpus, summary, sample), summary.split),
            tokenizer,
            bulk_encoder(tokenizer, summary.alphabet),
            end_of_text=end_of_text,
            batch=corpus.sizes.batch,
            on_bytes=lambda done: on_progress("tokenizing", done, summary.bytes),
        )
        manifest = _manifest(key, corpus, summary, tokenizer, end_of_text, written)
        (temporary / "manifest.json").write_text(manifest_json(manifest), encoding="utf-8")
        on_progress("writing to the disk", summary.bytes, summary.bytes)
        if folder.is_dir():  # damaged, or of another key
            old = folder.rename(folder.with_name(f".{folder.name}.old.{os.getpid()}.tmp"))
            shutil.rmtree(old, ignore_errors=True)
    return tokenizer


def _second_pass(corpus: Corpus, summary: CorpusSummary, sample: Sample) -> Iterator[tuple[int, Documents]]:
    """Raises CorpusError where the text is not that of the first pass."""
    if sample.chunks is not None:
        yield from sample.chunks
        return
    text_hash = TextHash()
    for component, chunk in corpus.chunks(ReadCounts()):
        text_hash.add(chunk)
        yield component, chunk
    if text_hash.hexdigest() != summary.hash:
        raise CorpusError("the corpus changed while it was being read.", "Run the command again.")


def _manifest(
    key: str,
    corpus: Corpus,
    summary: CorpusSummary,
    tokenizer: Tokenizer,
    end_of_text: int | None,
    written: Written,
) -> Manifest:
    tokens = written.component_tokens
    has_val_file = summary.split.kind == "file"
    shares = [
        Share(name=n, weight=w, tokens=tokens["train", i], val_tokens=0 if has_val_file else tokens["val", i])
        for i, (n, w) in enumerate(zip(corpus.names, corpus.weights, strict=False))
    ]
    return Manifest(
        key=key,
        dtype=np.dtype(tokenizer.dtype).name,
        vocab_size=tokenizer.vocab_size,
        tokenizer_kind=tokenizer.kind,
        tokenizer_hash=tokenizer.hash,
        lossy=not tokenizer.lossless,
        corpus_hash=summary.hash,
        end_of_text=end_of_text,
        files=summary.files,
        skipped=summary.skipped,
        split=summary.split.kind,
        documents=summary.documents,
        distinct_characters=len(summary.alphabet),
        replaced=summary.replaced,
        removed=summary.removed,
        corpora=tuple(shares),
        val_unknown_bytes=written.val_unknown_bytes,
        train=written.of("train"),
        val=written.of("val"),
    )


@contextlib.contextmanager
def _one_at_a_time(key: str, on_progress: Progress) -> Iterator[None]:
    """Holds the lock of a key; where the file system has no locks, it does not wait."""
    folder = paths.tokens_dir()
    with disk_errors(f"making {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_progress("waiting for another gptscratch that writes these token files", 0, 0)
            lock.acquire(poll_interval=0.2)
        except NotImplementedError:
            pass
    try:
        _remove_leftovers(folder, key)
        yield
    finally:
        lock.release()


def _remove_leftovers(folder: Path, key: str) -> None:
    """Folders that killed processes left: of this key, and of other keys if older than a day."""
    for leftover in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if leftover.name.startswith(f".{key}.") or time.time() - leftover.stat().st_mtime > _ABANDONED:
                shutil.rmtree(leftover, ignore_errors=True)


def _token_folder(config: DataConfig) -> Path | None:
    """The folder of token files that is the whole corpus, if that is what it is."""
    folders = [Path(item).expanduser() for item in config.corpus]
    found = [f for f in folders if os.path.isfile(f / "manifest.json") and any(f.glob("*.bin"))]  # noqa: PTH113
    if found and len(folders) > 1:
        hint = "Name it alone."
        raise CorpusError(f"{found[0]} holds token files, which cannot be joined with other corpora.", hint)
    return found[0] if found else None


def _used_as_it_is(folder: Path, config: DataConfig, loaded: Tokenizer | None, out: Path | None) -> Prepared:
    """Raises CorpusError for settings that were decided when the tokens were made."""
    hint = "Leave it out, or name the text that the tokens were made from."
    if out is not None and out.resolve() != folder.resolve():
        raise CorpusError(f"{folder} holds token files already: there is nothing to tokenize.", hint)
    found = open_prepared(folder)
    same = loaded is not None and loaded.hash == found.manifest.tokenizer_hash
    decided = {"corpus", "tokenizer"} if same else {"corpus"}
    asked = [
        f"{field.name} = {getattr(config, field.name)!r}"
        for field in dataclasses.fields(config)
        if field.name not in decided and getattr(config, field.name) != field.default
    ]
    if asked:
        raise CorpusError(f"{folder} holds finished tokens: {', '.join(asked)} has no effect.", hint)
    return found


def _require_free(out: Path) -> None:
    if out.is_file():
        raise CorpusError(f"{out} is a file: a folder is needed.")
    strange = [file.name for file in out.iterdir() if file.name not in FILES] if out.is_dir() else []
    if strange:
        hint = "Name a new or empty folder with --out."
        raise CorpusError(f"{out} holds other files ({strange[0]}).", hint)


def _ignore(stage: str, done: int, total: int) -> None:
    """For callers who want no progress."""
