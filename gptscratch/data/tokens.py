"""The second pass over a corpus: its text as token files, from where an interrupted call stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptscratch.data.corpus import Corpus, Scan
from gptscratch.data.encode import Batch, Encoded, Encoder, worker_count
from gptscratch.data.readers import Piece
from gptscratch.data.sources import Progress
from gptscratch.data.split import Section, Side
from gptscratch.data.token_files import SPLITS, Manifest, Share, SplitCounts
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
        done.val_sections = done.val_sections or [0] * len(scan.sections)
        pieces = corpus.sided_pieces(scan)
        _pass_over(pieces, done, on_progress)
        workers = worker_count(tokenizer, scan.characters - done.characters)
        with Encoder(tokenizer, end, workers=workers) as encoder:
            for batch, encoded in encoder.stream(_batched(pieces)):
                _add(writer, batch, encoded, scan.sections, tokenizer)
                on_progress("tokenizing", done.bytes, scan.bytes)
                writer.save()
        _require_enough(done)
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
            corpora=_shares(corpus, done),
            lossy=not tokenizer.lossless,
            val_unknown_bytes=done.val_unknown_bytes,
            train=SplitCounts(**done.counts["train"]),
            val=SplitCounts(**done.counts["val"]),
        )
        on_progress("writing to the disk", scan.bytes, scan.bytes)
        writer.finish(manifest)
    return manifest


def _require_enough(done: Done) -> None:
    train, val = (done.counts[side]["tokens"] for side in SPLITS)
    if min(train, val) >= 2:
        return
    more = train >= 20
    raise CorpusError(
        f"the corpus is too short: at least 2 tokens are needed to train and 2 to validate; it has "
        f"{train:,} and {val:,}.",
        "Give it more text" + (", or hold more of it back: --val-fraction 0.5." if more else "."),
    )


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
    writer: ShardWriter, batch: Batch, encoded: Encoded, sections: tuple[Section, ...], tokenizer: Tokenizer
) -> None:
    done, unk_id = writer.done, tokenizer.unk_id
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
        totals = done.sections if side == "train" else done.val_sections
        _add_to_sections(totals, done.characters, sections, characters, encoded.lengths * own)
        if side == "val" and unk_id is not None:
            texts = [text for text, mine in zip(batch.texts, own, strict=True) if mine]
            parts = np.split(ids, np.cumsum(encoded.lengths[own])[:-1])
            done.val_unknown_bytes += sum(
                tokenizer.unknown_bytes(text)
                for text, part in zip(texts, parts, strict=True)
                if (part == unk_id).any()
            )
    done.pieces += len(batch.texts)
    done.characters += int(characters.sum())
    done.bytes += int(encoded.bytes.sum())


def _add_to_sections(
    totals: list[int],
    before: int,
    sections: tuple[Section, ...],
    characters: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    starts = before + np.cumsum(characters) - characters
    number = np.searchsorted([section.end for section in sections], starts, side="right")
    for section, tokens in enumerate(np.bincount(number, lengths, len(sections))):
        totals[section] += int(tokens)


def _shares(corpus: Corpus, done: Done) -> tuple[Share, ...]:
    if not corpus.weights:
        return ()
    val_tokens = [0] * len(done.sections) if corpus.config.val_file else done.val_sections
    parts = zip(corpus.names, corpus.weights, done.sections, val_tokens, strict=True)
    return tuple(Share(name=n, weight=w, tokens=count, val_tokens=val) for n, w, count, val in parts)
