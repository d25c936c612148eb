"""How well a model predicts a text: the job of ``gptscratch score``.

Documents are scored one by one. Windows overlap, so that every token but the first few of a document has at
least half a context before it. They are those of EleutherAI's evaluation harness (``rolling loglikelihood``),
with a stride between them.

Shapes: B windows, T tokens of the longest of them, V vocab.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from gptscratch.errors import ConfigError, RunError
from gptscratch.generation.generator import Generator
from gptscratch.tokenizer.detokenize import DecodeStream

_LOGITS = 1 << 25  # numbers at once


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a model predicts a text."""

    tokens: int  # those that the model can read, and the end of each of several documents
    bytes: int  # of their text in UTF-8
    unknown: int  # tokens that the model cannot read: left out
    nats_per_token: float
    perplexity: float  # e to the power of it
    bits_per_byte: float  # comparable over tokenizers, where each of them is lossless
    lossless: bool  # whether the tokenizer keeps the whole text, its case and its spaces too
    bits: tuple[float, ...]  # the surprise at each token
    token_ids: tuple[int, ...]
    documents: tuple[int, ...]  # tokens of each


def score(generator: Generator, text: str | Sequence[str], *, stride: int | None = None) -> Score:
    """Score a document, or several, each of which begins and ends as in training.

    Args:
        stride: tokens between windows, up to the context; None: half a context.

    Raises:
        ConfigError: the text is empty or nothing of it is known, or the stride is out of range.
        RunError: the model's logits are not numbers.
    """
    context = generator.model.config.context_length
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise ConfigError(f"stride is {stride}: it must be from 1 to the context's {context}.")
    texts = [each for each in ([text] if isinstance(text, str) else text) if each]
    if not texts:
        raise ConfigError("The text is empty: there is nothing to score.")
    tokenizer = generator.tokenizer
    every = [tokenizer.encode(each) for each in texts]
    known = [generator.known(ids) for ids in every]
    if not any(known):
        raise ConfigError("There is nothing to score: the model knows no token of this text.")
    lacking = [each for each, ids, own in zip(texts, every, known, strict=True) if len(own) < len(ids)]
    size = sum(len(each.encode()) for each in texts) - sum(map(tokenizer.unknown_bytes, lacking))
    end = [] if generator.end_of_text is None or len(texts) == 1 else [generator.end_of_text]
    read = [[*own, *end] for own in known if own]
    nats = token_nats(generator, [[*generator.prompt_ids("")[-1:], *own] for own in read], stride)
    mean = math.fsum(nats) / len(nats)
    if not math.isfinite(mean):
        raise RunError(
            "The model's loss on this text is not a finite number.",
            "Take another checkpoint, or another dtype such as float32.",
        )
    bits = tuple(n / math.log(2) for n in nats)
    return Score(
        tokens=len(nats),
        bytes=size,
        unknown=sum(map(len, every)) - sum(map(len, known)),
        nats_per_token=mean,
        perplexity=math.exp(min(mean, 700.0)),
        bits_per_byte=math.fsum(bits) / max(1, size),
        lossless=tokenizer.lossless or (tokenizer.kind == "bpe" and [*map(tokenizer.decode, every)] == texts),
        bits=bits,
        token_ids=tuple(chain.from_iterable(read)),
        documents=tuple(map(len, read)),
    )


@torch.inference_mode()
def token_nats(generator: Generator, documents: Sequence[Sequence[int]], stride: int) -> list[float]:
    """-log p of each id of some documents but the first of each, which only begins it."""
    model = generator.model
    device, vocab_size = model.token_embedding.weight.device, model.config.vocab_size
    ids = torch.tensor([*chain.from_iterable(documents)])
    nats = torch.empty(len(ids) - len(documents))
    windows = sorted(_windows(documents, model.config.context_length, stride), key=lambda each: -each.length)
    first = 0
    while first < len(windows):
        some = windows[first : first + max(1, _LOGITS // (windows[first].length * vocab_size))]
        first += len(some)
        parts = [ids[each.start : each.start + each.length + 1] for each in some]
        read = pad_sequence(parts, batch_first=True).to(device)  # (B, T + 1)
        logits = model(read[:, :-1]).float()  # (B, T, V)
        found = F.cross_entropy(logits.mT, read[:, 1:], reduction="none").cpu()  # (B, T)
        for each, row in zip(some, found, strict=True):
            nats[each.place : each.place + each.new] = row[each.length - each.new : each.length]
    return nats.tolist()


class _Window(NamedTuple):
    start: int  # in the ids of all documents
    length: int
    new: int  # targets at its end: the others had more context one window before
    place: int  # of the first new one among the targets of all documents


def _windows(documents: Sequence[Sequence[int]], context: int, stride: int) -> Iterator[_Window]:
    start = place = 0
    for ids in documents:
        targets, done = len(ids) - 1, 0
        length = min(context, targets)
        for at in (*range(0, targets - length, stride), targets - length):  # the last one ends the document
            yield _Window(start + at, length, at + length - done, place + done)
            done = at + length
        start, place = start + len(ids), place + targets


def surprises(generator: Generator, scored: Score) -> Iterator[tuple[str, float]]:
    """(text, bits) of the scored text: whole characters, with the bits of all their tokens.

    A line end has the bits of the end of each document but the last.
    """
    pairs, last = zip(scored.token_ids, scored.bits, strict=True), len(scored.documents) - 1
    for number, length in enumerate(scored.documents):
        stream, total = DecodeStream(generator.tokenizer), 0.0
        for token_id, bits in islice(pairs, length):
            total += bits
            if text := stream.feed(token_id):
                yield text, total
                total = 0.0
        if number < last:
            yield "\n", total
