"""What a sample copied from the training tokens: the job behind ``--novelty``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from gptscratch.errors import CheckpointError
from gptscratch.generation.generator import TrainedGPT
from gptscratch.generation.memorization import CopyIndex
from gptscratch.runs.checkpoint import read_run
from gptscratch.training.origin import same_tokens


@dataclass(frozen=True, kw_only=True)
class CopiedText:
    """The longest span of a text that stands in the training tokens."""

    text: str
    start: int  # where in the text it begins and ends, in characters
    end: int
    tokens: int
    of_tokens: int  # the whole text
    place: int  # where in the training tokens it stands, for the first time
    times: int  # how often it stands there


def with_copies(gpt: TrainedGPT) -> TrainedGPT:
    """The same with the index of its training tokens, as ``no_copy`` and ``copied`` need it.

    The token files are made again from the corpus if they are gone, the index at the first time.

    Raises:
        UserError: the corpus is gone as well, or is another one now.
    """
    record = read_run(gpt.run)
    prepared = same_tokens(gpt.run, record)
    if prepared.manifest.corpus_hash != record.corpus_hash:
        raise CheckpointError(
            f"The token files of {gpt.run.name} are gone, and its corpus has changed since.",
            "What was copied can only be told beside the text that the model was trained on.",
        )
    return dataclasses.replace(gpt, copies=CopyIndex.open(prepared.folder, prepared.tokens.train))


def copied(gpt: TrainedGPT, text: str, *, after: str = "") -> CopiedText:
    """The longest span of a text, cut as the tokenizer cuts it behind ``after``, that stands in the training
    tokens.

    Raises:
        ValueError: the model came without their index.
    """
    if gpt.copies is None:
        raise ValueError("there is no index of the training tokens: see with_copies.")
    before = len(after)
    spans = [
        (i, max(0, start - before), end - before)
        for i, start, end in gpt.tokenizer.spans(after + text)
        if end > before
    ]
    ids = [i for i, _, _ in spans]
    found = gpt.copies.longest(ids)
    span = spans[found.start : found.start + found.length]
    start, end = (span[0][1], span[-1][2]) if span else (0, 0)
    places = gpt.copies.places(ids[found.start : found.start + found.length])
    return CopiedText(
        text=text[start:end],
        start=start,
        end=end,
        tokens=found.length,
        of_tokens=len(ids),
        place=int(places.min(initial=found.place)),
        times=len(places) if span else 0,
    )
