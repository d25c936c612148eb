"""The keys and values of tokens already seen, so that the next token costs one token's work.

Memory for all of them is allocated at the start; each forward pass writes its own slice.

Shapes: L layers, B batch, T new positions, S all positions held, G kv heads, K head_dim.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gptscratch.config import ModelConfig


class KVCache:
    """Keys and values of the past, for a batch. For inference: gradients don't flow through it.

    ``lengths`` counts the positions that each row has seen; ``max_length`` is how many fit. Rows of different
    length take one token at a time. So does a full ``sliding`` row, each in the place of its oldest token:
    for rotary positions, where only distances count.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        *,
        max_length: int | None = None,
        sliding: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.max_length = config.context_length if max_length is None else max_length
        if config.position == "learned" and self.max_length > config.context_length:
            raise ValueError(
                f"max_length = {self.max_length} is more than the {config.context_length} learned positions."
            )
        if sliding and config.position != "rope":
            raise ValueError(f"a cache slides over rotary positions only, not over {config.position} ones.")
        self.sliding = sliding
        # (L, B, G, max, K); zeros, since 0 · NaN would spread from slots that a row has not filled
        shape = (config.n_layer, batch_size, config.n_kv_head, self.max_length, config.head_dim)
        self._memory = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(2)]
        self.lengths: list[int] = []
        self.resize(batch_size)

    @property
    def length(self) -> int:
        """Positions that the longest row has seen."""
        return max(self.lengths, default=0)

    @property
    def ragged(self) -> bool:
        """Whether rows have different lengths."""
        return len(set(self.lengths)) > 1

    def resize(self, batch_size: int) -> None:
        """Use the first ``batch_size`` rows of those allocated; additional ones begin empty."""
        self.lengths = (self.lengths + [0] * batch_size)[:batch_size]
        self.keys, self.values = (memory[:, :batch_size] for memory in self._memory)  # (L, B, G, max, K)

    def copy_row(self, row: int, source: KVCache, source_row: int) -> None:
        """Begin a row with what a row of a cache, this one or another, holds."""
        length = source.lengths[source_row]
        for mine, theirs in ((self.keys, source.keys), (self.values, source.values)):
            mine[:, row, :, :length] = theirs[:, source_row, :, :length]
        self.lengths[row] = length

    def remove_row(self, row: int) -> None:
        """Forget a row; the last one takes its place."""
        self.copy_row(row, self, len(self.lengths) - 1)
        self.resize(len(self.lengths) - 1)

    def next_slots(self, n_new: int) -> tuple[int | Tensor, int]:
        """The place of the next tokens, (B,) places where rows differ, and the number of positions with them.

        Raises:
            ValueError: they don't fit.
        """
        end = self.length + n_new
        slides = self.sliding and n_new == 1
        if (end > self.max_length and not slides) or (self.ragged and n_new > 1):
            raise ValueError(
                f"{n_new} tokens after {self.length} exceed the cache's max_length of {self.max_length}."
                if end > self.max_length
                else "Rows of different length take one token at a time."
            )
        held = min(end, self.max_length)
        if self.ragged:
            return torch.tensor(self.lengths, device=self.keys.device) % self.max_length, held
        return self.length % self.max_length if slides else self.length, held

    def layers(self, n_new: int) -> list[LayerCache]:
        """Each layer's part, ready to take the keys and values of ``n_new`` tokens.

        Raises:
            ValueError: they don't fit.
        """
        start, end = self.next_slots(n_new)
        return [LayerCache(k, v, start, end) for k, v in zip(self.keys, self.values, strict=True)]

    def advance(self, n_new: int) -> None:
        """Count the new tokens: last of all, so that an interrupted forward pass changes nothing."""
        self.lengths = [length + n_new for length in self.lengths]


class LayerCache(NamedTuple):
    """One layer's share of the cache during one forward."""

    keys: Tensor  # (B, G, max, K)
    values: Tensor  # (B, G, max, K)
    start: int | Tensor  # where the new positions go; (B,): one of each row
    end: int  # positions held, the new ones among them

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new (B, G, T, K); give all that is held (B, G, S, K), as views."""
        for held, new in ((self.keys, k), (self.values, v)):
            if isinstance(self.start, int):
                held.narrow(2, self.start, new.size(2)).copy_(new)
            else:
                held[torch.arange(len(new)), :, self.start] = new.squeeze(2)
        return self.keys.narrow(2, 0, self.end), self.values.narrow(2, 0, self.end)
