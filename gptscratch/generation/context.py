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
    """Append the ids that were chosen; ``read`` gives the logits of what follows them."""

    def __init__(
        self, model: GPT, prompts: Sequence[Sequence[int]], max_tokens: int, decoder: DecodeStep | None
    ) -> None:
        """``decoder``: of this model; None: the model reads each token itself."""
        self.length = model.config.context_length
        self.device = model.token_embedding.weight.device
        rows = [list(prompt[-self.length :]) for prompt in prompts]
        longest = max(map(len, rows))
        self.pads = [longest - len(row) for row in rows]
        self.rows = [[0] * pads + row for pads, row in zip(self.pads, rows, strict=True)]  # left-padded
        self.slides = model.config.position == "rope" and not any(self.pads)
        self.cache = KVCache(
            model.config,
            len(rows),
            max_length=min(self.length, longest + max_tokens),
            sliding=self.slides,
            device=self.device,
            dtype=model.token_embedding.weight.dtype,
        )
        self.model = model if decoder is None else decoder.model
        self.decoder = None if any(self.pads) else decoder
        self.new: Tensor | None = None  # (B, 1) ids that were chosen and not read yet

    def read(self) -> Tensor:
        """(B, V) logits of what follows the newest ids."""
        if self.new is None:
            return self._read_rows()
        if self.cache.length == self.cache.max_length and not self.slides:
            kept = max(1, self.length // 2)
            self.pads = [max(0, pads - (len(self.rows[0]) - kept)) for pads in self.pads]
            self.rows = [row[-kept:] for row in self.rows]
            self.cache.reset()
            return self._read_rows()
        if self.decoder is not None:
            return self.decoder.step(self.new[:, 0], self.cache)
        return self._logits(self.new, self.cache)

    def append(self, chosen: Tensor, token_ids: Sequence[int]) -> None:
        """Take one more id of each row: (B,), and the same as numbers."""
        self.new = chosen[:, None]
        if not self.slides:  # a sliding cache never reads its rows again
            for row, token_id in zip(self.rows, token_ids, strict=True):
                row.append(token_id)

    def _read_rows(self) -> Tensor:
        """Fill the empty cache. One prompt of several rows is read once, for all of them."""
        token_ids = torch.tensor(self.rows, device=self.device)  # (B, T)
        one_prompt = not any(self.pads) and all(row == self.rows[0] for row in self.rows)
        if len(self.rows) == 1 or not one_prompt:
            return self._logits(token_ids, self.cache)
        one = token_ids[:1]
        dtype = self.cache.keys.dtype
        single = KVCache(self.model.config, 1, max_length=one.size(1), device=self.device, dtype=dtype)
        logits = self._logits(one, single)  # (1, V)
        self.cache.broadcast_from(single)
        return logits.repeat(len(self.rows), 1)

    def _logits(self, token_ids: Tensor, cache: KVCache) -> Tensor:
        """(B, V) logits after (B, T) ids."""
        layout = None
        if any(self.pads):
            positions = torch.arange(cache.length, cache.length + token_ids.size(1), device=self.device)
            pads = torch.tensor(self.pads, device=self.device)[:, None]
            layout = padded_layout(positions >= pads, cache)
        hidden = self.model.hidden(token_ids, layout=layout, cache=cache)  # (B, T, D)
        logits: Tensor = self.model.lm_head(hidden[:, -1])
        return logits
