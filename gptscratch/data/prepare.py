"""The job between a corpus and training: read it, make or load the tokenizer, write token files.

Token files are found again by one key: a hash of the corpus's files and of all settings that decide about
tokens. They are built in a temporary folder and renamed at the end; an interrupted call begins again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gptscratch import paths
from gptscratch.config import DataConfig
from gptscratch.data.chunks import Chunk, ReadCounts, Sizes, texts_of
from gptscratch.data.corpus import Corpus, Survey, survey
from gptscratch.data.shards import Shard, holds_shards, is_shard, join_shards, missing_shards
from gptscratch.data.sources import Progress, split_weights
from gptscratch.data.split import SPLIT
from gptscratch.data.token_files import FORMAT, Manifest, Tokens, open_tokens, read_manifest
from gptscratch.data.token_folder import holds_tokens, is_tokens, one_at_a_time, require_free
from gptscratch.data.token_writer import require_two_tokens, write_tokens
from gptscratch.errors import CorpusError, UserError, disk_errors
from gptscratch.files import new_files, new_folder, remove_folder
from gptscratch.tokenizer import KINDS, Tokenizer, build_tokenizer, choose_tokenizer
from gptscratch.tokenizer.train import CHOICE, bpe_vocab_size, sample_limit

_LARGE = 4_000_000  # characters, from which on training a BPE takes seconds


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

    A folder of token files as the only corpus is used as it is; a folder of shards becomes one.

    Args:
        on_progress: called with (stage, done, total) in bytes. A total of 0 means that it is not known.

    Raises:
        CorpusError: the corpus is missing, empty or cannot be read, or ``out`` holds something else.
        TokenizerError: the tokenizer is unknown or does not fit.
        RunError: the token files cannot be written.
    """
    loaded = Tokenizer.load(config.tokenizer) if config.tokenizer not in (None, *KINDS) else None
    names, _ = split_weights(config.corpus)
    if len(names) == 1 and is_tokens(given := paths.expanded(names[0])):
        return _used_as_it_is(given, config, loaded, out, on_progress)
    if out is not None:
        out = paths.expanded(out).resolve()
        require_free(out)
    with Corpus(config, on_progress, sizes) as corpus:
        key = cache_key(corpus, loaded, corpus.fingerprint())
        folder = out or paths.tokens_dir() / key
        with contextlib.nullcontext() if out else one_at_a_time(folder, corpus.on_progress):
            with contextlib.suppress(UserError):  # missing, or damaged: it is made again
                if read_manifest(folder).key == key:
                    return open_prepared(folder, loaded)
            stays = out is not None and out.is_dir()
            tokenizer, _ = _build(corpus, loaded, folder, key, stays=stays)
    return dataclasses.replace(open_prepared(folder, tokenizer), reused=False)


@dataclass(frozen=True)
class PreparedShard:
    """A shard, or the whole corpus after its last shard."""

    folder: Path
    manifest: Manifest
    missing: tuple[int, ...]  # shards that are still to be made; none: they are joined
    reused: bool  # it existed already


def prepare_shard(
    config: DataConfig,
    shard: Shard,
    out: Path,
    *,
    on_progress: Progress | None = None,
    sizes: Sizes | None = None,
) -> PreparedShard:
    """The token files of one shard in a folder of ``out``; the last shard to be made joins them there.

    Raises:
        UserError: as for ``prepare``, or the shards in ``out`` do not belong together.
    """
    loaded = Tokenizer.load(config.tokenizer) if config.tokenizer not in (None, *KINDS) else None
    out = paths.expanded(out).resolve()
    with Corpus(config, on_progress, sizes) as corpus:
        key, folder = cache_key(corpus, loaded, corpus.fingerprint()), shard.folder(out)
        if holds_tokens(out):
            whole = read_manifest(out)
            if whole.key != key:
                raise CorpusError(f"{out} holds token files already.", "Name another folder with --out.")
            return PreparedShard(out, whole, (), True)
        if not holds_shards(out):
            require_free(out)
        with one_at_a_time(folder, corpus.on_progress):
            reused = is_shard(folder) and read_manifest(folder).key == key
            manifest = read_manifest(folder) if reused else _build(corpus, loaded, folder, key, shard)[1]
        with one_at_a_time(out / "joined", corpus.on_progress):
            if not holds_tokens(out):
                if missing := missing_shards(out):
                    return PreparedShard(folder, manifest, tuple(missing), reused)
                join_shards(out, corpus.on_progress)
    return PreparedShard(out, read_manifest(out), (), False)


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


