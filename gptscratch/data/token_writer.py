"""The second pass over a corpus: its text as token files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gptscratch.data.chunks import Documents
from gptscratch.data.token_files import SPLITS, Split, SplitCounts
from gptscratch.errors import CorpusError
from gptscratch.tokenizer import Tokenizer
from gptscratch.tokenizer.bulk import Encode

SplitChunk = tuple[Split, int, Documents]  # of a component


@dataclass
class Written:
    """The content of the token files."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: {split: Counter() for split in SPLITS})
    component_tokens: Counter[tuple[str, int]] = field(default_factory=Counter)  # by split and component
    val_unknown_bytes: int = 0

    def of(self, split: Split) -> SplitCounts:
        return SplitCounts(**self.counts[split])


def write_tokens(
    folder: Path,
    chunks: Iterable[SplitChunk],
    tokenizer: Tokenizer,
    encode: Encode,
    *,
    end_of_text: int | None,
    batch: int,
    on_bytes: Callable[[int], None],
) -> Written:
    """Encode both splits into train.bin and val.bin.

    Args:
        end_of_text: the token after each document, if any.
        batch: characters that are encoded at once.
        on_bytes: called with the bytes of text that are done.

    Raises:
        CorpusError: a split has fewer than two tokens.
    """
    written = Written()
    with ExitStack() as stack:
        files = {split: stack.enter_context((folder / f"{split}.bin").open("wb")) for split in SPLITS}
        for some in _batches(chunks, batch):
            for split in SPLITS:
                own = [(component, documents) for side, component, documents in some if side == split]
                if own:
                    _write(files[split], written, split, own, tokenizer, encode, end_of_text)
            on_bytes(sum(counts["bytes"] for counts in written.counts.values()))
    _require_enough(written)
    return written


def _write(
    file: BinaryIO,
    written: Written,
    split: Split,
    own: list[tuple[int, Documents]],
    tokenizer: Tokenizer,
    encode: Encode,
    end_of_text: int | None,
) -> None:
    texts = [text for _, documents in own for text in documents.texts]
    complete = np.ones(len(texts), bool)
    last = np.cumsum([len(documents.texts) for _, documents in own])
    complete[last - 1] = [documents.complete for _, documents in own]
    encoded = encode(texts)
    ids = np.concatenate(encoded)
    ends = np.cumsum([len(array) for array in encoded])
    unknown = np.flatnonzero(ids == tokenizer.unk_id) if tokenizer.unk_id is not None else ()
    if end_of_text is not None:
        ids = np.insert(ids, ends[complete], end_of_text)
    ends_in_file = ends if end_of_text is None else ends + np.cumsum(complete)
    ids.astype(ids.dtype.newbyteorder("<"), copy=False).tofile(file)
    written.counts[split] += Counter(
        documents=int(complete.sum()),
        characters=sum(map(len, texts)),
        bytes=sum(len(text) if text.isascii() else len(text.encode()) for text in texts),
        tokens=len(ids),
        unknown=len(unknown),
    )
    for (component, _), tokens in zip(own, np.diff(ends_in_file[last - 1], prepend=0), strict=True):
        written.component_tokens[split, component] += int(tokens)
    if split == "val":
        found = np.unique(np.searchsorted(ends, unknown, side="right"))
        written.val_unknown_bytes += sum(tokenizer.unknown_bytes(texts[i]) for i in found)


def _batches(chunks: Iterable[SplitChunk], limit: int) -> Iterator[list[SplitChunk]]:
    batch: list[SplitChunk] = []
    size = 0
    for item in chunks:
        batch.append(item)
        size += sum(map(len, item[2].texts))
        if size >= limit:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _require_enough(written: Written) -> None:
    train, val = (written.counts[split]["tokens"] for split in SPLITS)
    if min(train, val) < 2:
        more = ", or hold more of it out: --val-fraction 0.5." if train >= 20 else "."
        raise CorpusError(
            "the corpus is too short: at least 2 tokens are needed to train and 2 to validate; it has "
            f"{train:,} and {val:,}.",
            f"Add more text{more}",
        )
