"""The second pass over a corpus: its text as token files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gptscratch.data.chunks import Chunk, texts_of
from gptscratch.data.corpus import Corpus, Survey
from gptscratch.data.sources import reads_stdin
from gptscratch.data.token_files import Manifest, Share, SplitCounts, manifest_json
from gptscratch.errors import CorpusError
from gptscratch.tokenizer import Tokenizer, bulk_encoder
from gptscratch.tokenizer.bulk import Encode

_AT_ONCE = 8  # chunks that are encoded together


def write_tokens(
    folder: Path, chunks: Iterable[Chunk], corpus: Corpus, found: Survey, tokenizer: Tokenizer, key: str
) -> Manifest:
    """Write train.bin, val.bin and manifest.json; ``chunks`` are those of the whole corpus, or of a shard."""
    end_of_text = tokenizer.eot_id if found.documents > 1 else None
    encode = bulk_encoder(tokenizer, found.alphabet)
    with (folder / "train.bin").open("wb") as train_file, (folder / "val.bin").open("wb") as val_file:
        train = _TokenFile(train_file, tokenizer, encode, end_of_text, is_val=False)
        val = _TokenFile(val_file, tokenizer, encode, end_of_text, is_val=True)
        for component, own in groupby(chunks, key=attrgetter("component")):
            while group := list(islice(own, _AT_ONCE)):
                parts = zip(*map(found.split.parts, group), strict=True)
                for file, data in zip((train, val), parts, strict=True):
                    file.write(data, component)
                corpus.on_progress("tokenizing", train.counts["bytes"] + val.counts["bytes"], found.bytes)
    manifest = _manifest(corpus, found, tokenizer, key, end_of_text, train, val)
    (folder / "manifest.json").write_text(manifest_json(manifest), encoding="utf-8")
    return manifest


def require_two_tokens(manifest: Manifest) -> None:
    """Raises CorpusError where there are fewer than two tokens to train or to validate."""
    train, val = manifest.train.tokens, manifest.val.tokens
    if min(train, val) < 2:
        more = ", or hold more of it out: --val-fraction 0.5." if train >= 20 else "."
        raise CorpusError(
            "the corpus is too short: at least 2 tokens are needed to train and 2 to validate; it has "
            f"{train:,} and {val:,}.",
            f"Add more text{more}",
        )


class _TokenFile:
    """train.bin or val.bin while it is written.

    Attributes:
        counts: the fields of ``SplitCounts``.
        component_tokens: tokens by component.
        unknown_bytes: of the text, counted for validation only.
    """

    def __init__(
        self, file: BinaryIO, tokenizer: Tokenizer, encode: Encode, end_of_text: int | None, *, is_val: bool
    ) -> None:
        """``end_of_text``: the token after each document, if any."""
        self.counts: Counter[str] = Counter()
        self.component_tokens: Counter[int] = Counter()
        self.unknown_bytes = 0
        self._file, self._tokenizer, self._encode, self._is_val = file, tokenizer, encode, is_val
        self._end = np.array([] if end_of_text is None else [end_of_text], tokenizer.dtype)

    def write(self, chunks: Sequence[bytes], component: int) -> None:
        """Encode some chunks, and add their tokens."""
        found = [texts_of(chunk) for chunk in chunks]
        texts = [text for texts, _ in found for text in texts]
        ends = [end for _, ends in found for end in ends]
        if not texts:
            return
        encoded = self._encode(texts)
        pairs = zip(encoded, ends, strict=True)
        ids = np.concatenate([part for own, end in pairs for part in (own, self._end)[: 1 + end]])
        self._file.write(ids.astype(ids.dtype.newbyteorder("<"), copy=False).data)
        unk = self._tokenizer.unk_id
        unknown = 0 if unk is None else int(np.count_nonzero(ids == unk))
        self.counts += Counter(
            documents=sum(ends),
            characters=sum(map(len, texts)),
            bytes=sum(map(len, chunks)) - sum(ends),
            tokens=len(ids),
            unknown=unknown,
        )
        self.component_tokens[component] += len(ids)
        if unknown and self._is_val:
            lacking = (text for text, own in zip(texts, encoded, strict=True) if unk in own)
            self.unknown_bytes += sum(map(self._tokenizer.unknown_bytes, lacking))


def _manifest(
    corpus: Corpus,
    found: Survey,
    tokenizer: Tokenizer,
    key: str,
    end_of_text: int | None,
    train: _TokenFile,
    val: _TokenFile,
) -> Manifest:
    corpora = (
        Share(name=name, weight=weight, tokens=train.component_tokens[i], val_tokens=val.component_tokens[i])
        for i, (name, weight) in enumerate(zip(corpus.names, corpus.weights, strict=False))
    )
    return Manifest(
        key=key,
        dtype=np.dtype(tokenizer.dtype).name,
        vocab_size=tokenizer.vocab_size,
        tokenizer_kind=tokenizer.kind,
        tokenizer_hash=tokenizer.hash,
        lossy=not tokenizer.lossless,
        from_stdin=reads_stdin(corpus.config),
        corpus_hash=found.hash,
        val_hash=found.val_hash,
        end_of_text=end_of_text,
        files=found.files,
        skipped=found.counts.skipped,
        split=found.split.kind,
        documents=found.documents,
        distinct_characters=len(found.alphabet),
        formats=tuple(sorted(found.counts.formats)),
        columns=tuple(sorted(found.counts.columns)),
        replaced=found.counts.replaced,
        removed=found.counts.removed,
        corpora=tuple(corpora),
        val_unknown_bytes=val.unknown_bytes,
        train=SplitCounts(**train.counts),
        val=SplitCounts(**val.counts),
    )
