"""The loop of generation: prefill the prompts in one pass, then one token at a time over the KV cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from gptscratch.decoder import Decoder
from gptscratch.model.cache import KVCache
from gptscratch.model.gpt import GPT
from gptscratch.repeats import MakeRule, Rule
from gptscratch.sampling import Sampler

_PAYS_FROM = 16  # tokens: a decoder copies every weight


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
    """
    device = model.token_embedding.weight.device
    context, rows = model.config.context_length, len(prompts)
    window = _Window([list(prompt[-context:]) for prompt in prompts])
    room = min(context, window.length + max_tokens)
    slides = model.config.position == "rope" and not window.has_pads
    cache = KVCache(
        model.config,
        rows,
        max_length=room,
        sliding=slides,
        device=device,
        dtype=model.token_embedding.weight.dtype,
    )
    numbers = range(rows) if streams is None else streams
    generators = [np.random.default_rng(None if seed is None else [seed, number]) for number in numbers]
    banned = torch.tensor(list(banned_ids), dtype=torch.long, device=device)
    seen = _seen(window, model.config.vocab_size, device) if remember else None
    counts = None if seen is None else torch.zeros_like(seen, dtype=torch.float32)
    row_rules = [[make(prompt) for make in rules] for prompt in prompts]
    if decoder is None and max_tokens >= _PAYS_FROM and Decoder.supports(model):
        decoder = Decoder(model)
    if decoder is not None:
        model = decoder.model
    lean = decoder is not None and not window.has_pads
    fresh, mask = window.tensors(device)
    running = [True] * rows
    for _ in range(max_tokens):
        if cache.length == room and not slides:
            cache.reset()
            window.halve(context)
            fresh, mask = window.tensors(device)
        if lean and decoder is not None and cache.length:
            logits = decoder.step(fresh[:, 0], cache)  # (B, V)
        elif rows > 1 and window.is_one:
            logits = _read_once(model, fresh[:1], cache)
        else:
            logits = model.lm_head(model.hidden(fresh, mask=mask, cache=cache)[:, -1])  # (B, V)
        if watch is not None:
            watch(logits)
        if banned_ids:
            logits.index_fill_(1, banned, -torch.inf)
        if rules:
            _forbid(logits, row_rules)
        uniform = torch.tensor([g.random(dtype=np.float32) for g in generators], device=device)  # (B,)
        drawn = sampler(logits, uniform, seen, counts)  # (B,)
        token_ids: list[int] = drawn.tolist()
        if seen is not None and counts is not None:
            seen.scatter_(1, drawn[:, None], True)
            counts.scatter_add_(1, drawn[:, None], torch.ones_like(drawn, dtype=torch.float32)[:, None])
        for own, token_id in zip(row_rules, token_ids, strict=True):
            for rule in own:
                rule.take(token_id)
        running = [on and t not in stop_ids for on, t in zip(running, token_ids, strict=True)]
        if not any(running):
            return
        yield [t if on else None for on, t in zip(running, token_ids, strict=True)]
        fresh = drawn[:, None]  # (B, 1)
        mask = torch.ones_like(fresh, dtype=torch.bool) if window.has_pads else None
        window.append(token_ids)


def _forbid(logits: Tensor, row_rules: Sequence[Sequence[Rule]]) -> None:
    """Rule ids out, in place; a row of which nothing would be left keeps all."""
    for row, own in enumerate(row_rules):
        ids = list({token_id for rule in own for token_id in rule.forbidden()})
        if ids:
            free = logits[row].index_fill(0, torch.tensor(ids, device=logits.device), -torch.inf)
            if free.isfinite().any():
                logits[row] = free


def _read_once(model: GPT, token_ids: Tensor, cache: KVCache) -> Tensor:
    """(1, T) ids, read for all rows of the cache together -> (B, V) logits."""
    dtype, device = model.token_embedding.weight.dtype, token_ids.device
    single = KVCache(model.config, 1, max_length=token_ids.size(1), device=device, dtype=dtype)
    logits: Tensor = model.lm_head(model.hidden(token_ids, cache=single)[:, -1])  # (1, V)
    cache.spread(single)
    return logits.repeat(cache.batch_size, 1)


class _Window:
    """The ids that the next fresh window may need: left-padded rows of one length."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.length = max(len(row) for row in rows)
        self.drawn = False
        self.pads = [self.length - len(row) for row in rows]
        self.rows = [[0] * pads + row for pads, row in zip(self.pads, rows, strict=True)]

    @property
    def has_pads(self) -> bool:
        return any(self.pads)

    @property
    def is_one(self) -> bool:
        """Whether nothing was drawn yet and all rows are the same."""
        return not self.drawn and not self.has_pads and all(row == self.rows[0] for row in self.rows)

    def append(self, token_ids: Sequence[int]) -> None:
        for row, token_id in zip(self.rows, token_ids, strict=True):
            row.append(token_id)
        self.length += 1
        self.drawn = True

    def halve(self, context: int) -> None:
        """Keep the newest half of a context."""
        kept = max(1, context // 2)
        self.pads = [max(0, pads - (self.length - kept)) for pads in self.pads]
        self.rows = [row[-kept:] for row in self.rows]
        self.length = kept

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """(B, T) ids, and a mask of what is real; None where nothing is padded."""
        token_ids = torch.tensor(self.rows, device=device)
        if not self.has_pads:
            return token_ids, None
        pads = torch.tensor(self.pads, device=device)[:, None]
        return token_ids, torch.arange(self.length, device=device) >= pads


def _seen(window: _Window, vocab_size: int, device: torch.device) -> Tensor:
    """(B, V): which ids a row holds."""
    seen = torch.zeros(len(window.rows), vocab_size, dtype=torch.bool)
    for row, (token_ids, pads) in enumerate(zip(window.rows, window.pads, strict=True)):
        seen[row, token_ids[pads:]] = True
    return seen.to(device)
