"""Generation: prefill the prompt in one pass, then one token at a time over the KV cache.

``decode`` is the loop, on ids and for a batch; ``generate`` is one row of it; ``TrainedGPT`` puts a
tokenizer around it and speaks text. Nothing here prints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptscratch.config import SampleConfig
from gptscratch.decoder import Decoder
from gptscratch.model.cache import KVCache
from gptscratch.model.gpt import GPT
from gptscratch.quantize import quantize as quantize_
from gptscratch.sampling import Sampler, make_sampler
from gptscratch.tokenizer import DecodeStream, Tokenizer
from gptscratch.tokenizer.cluster import whole

_PAYS_FROM = 16  # tokens: a decoder copies every weight


@torch.inference_mode()
def decode(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    *,
    max_tokens: int,
    seed: int | None = None,
    stop_ids: frozenset[int] = frozenset(),
    banned_ids: Sequence[int] = (),
    remember: bool = False,
    decoder: Decoder | None = None,
) -> Iterator[list[int | None]]:
    """Continue several prompts side by side, one token of each at a time.

    When the context is full, the newer half of it is read again as a fresh window and generation goes
    on: for every kind of position, at a cost per token that stays bounded, in windows of the length that
    the model was trained on. Rows of different length share that moment: the pads of a shorter one
    count, so from there on it may read less of its own past than it would alone.

    Args:
        model: in evaluation mode.
        prompts: rows of at least one id each; of longer ones the newest ``context_length`` count.
        sampler: from ``sampling.make_sampler``.
        max_tokens: new tokens of each row.
        seed: row i draws from numbers seeded by (seed, i), whatever the other rows; None: fresh ones.
        stop_ids: a row ends when it draws one of these, which is not yielded.
        banned_ids: never drawn.
        remember: tell the sampler which ids each row has seen (for a repetition penalty).
        decoder: of this very model, for speed; None: one is made where it pays.

    Yields:
        The new id of each row, None where the row has ended.
    """
    device = model.token_embedding.weight.device
    context, rows = model.config.context_length, len(prompts)
    window = _Window([list(prompt[-context:]) for prompt in prompts])
    room = min(context, window.length + max_tokens)
    cache = KVCache(
        model.config, rows, max_length=room, device=device, dtype=model.token_embedding.weight.dtype
    )
    generators = [np.random.default_rng(None if seed is None else [seed, row]) for row in range(rows)]
    banned = torch.tensor(list(banned_ids), dtype=torch.long, device=device)
    seen = _seen(window, model.config.vocab_size, device) if remember else None
    if decoder is None and max_tokens >= _PAYS_FROM and Decoder.supports(model):
        decoder = Decoder(model)
    lean = decoder is not None and not window.has_pads
    fresh, mask = window.tensors(device)
    running = [True] * rows
    for _ in range(max_tokens):
        if cache.length + fresh.size(1) > room:
            cache.reset()
            window.halve(context)
            fresh, mask = window.tensors(device)
        if lean and decoder is not None and cache.length:
            logits = decoder.step(fresh[:, 0], cache)  # (B, V)
        elif rows > 1 and window.is_one:
            logits = _read_once(model, fresh[:1], cache)
        else:
            logits = model.lm_head(model.hidden(fresh, mask=mask, cache=cache)[:, -1])  # (B, V)
        if banned_ids:
            logits.index_fill_(1, banned, -torch.inf)
        uniform = torch.tensor([g.random(dtype=np.float32) for g in generators], device=device)  # (B,)
        drawn = sampler(logits, uniform, seen)  # (B,)
        if seen is not None:
            seen.scatter_(1, drawn[:, None], True)
        token_ids: list[int] = drawn.tolist()
        running = [on and t not in stop_ids for on, t in zip(running, token_ids, strict=True)]
        if not any(running):
            return
        yield [t if on else None for on, t in zip(running, token_ids, strict=True)]
        fresh = drawn[:, None]  # (B, 1)
        mask = torch.ones_like(fresh, dtype=torch.bool) if window.has_pads else None
        window.append(token_ids)


def _read_once(model: GPT, token_ids: Tensor, cache: KVCache) -> Tensor:
    """(1, T) ids, read for all rows of the cache together -> (B, V) logits."""
    dtype, device = model.token_embedding.weight.dtype, token_ids.device
    single = KVCache(model.config, 1, max_length=token_ids.size(1), device=device, dtype=dtype)
    logits: Tensor = model.lm_head(model.hidden(token_ids, cache=single)[:, -1])  # (1, V)
    cache.spread(single)
    return logits.repeat(cache.batch_size, 1)


def generate(
    model: GPT,
    token_ids: Sequence[int],
    *,
    max_tokens: int = SampleConfig.max_tokens,
    temperature: float = SampleConfig.temperature,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop_ids: Sequence[int] = (),
    banned_ids: Sequence[int] = (),
) -> Iterator[int]:
    """Yield the ids that continue one prompt; see ``SampleConfig`` for the knobs and ``decode`` for the rest.

    Raises:
        ConfigError: a knob is out of range.
    """
    knobs = SampleConfig(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
    )
    if not len(token_ids):
        raise ValueError("generate needs at least one token to go on from.")
    was_training = model.training
    model.eval()
    try:
        for row in decode(
            model,
            [token_ids],
            sampler_of(knobs),
            max_tokens=max_tokens,
            seed=seed,
            stop_ids=frozenset(stop_ids),
            banned_ids=banned_ids,
            remember=repetition_penalty != 1.0,
        ):
            if row[0] is not None:
                yield row[0]
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class TrainedGPT:
    """A model and its tokenizer: text in, text out."""

    model: GPT
    tokenizer: Tokenizer
    end_of_text: int | None  # the id that ended each document in training; None: there was but one text
    run: Path
    checkpoint: Path | None = None
    decoder: Decoder | None = None  # made once, by ``for_sampling``

    def for_sampling(self, *, quantize: str | None = None) -> TrainedGPT:
        """Make the model, in place, as fast as it can be; it is not to be trained any more.

        ``quantize``: float16, int8 or int4 weights, on a CPU.

        Raises:
            ConfigError: there is no such kernel here.
        """
        if quantize is not None:
            quantize_(self.model, quantize)
        decoder = Decoder(self.model, adopt=True) if Decoder.supports(self.model) else None
        return dataclasses.replace(self, decoder=decoder)

    def generate(self, prompt: str = "", **knobs: Any) -> str:
        """The continuation of a prompt as one text. ``knobs`` are the fields of ``SampleConfig``."""
        return "".join(self.stream(prompt, SampleConfig(**knobs)))

    def stream(self, prompt: str, knobs: SampleConfig) -> Iterator[str]:
        """One continuation, piece by piece: never half a character, nor a part of a stop text."""
        reply = _Reply(self.tokenizer.stream(), knobs.stop)
        for (token_id,) in self._decode(prompt, knobs, rows=1):
            if text := reply.feed(token_id):
                yield text
            if reply.ended:
                return
        if text := reply.finish():
            yield text

    def samples(self, prompt: str, knobs: SampleConfig) -> list[str]:
        """``knobs.num_samples`` continuations of one prompt, decoded as one batch."""
        replies = [_Reply(self.tokenizer.stream(), knobs.stop) for _ in range(knobs.num_samples)]
        texts = [""] * len(replies)
        for row in self._decode(prompt, knobs, rows=knobs.num_samples):
            texts = [t + reply.feed(i) for t, reply, i in zip(texts, replies, row, strict=True)]
            if all(reply.ended for reply in replies):
                break
        return [text + reply.finish() for text, reply in zip(texts, replies, strict=True)]

    def excerpt(self, max_tokens: int = 160) -> str:
        """A sample to look at during training: always from the same random numbers."""
        was_training = self.model.training
        self.model.eval()
        try:
            return "".join(self.stream("", SampleConfig(max_tokens=max_tokens, seed=0)))
        finally:
            self.model.train(was_training)

    def prompt_ids(self, prompt: str) -> list[int]:
        """The ids of a prompt, unknown characters and words left out; an empty one begins a document."""
        if ids := self._known(self.tokenizer.encode(prompt, specials=True)):
            return ids
        if self.end_of_text is not None:
            return [self.end_of_text]
        return self._known(self.tokenizer.encode("\n")) or self._known(range(self.tokenizer.vocab_size))[:1]

    def _known(self, ids: Iterable[int]) -> list[int]:
        never_seen = self._never_seen
        return [i for i in ids if i not in never_seen]

    @property
    def _never_seen(self) -> list[int]:
        """Ids that training had no use for: they mean nothing to the model."""
        special = {self.tokenizer.unk_id, self.tokenizer.eot_id} - {self.end_of_text, None}
        return [i for i in special if i is not None]

    def _decode(self, prompt: str, knobs: SampleConfig, *, rows: int) -> Iterator[list[int | None]]:
        return decode(
            self.model,
            [self.prompt_ids(prompt)] * rows,
            sampler_of(knobs),
            max_tokens=knobs.max_tokens,
            seed=knobs.seed,
            stop_ids=frozenset() if self.end_of_text is None else frozenset((self.end_of_text,)),
            banned_ids=self._never_seen,
            remember=knobs.repetition_penalty != 1.0,
            decoder=self.decoder,
        )


class _Reply:
    """One row's text as it comes, cut at the first stop text."""

    def __init__(self, decoder: DecodeStream, stop: Sequence[str]) -> None:
        self.decoder = decoder
        self.stop = stop
        self.ended = False
        self._held = ""  # what may turn out to be the beginning of a stop text

    def feed(self, token_id: int | None) -> str:
        """The text that is certain after one more id; None ends the reply."""
        if self.ended:
            return ""
        if token_id is None:
            return self.finish()
        return self._certain(self.decoder.feed(token_id))

    def finish(self) -> str:
        """What was held back; bytes that never became a character are dropped."""
        if self.ended:
            return ""
        text = self._certain(self.decoder.finish().rstrip("\ufffd"))
        held, self._held, self.ended = self._held, "", True
        return text + held

    def _certain(self, text: str) -> str:
        self._held += text
        found = [place for place in (self._held.find(s) for s in self.stop) if place >= 0]
        if found:
            text, self._held, self.ended = self._held[: min(found)], "", True
            return text
        keep = max((_overlap(self._held, s) for s in self.stop), default=0)
        cut = whole(self._held[: len(self._held) - keep])
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def sampler_of(knobs: SampleConfig) -> Sampler:
    return make_sampler(
        temperature=knobs.temperature,
        top_k=knobs.top_k,
        top_p=knobs.top_p,
        min_p=knobs.min_p,
        repetition_penalty=knobs.repetition_penalty,
    )


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of ``text`` are the first ones of ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


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
