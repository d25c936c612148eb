"""What the rows of a decoded batch hold: their newest ids, and the cache over what the model has read.

Shapes: B rows, T fresh ids, V vocab.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gptscratch.accelerate.decode_step import DecodeStep
from gptscratch.model.cache import KVCache
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import padded_layout


class Context:
    """Append the ids that were chosen; ``read`` gives the logits of what follows them.

    When it is full, the cache slides over rotary positions: each new token takes the place of the oldest.
    With other positions, and with rows of different length, the newer half is read again.
    """

    def __init__(
        self, model: GPT, prompts: Sequence[Sequence[int]], max_tokens: int, decoder: DecodeStep | None
    ) -> None:
        """``decoder``: of this very model; None: the model reads each token itself."""
        self.length = model.config.context_length
        self.device = model.token_embedding.weight.device
        self.window = _Window([list(prompt[-self.length :]) for prompt in prompts])
        self.slides = model.config.position == "rope" and not self.window.has_pads
        self.cache = KVCache(
            model.config,
            len(prompts),
            max_length=min(self.length, self.window.length + max_tokens),
            sliding=self.slides,
            device=self.device,
            dtype=model.token_embedding.weight.dtype,
        )
        self.model = model if decoder is None else decoder.model
        self.decoder = None if self.window.has_pads else decoder
        self.fresh, self.mask = self.window.tensors(self.device)  # (B, T) ids to read; which are not padding

    def read(self) -> Tensor:
        """(B, V) logits of what follows the newest ids."""
        if self.cache.length == self.cache.max_length and not self.slides:
            self.cache.reset()
            self.window.halve(self.length)
            self.fresh, self.mask = self.window.tensors(self.device)
        if self.decoder is not None and self.cache.length:
            return self.decoder.step(self.fresh[:, 0], self.cache)
        if self.window.is_one:
            return self._read_once()
        layout = None if self.mask is None else padded_layout(self.mask, self.cache)
        hidden = self.model.hidden(self.fresh, layout=layout, cache=self.cache)  # (B, T, D)
        logits: Tensor = self.model.lm_head(hidden[:, -1])
        return logits

    def append(self, chosen: Tensor, token_ids: Sequence[int]) -> None:
        """Take one more id of each row: (B,), and the same as numbers."""
        self.fresh = chosen[:, None]
        self.mask = torch.ones_like(self.fresh, dtype=torch.bool) if self.window.has_pads else None
        if not self.slides:  # a sliding cache never reads a window again
            self.window.append(token_ids)
        self.window.has_new = True

    def _read_once(self) -> Tensor:
        """The one prompt of all rows, read for them together."""
        cache, one = self.cache, self.fresh[:1]  # (1, T)
        single = KVCache(
            self.model.config, 1, max_length=one.size(1), device=self.device, dtype=cache.keys.dtype
        )
        logits: Tensor = self.model.lm_head(self.model.hidden(one, cache=single)[:, -1])  # (1, V)
        cache.broadcast_from(single)
        return logits.repeat(cache.batch_size, 1)


class _Window:
    """The ids that the next fresh window may need: left-padded rows of one length."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.length = max(len(row) for row in rows)
        self.has_new = False
        self.pads = [self.length - len(row) for row in rows]
        self.rows = [[0] * pads + row for pads, row in zip(self.pads, rows, strict=True)]

    @property
    def has_pads(self) -> bool:
        return any(self.pads)

    @property
    def is_one(self) -> bool:
        """Whether several rows are the same, with nothing appended yet."""
        several = not self.has_new and len(self.rows) > 1
        return several and not self.has_pads and all(row == self.rows[0] for row in self.rows)

    def append(self, token_ids: Sequence[int]) -> None:
        for row, token_id in zip(self.rows, token_ids, strict=True):
            row.append(token_id)
        self.length += 1

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
