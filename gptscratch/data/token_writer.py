"""The second pass over a corpus: its text as token files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gptscratch.data.chunks import TextChunk
from gptscratch.data.token_files import SPLITS, Split, SplitCounts, TokenArray
from gptscratch.errors import CorpusError
from gptscratch.tokenizer import Tokenizer

Encode = Callable[[list[str]], list[TokenArray]]
SplitChunk = tuple[Split, int, TextChunk]  # of a component


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
    dtype = np.dtype(tokenizer.dtype).newbyteorder("<")
    end = [] if end_of_text is None else [np.array([end_of_text], dtype)]
    with ExitStack() as stack:
        files = {split: stack.enter_context((folder / f"{split}.bin").open("wb")) for split in SPLITS}
        for some in _batches(chunks, batch):
            encoded = encode([chunk.text for _, _, chunk in some])
            for split in SPLITS:
                own = [
                    (part, chunk, ids)
                    for (side, part, chunk), ids in zip(some, encoded, strict=True)
                    if side == split
                ]
                arrays = [
                    array for _, chunk, ids in own for array in (ids, *(end if chunk.ends_document else ()))
                ]
                if not own:
                    continue
                joined = np.concatenate(arrays).astype(dtype, copy=False)
                joined.tofile(files[split])
                _count(written, split, own, joined, len(end), tokenizer)
            on_bytes(sum(counts["bytes"] for counts in written.counts.values()))
    _require_enough(written)
    return written


def _count(
    written: Written,
    split: Split,
    own: list[tuple[int, TextChunk, TokenArray]],
    joined: TokenArray,
    n_end: int,
    tokenizer: Tokenizer,
) -> None:
    texts = [chunk.text for _, chunk, _ in own]
    unknown = 0 if tokenizer.unk_id is None else int(np.count_nonzero(joined == tokenizer.unk_id))
    written.counts[split] += Counter(
        documents=sum(chunk.ends_document for _, chunk, _ in own),
        characters=sum(map(len, texts)),
        bytes=sum(len(text) if text.isascii() else len(text.encode()) for text in texts),
        tokens=len(joined),
        unknown=unknown,
    )
    for component, chunk, ids in own:
        written.component_tokens[split, component] += len(ids) + n_end * chunk.ends_document
    if unknown and split == "val":
        written.val_unknown_bytes += sum(
            tokenizer.unknown_bytes(chunk.text) for _, chunk, ids in own if (ids == tokenizer.unk_id).any()
        )


def _batches(chunks: Iterable[SplitChunk], limit: int) -> Iterator[list[SplitChunk]]:
    batch: list[SplitChunk] = []
    size = 0
    for item in chunks:
        batch.append(item)
        size += len(item[2].text)
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
