"""The loop of generation: prefill the prompts in one pass, then one token at a time over the KV cache.

Shapes: B rows, V vocab.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from gptscratch.accelerate.decode_step import Decoder
from gptscratch.errors import RunError
from gptscratch.generation.context import Context
from gptscratch.generation.logits_processors import MakeRule
from gptscratch.generation.sampling import Sampler
from gptscratch.model.gpt import GPT

_PAYS_FROM = 16  # tokens: a decoder copies every weight
_NUMBERS = 64  # random numbers of a row that are made at once


@torch.inference_mode()
def decode(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    *,
    max_tokens: int,
    seed: int | None = None,
    streams: Sequence[int] | None = None,
    stop_ids: frozenset[int] = frozenset(),
    banned_ids: Sequence[int] = (),
    remember: bool = False,
    rules: Sequence[MakeRule] = (),
    decoder: Decoder | None = None,
    watch: Callable[[Tensor], None] | None = None,
) -> Iterator[list[int | None]]:
    """Continue several prompts side by side, one token of each at a time.

    When the context is full, the cache slides on over rotary positions: each new token takes the place of
    the oldest. Of other positions, and of rows of different length, the newer half of the context is read
    again as a fresh window. Rows of different length share that moment: the pads of a shorter one count,
    so from there on it may read less of its own past than it would alone.

    Args:
        model: in evaluation mode.
        prompts: rows of at least one id each; of longer ones the newest ``context_length`` count.
        sampler: from ``sampling.make_sampler``.
        max_tokens: new tokens of each row.
        seed: row i draws from numbers seeded by (seed, i), whatever the other rows; None: fresh ones.
        streams: what stands for i in that, for each row; None: 0, 1, 2 ...
        stop_ids: a row ends when it draws one of these, which is not yielded.
        banned_ids: never drawn.
        remember: tell the sampler which ids each row has seen and drawn (for penalties).
        rules: what forbids ids by what a row holds; each is made anew for each row.
        decoder: of this very model, for speed; None: one is made where it pays.
        watch: told the logits (B, V) of each new row, before any id is ruled out.

    Yields:
        The new id of each row, None where the row has ended.

    Raises:
        RunError: the logits of the first new token are not numbers.
    """
    if decoder is None and max_tokens >= _PAYS_FROM and Decoder.supports(model):
        decoder = Decoder(model)
    context = Context(model, prompts, max_tokens, decoder)
    chance = _Chance(seed, range(len(prompts)) if streams is None else streams, context.device)
    past = _Past([prompt[-context.length :] for prompt in prompts], model) if remember else None
    bans = _Bans(banned_ids, rules, prompts, context.device)
    running = [True] * len(prompts)
    for n_new in range(max_tokens):
        logits = context.read()  # (B, V)
        if n_new == 0:
            _require_numbers(logits)
        if watch is not None:
            watch(logits)
        bans.apply(logits)
        if past is None:
            drawn = sampler(logits, chance.draw(), None, None)  # (B,)
        else:
            drawn = sampler(logits, chance.draw(), past.seen, past.counts)
            past.take(drawn)
        token_ids: list[int] = drawn.tolist()
        bans.take(token_ids)
        running = [on and t not in stop_ids for on, t in zip(running, token_ids, strict=True)]
        if not any(running):
            return
        yield [t if on else None for on, t in zip(running, token_ids, strict=True)]
        context.append(drawn, token_ids)


def _require_numbers(logits: Tensor) -> None:
    """Raises RunError where the model computes no numbers: what was sampled from them would be noise."""
    if logits.isnan().any():
        dtype = str(logits.dtype).removeprefix("torch.")
        raise RunError(
            f"The model's logits are not numbers (NaN), computed in {dtype}.",
            "Take another checkpoint, or another dtype such as float32.",
        )


class _Chance:
    """Random numbers, of each row its own; many are copied to the device at once: each copy waits for it."""

    def __init__(self, seed: int | None, streams: Sequence[int], device: torch.device) -> None:
        self.device = device
        self.rows = [np.random.default_rng(None if seed is None else [seed, n]) for n in streams]
        self.numbers = torch.empty(0, len(self.rows))  # (_NUMBERS, B)
        self.used = 0

    def draw(self) -> Tensor:
        """(B,) numbers in [0, 1)."""
        if self.used == len(self.numbers):
            columns = [row.random(_NUMBERS, dtype=np.float32) for row in self.rows]
            self.numbers = torch.from_numpy(np.stack(columns, axis=1)).to(self.device)
            self.used = 0
        self.used += 1
        return self.numbers[self.used - 1]


class _Past:
    """What a sampler's penalties ask for: which ids each row holds, and how often each was drawn for it."""

    def __init__(self, prompts: Sequence[Sequence[int]], model: GPT) -> None:
        seen = torch.zeros(len(prompts), model.config.vocab_size, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            seen[row, list(prompt)] = True
        self.seen = seen.to(model.token_embedding.weight.device)  # (B, V)
        self.counts = torch.zeros_like(self.seen, dtype=torch.float32)  # (B, V)

    def take(self, drawn: Tensor) -> None:
        """Count (B,) ids in."""
        at = drawn[:, None]  # (B, 1)
        self.seen.scatter_(1, at, True)
        self.counts.scatter_add_(1, at, torch.ones_like(at, dtype=torch.float32))


class _Bans:
    """What may not be drawn: some ids never, others by the rules that look at what a row holds."""

    def __init__(
        self,
        token_ids: Sequence[int],
        rules: Sequence[MakeRule],
        prompts: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        never = torch.tensor(list(token_ids), dtype=torch.long, device=device)
        self.never = never if len(never) else None
        self.rows = {row: [make(prompt) for make in rules] for row, prompt in enumerate(prompts) if rules}

    def apply(self, logits: Tensor) -> None:
        """Rule ids out of (B, V) logits, in place; a row of which its rules would leave nothing keeps all."""
        if self.never is not None:
            logits.index_fill_(1, self.never, -torch.inf)
        for row, rules in self.rows.items():
            ids = list({token_id for rule in rules for token_id in rule.forbidden()})
            if ids:
                free = logits[row].index_fill(0, torch.tensor(ids, device=logits.device), -torch.inf)
                if free.isfinite().any():
                    logits[row] = free

    def take(self, token_ids: Sequence[int]) -> None:
        """Tell each row's rules what was drawn for it."""
        for row, rules in self.rows.items():
            for rule in rules:
                rule.take(token_ids[row])