def cache_key(corpus: Corpus, loaded: Tokenizer | None, fingerprint: str) -> str:
    """The hash of everything that decides about the tokens; ``fingerprint`` identifies the text."""
    settings = dataclasses.asdict(corpus.config)
    for name in ("corpus", "val_file", "glob"):  # in the fingerprint
        del settings[name]
    settings |= {"tokenizer": loaded.hash if loaded else corpus.config.tokenizer, "weights": corpus.weights}
    names = corpus.names if corpus.weights else ()  # they are in the manifest
    parts = [FORMAT, CHOICE, SPLIT, fingerprint, names, settings, dataclasses.asdict(corpus.sizes)]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


def train_tokenizer(corpus: Corpus, found: Survey) -> Tokenizer:
    """The tokenizer that the settings ask for; it learns from training text alone.

    Raises:
        TokenizerError: the vocabulary is too small for its kind.
    """
    config, n_distinct = corpus.config, len(found.alphabet)
    kind, size = config.tokenizer, config.vocab_size
    if not kind:  # a size without a kind asks for a tokenizer that has one
        kind, size = ("bpe", size) if size else choose_tokenizer(found.characters, n_distinct)
    texts: Iterable[str] = ()
    if kind == "bpe":
        size = size or bpe_vocab_size(found.characters, n_distinct)
        sample, _ = found.sample.texts(found.split)
        texts = sample[:: -(-sum(map(len, sample)) // sample_limit(sample)) or 1]
        if found.characters > _LARGE:
            shown = f"{sum(map(len, texts)) / 1e6:,.0f} of {found.characters / 1e6:,.0f} million characters"
            corpus.on_progress(f"training {size:,} BPE entries on {shown}", 0, 0)
    elif kind == "word":
        chunks = _second_pass(corpus, found, "training tokenizer")
        texts = (text for chunk in chunks for text in texts_of(found.split.parts(chunk)[0])[0])
    library = build_tokenizer(
        kind,
        texts,
        alphabet=found.alphabet,
        vocab_size=size,
        lowercase=config.lowercase,
        min_frequency=config.min_frequency,
    )
    return Tokenizer(library)


def _build(
    corpus: Corpus,
    loaded: Tokenizer | None,
    folder: Path,
    key: str,
    shard: Shard | None = None,
    *,
    stays: bool = False,
) -> tuple[Tokenizer, Manifest]:
    """``stays``: the folder exists and is not replaced."""
    found = survey(corpus)
    tokenizer = loaded or train_tokenizer(corpus, found)
    chunks = _second_pass(corpus, found)
    if shard is not None:
        chunks = shard.chunks(chunks, found.bytes, corpus.on_progress)
    new = new_files(folder, last="manifest.json") if stays else new_folder(folder)
    with disk_errors(f"writing {folder}"), new as temporary:
        tokenizer.save(temporary / "tokenizer.json")
        manifest = write_tokens(temporary, chunks, corpus, found, tokenizer, key)
        if shard is None:
            require_two_tokens(manifest)
        else:
            shard.write(temporary, cache_key(corpus, loaded, found.hash))
        corpus.on_progress("writing to the disk", found.bytes, found.bytes)
        if folder.is_dir() and not stays:  # damaged, or of another key
            remove_folder(folder)
    return tokenizer, manifest


def _second_pass(corpus: Corpus, found: Survey, stage: str = "") -> Iterator[Chunk]:
    """Raises CorpusError where the text is not that of the first pass."""
    if found.sample.is_whole:
        yield from found.sample.chunks
        return
    text_hash = hashlib.blake2b(digest_size=16)
    for chunk in corpus.chunks(ReadCounts(), stage):
        text_hash.update(chunk.data)
        yield chunk
    if text_hash.hexdigest() != found.hash:
        raise CorpusError("the corpus changed while it was being read.", "Run the command again.")


def _used_as_it_is(
    folder: Path, config: DataConfig, loaded: Tokenizer | None, out: Path | None, on_progress: Progress | None
) -> Prepared:
    """Raises CorpusError for settings that were decided when the tokens were made."""
    hint = "Leave it out, or name the text that the tokens were made from."
    if out is not None and out.resolve() != folder.resolve():
        raise CorpusError(f"{folder} holds token files already: there is nothing to tokenize.", hint)
    if is_shard(folder):
        raise CorpusError(f"{folder} is one of several shards.", f"Name the folder of all: {folder.parent}")
    if not holds_tokens(folder):
        with one_at_a_time(folder / "joined", on_progress or (lambda *_: None)):
            if not holds_tokens(folder):
                join_shards(folder, on_progress or (lambda *_: None))
    found = open_prepared(folder)
    same = loaded is not None and loaded.hash == found.manifest.tokenizer_hash
    given = dataclasses.replace(config, corpus=(), tokenizer=None if same else config.tokenizer)
    default = vars(DataConfig())
    asked = [f"{name} = {value!r}" for name, value in vars(given).items() if value != default[name]]
    if asked:
        raise CorpusError(f"{folder} holds finished tokens: {', '.join(asked)} has no effect.", hint)
    return found
