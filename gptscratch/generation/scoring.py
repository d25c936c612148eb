"""How well a model predicts a text: the job of ``gptscratch score``.

Windows overlap, so that every token but the first few has at least half a context before it. They are those
of EleutherAI's evaluation harness (``rolling loglikelihood``), with a stride between them.

Shapes: B windows, T tokens of a window, V vocab.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gptscratch.errors import ConfigError, RunError
from gptscratch.generation.generator import Generator
from gptscratch.tokenizer.detokenize import DecodeStream

_LOGITS = 1 << 25  # numbers at once


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a model predicts one text."""

    tokens: int  # those that the model can read
    bytes: int  # of their text in UTF-8
    unknown: int  # tokens that the model cannot read: left out
    nats_per_token: float
    perplexity: float  # e to the power of it
    bits_per_byte: float  # comparable over tokenizers, where each of them is lossless
    lossless: bool  # whether the tokenizer keeps the whole text, its case and its spaces too
    bits: tuple[float, ...]  # the surprise at each token
    token_ids: tuple[int, ...]


def score(generator: Generator, text: str, *, stride: int | None = None) -> Score:
    """Score a text. ``stride``: tokens between windows, up to the context; None: half a context.

    Raises:
        ConfigError: the text is empty or nothing of it is known, or the stride is out of range.
        RunError: the model's logits are not numbers.
    """
    context = generator.model.config.context_length
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise ConfigError(f"stride is {stride}: it must be from 1 to the context's {context}.")
    if not text:
        raise ConfigError("The text is empty: there is nothing to score.")
    tokenizer = generator.tokenizer
    every = tokenizer.encode(text)
    known = generator.known(every)
    if not known:
        raise ConfigError("There is nothing to score: the model knows no token of this text.")
    size = len(text.encode()) - (tokenizer.unknown_bytes(text) if len(known) < len(every) else 0)
    nats = token_nats(generator, [*generator.prompt_ids("")[-1:], *known], stride)
    mean = math.fsum(nats) / len(nats)
    if not math.isfinite(mean):
        raise RunError(
            "The model's loss on this text is not a finite number.",
            "Take another checkpoint, or another dtype such as float32.",
        )
    bits = tuple(n / math.log(2) for n in nats)
    return Score(
        tokens=len(known),
        bytes=size,
        unknown=len(every) - len(known),
        nats_per_token=mean,
        perplexity=math.exp(min(mean, 700.0)),
        bits_per_byte=math.fsum(bits) / max(1, size),
        lossless=tokenizer.lossless or (tokenizer.kind == "bpe" and tokenizer.decode(every) == text),
        bits=bits,
        token_ids=tuple(known),
    )


@torch.inference_mode()
def token_nats(generator: Generator, token_ids: Sequence[int], stride: int) -> list[float]:
    """-log p of each id but the first, which only begins the text."""
    model, nats = generator.model, torch.empty(len(token_ids) - 1)
    ids = torch.tensor(token_ids, device=model.token_embedding.weight.device)
    length = min(model.config.context_length, len(token_ids) - 1)
    starts = [*range(0, len(nats) - length, stride), len(nats) - length]  # the last window ends the text
    done = 0
    batch = max(1, _LOGITS // (length * model.config.vocab_size))
    for first in range(0, len(starts), batch):
        some = starts[first : first + batch]
        windows = torch.stack([ids[start : start + length + 1] for start in some])  # (B, T + 1)
        logits = model(windows[:, :-1]).float()  # (B, T, V)
        found = F.cross_entropy(logits.mT, windows[:, 1:], reduction="none").cpu()  # (B, T)
        for start, row in zip(some, found, strict=True):
            nats[done : start + length] = row[done - start :]  # the others had more context one window before
            done = start + length
    return [float(n) for n in nats]


def surprises(generator: Generator, scored: Score) -> Iterator[tuple[str, float]]:
    """(text, bits) of the scored text: whole characters, with the bits of all their tokens."""
    stream, total = DecodeStream(generator.tokenizer), 0.0
    for token_id, bits in zip(scored.token_ids, scored.bits, strict=True):
        total += bits
        if text := stream.feed(token_id):
            yield text, total
            total = 0.0
