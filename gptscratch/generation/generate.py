"""The loop of generation: the prompts are read in one pass, then one token of each row at a time.

Shapes: B rows, V vocab.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptscratch.accelerate.decode_step import DecodeStep, decoding_step
from gptscratch.config import SampleConfig, sample_config
from gptscratch.errors import ConfigError, RunError
from gptscratch.generation.context import Context
from gptscratch.generation.logits_processors import (
    LogitsProcessor,
    NoCopyNgram,
    NoRepeatNgram,
    TokenPenalties,
)
from gptscratch.generation.memorization import SuffixArray
from gptscratch.generation.sampling import make_sampler
from gptscratch.model.gpt import GPT

_PAYS_FROM = 16  # tokens: a decode step of its own copies every weight
_NUMBERS = 64  # random numbers of a row that are made at once


def generate(
    model: GPT,
    token_ids: Sequence[int],
    *,
    stop_ids: Sequence[int] = (),
    banned_ids: Sequence[int] = (),
    **options: Any,
) -> Iterator[int]:
    """Yield the token ids that continue one prompt, one at a time.

    Args:
        model: in any mode; while the ids are read it is in evaluation mode.
        token_ids: the prompt, at least one id.
        stop_ids: generation ends before the first of these.
        banned_ids: ids that are never generated.
        options: fields of ``SampleConfig``, such as ``max_tokens=100, temperature=0.8, seed=1``. ``stop``,
            ``no_copy_ngram`` and ``num_samples`` need a run: see ``Generator``.

    Raises:
        ConfigError: an option is unknown, out of range, or does not apply here.
    """
    config = sample_config(**options)
    if config.stop or config.no_copy_ngram or config.num_samples > 1:
        raise ConfigError(
            "stop, no_copy_ngram and num_samples need a run's tokenizer and training tokens.",
            'Use load("my-run").sample(...), or give stop_ids.',
        )
    if not len(token_ids):
        raise ValueError("generate needs a prompt of at least one token id.")
    was_training = model.training
    model.eval()
    try:
        stop = frozenset(stop_ids)
        rows = generate_batch(model, [token_ids], config, stop_ids=stop, banned_ids=banned_ids)
        yield from (token_id for (token_id,) in rows if token_id is not None)
    finally:
        model.train(was_training)


@torch.inference_mode()
def generate_batch(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    config: SampleConfig,
    *,
    sample_ids: Sequence[int] | None = None,
    stop_ids: frozenset[int] = frozenset(),
    banned_ids: Sequence[int] = (),
    training: SuffixArray | None = None,
    decoder: DecodeStep | None = None,
    on_logits: Callable[[Tensor], None] | None = None,
) -> Iterator[list[int | None]]:
    """Continue several prompts at once, one token of each at a time.

    Each row continues as it would alone. When its context is full, the cache slides over rotary positions:
    each new token takes the place of the oldest. With other positions the newer half is read again.

    Args:
        model: in evaluation mode.
        prompts: rows of at least one id each; of longer ones the newest ``context_length`` ids are read.
        config: all but ``stop`` and ``num_samples``.
        sample_ids: a row's random numbers are seeded by (seed, its sample id); None: 0, 1, 2 ...
        stop_ids: a row ends before the first of these.
        banned_ids: never generated.
        training: the training tokens, for ``no_copy_ngram``.
        decoder: of this model, for speed; None: one is made where it pays.
        on_logits: called with the logits (B, V) of each new row, before any processor.

    Yields:
        The new id of each row, None where the row has ended.

    Raises:
        ConfigError: ``no_copy_ngram`` without the training tokens.
        RunError: the logits of the first new token are not numbers.
    """
    if decoder is None and config.max_tokens >= _PAYS_FROM:
        decoder = decoding_step(model, rows=len(prompts))
    longest = min(max(map(len, prompts)), model.config.context_length)
    context = Context(model, len(prompts), longest + config.max_tokens, decoder)
    context.add(prompts)
    random = random_numbers(config.seed, sample_ids or range(len(prompts)), context.device)
    processors = logits_processors(model, prompts, config, training)
    banned = torch.tensor(list(banned_ids), dtype=torch.long, device=context.device)
    sampler = make_sampler(config)
    running = [True] * len(prompts)
    for n_new in range(config.max_tokens):
        logits = context.read()  # (B, V)
        if n_new == 0:
            require_numbers(logits)
        if on_logits is not None:
            on_logits(logits)
        logits.index_fill_(1, banned, -torch.inf)
        for process in processors:
            logits = process(logits)
        chosen = sampler(logits, next(random))  # (B,)
        for process in processors:
            process.append(chosen)
        token_ids: list[int] = chosen.tolist()
        running = [on and t not in stop_ids for on, t in zip(running, token_ids, strict=True)]
        if not any(running):
            return
        yield [t if on else None for on, t in zip(running, token_ids, strict=True)]
        context.append(chosen, token_ids)


def logits_processors(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    config: SampleConfig,
    training: SuffixArray | None,
) -> list[LogitsProcessor]:
    """What a config does to the logits of these rows; errors as of ``generate_batch``."""
    processors: list[LogitsProcessor] = []
    if config.no_repeat_ngram:
        processors.append(NoRepeatNgram(config.no_repeat_ngram, prompts))
    if config.no_copy_ngram:
        if training is None:
            raise ConfigError(
                "no_copy_ngram needs an index of the run's training tokens.",
                "Make it first: generator = with_training_tokens(generator), from generation.memorization.",
            )
        processors.append(NoCopyNgram(config.no_copy_ngram, training, prompts))
    penalties = (config.repetition_penalty, config.frequency_penalty, config.presence_penalty)
    if penalties != (1.0, 0.0, 0.0):
        newest = [prompt[-model.config.context_length :] for prompt in prompts]
        processors.append(TokenPenalties(config, newest, model.token_embedding.weight))
    return processors


def require_numbers(logits: Tensor) -> None:
    """Raises RunError where the logits are NaN: what was sampled from them would be noise."""
    if logits.isnan().any():
        dtype = str(logits.dtype).removeprefix("torch.")
        raise RunError(
            f"The model's logits are not numbers (NaN), computed in {dtype}.",
            "Take another checkpoint, or another dtype such as float32.",
        )


def random_numbers(seed: int | None, sample_ids: Sequence[int], device: torch.device) -> Iterator[Tensor]:
    """(B,) numbers in [0, 1) for each token; many are copied to the device at once, since a copy waits."""
    rows = [np.random.default_rng(None if seed is None else [seed, n]) for n in sample_ids]
    while True:
        numbers = [row.random(_NUMBERS, dtype=np.float32) for row in rows]
        yield from torch.from_numpy(np.stack(numbers, axis=1)).to(device)
