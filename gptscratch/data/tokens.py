"""The second pass over a corpus: its text as token files, from where an interrupted call stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptscratch.data.corpus import Corpus, Scan
from gptscratch.data.encode import Batch, Encoded, Encoder, worker_count
from gptscratch.data.reading import Piece
from gptscratch.data.shards import SPLITS, Manifest, Share, SplitCounts
from gptscratch.data.sources import Progress
from gptscratch.data.split import Section, Side
from gptscratch.data.writer import Done, ShardWriter
from gptscratch.errors import CorpusError
from gptscratch.tokenizer import Tokenizer

_BATCH = 1 << 20  # characters encoded at once


def write_tokens(
    corpus: Corpus,
    scan: Scan,
    tokenizer: Tokenizer,
    folder: Path,
    recipe: str,
    sources: str,
    on_progress: Progress,
) -> Manifest:
    """Encode both sides into ``folder``.

    Raises:
        CorpusError: the corpus is not what was scanned.
        RunError: the token files cannot be written.
    """
    end = tokenizer.eot_id if scan.documents > 1 else None
    spec = tokenizer.library.to_str(pretty=True)
    with ShardWriter(folder, tokenizer.dtype, spec, recipe, scan.hash) as writer:
        done = writer.done
        done.sections = done.sections or [0] * len(scan.sections)
        pieces = corpus.sided_pieces(scan)
        _pass_over(pieces, done, on_progress)
        workers = worker_count(tokenizer, scan.characters - done.characters)
        with Encoder(tokenizer, end, workers=workers) as encoder:
            for batch, encoded in encoder.stream(_batched(pieces)):
                _add(writer, batch, encoded, scan.sections, tokenizer.unk_id)
                on_progress("tokenizing", done.bytes, scan.bytes)
                writer.save()
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
            documents=scan.documents,
            replaced=scan.replaced,
            removed=scan.removed,
            corpora=_shares(corpus, done.sections),
            train=SplitCounts(**done.counts["train"]),
            val=SplitCounts(**done.counts["val"]),
        )
        on_progress("writing to the disk", scan.bytes, scan.bytes)
        writer.finish(manifest)
    return manifest


def _pass_over(pieces: Iterator[tuple[Side, Piece]], done: Done, on_progress: Progress) -> None:
    """Read what an interrupted call has written already: many times faster than encoding it."""
    characters = 0
    for number in range(done.pieces):
        _, piece = next(pieces, (None, Piece("", True)))
        characters += len(piece.text)
        if number % 64 == 0:
            on_progress("going on where it stopped: reading", characters, done.characters)
    if characters != done.characters:
        raise CorpusError("the corpus changed while it was being read.", "Run the command again.")


def _batched(pieces: Iterable[tuple[Side, Piece]]) -> Iterator[Batch]:
    batch, size = Batch([], [], []), 0
    for side, (text, ends) in pieces:
        batch.sides.append(side)
        batch.texts.append(text)
        batch.ends.append(ends)
        size += len(text)
        if size >= _BATCH:
            yield batch
            batch, size = Batch([], [], []), 0
    if batch.texts:
        yield batch


def _add(
    writer: ShardWriter, batch: Batch, encoded: Encoded, sections: tuple[Section, ...], unk_id: int | None
) -> None:
    done = writer.done
    characters = np.array([len(text) for text in batch.texts], np.int64)
    ends = np.array(batch.ends)
    for side in SPLITS:
        own = np.array([name == side for name in batch.sides])
        if not own.any():
            continue
        ids = encoded.ids if own.all() else encoded.ids[np.repeat(own, encoded.lengths)]
        writer.add(side, ids)
        counts = done.counts[side]
        counts["documents"] += int(ends[own].sum())
        counts["characters"] += int(characters[own].sum())
        counts["bytes"] += int(encoded.bytes[own].sum())
        counts["tokens"] += len(ids)
        counts["unknown"] += 0 if unk_id is None else int(np.count_nonzero(ids == unk_id))
        if side == "train":
            _add_to_sections(done, sections, characters, encoded.lengths * own)
    done.pieces += len(batch.texts)
    done.characters += int(characters.sum())
    done.bytes += int(encoded.bytes.sum())


def _add_to_sections(
    done: Done, sections: tuple[Section, ...], characters: NDArray[np.int64], lengths: NDArray[np.int64]
) -> None:
    starts = done.characters + np.cumsum(characters) - characters
    number = np.searchsorted([section.end for section in sections], starts, side="right")
    for section, tokens in enumerate(np.bincount(number, lengths, len(sections))):
        done.sections[section] += int(tokens)


def _shares(corpus: Corpus, tokens: list[int]) -> tuple[Share, ...]:
    if not corpus.weights:
        return ()
    named = zip(corpus.names, corpus.weights, tokens, strict=True)
    return tuple(Share(name=name, weight=weight, tokens=count) for name, weight, count in named)
