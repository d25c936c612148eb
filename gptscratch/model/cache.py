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
    """Keys, values and padding of the past, for a batch. For inference: gradients don't flow through it.

    ``length`` counts the positions seen, padding included; ``max_length`` how many fit. A full
    ``sliding`` cache takes one token at a time, each in the place of the oldest one: for rotary positions,
    where only distances count, and without padding.
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
        self.batch_size = batch_size
        self.sliding = sliding
        self.length = 0
        # (L, B, G, max, K)
        shape = (config.n_layer, batch_size, config.n_kv_head, self.max_length, config.head_dim)
        self.keys, self.values = (torch.empty(shape, device=device, dtype=dtype) for _ in range(2))
        self._real: Tensor | None = None  # (B, max) bool; None until something is padded

    @property
    def padding_mask(self) -> Tensor | None:
        """Which of the tokens held are real, (B, S); None: all."""
        return None if self._real is None else self._real[:, : self.length]

    def next_slot(self, n_new: int) -> tuple[int, int]:
        """The place of the next ``n_new`` tokens, and the number of positions with them.

        Raises:
            ValueError: they don't fit.
        """
        end = self.length + n_new
        if end <= self.max_length:
            return self.length, end
        if self.sliding and n_new == 1:
            return self.length % self.max_length, self.max_length
        raise ValueError(
            f"{n_new} tokens after {self.length} exceed the cache's max_length of {self.max_length}."
        )

    def layers(self, n_new: int) -> list[LayerCache]:
        """Each layer's part, ready to take the keys and values of ``n_new`` tokens.

        Raises:
            ValueError: they don't fit.
        """
        start, end = self.next_slot(n_new)
        return [LayerCache(k, v, start, end) for k, v in zip(self.keys, self.values, strict=True)]

    def append_mask(self, mask: Tensor) -> Tensor:
        """Store which of the next tokens are real, (B, T); gives the mask of all with them, (B, S).

        Raises:
            ValueError: they don't fit.
        """
        start, end = self.next_slot(mask.size(1))
        if self._real is None:
            shape = (self.batch_size, self.max_length)
            self._real = torch.ones(shape, dtype=torch.bool, device=mask.device)
        self._real[:, start:end] = mask
        return self._real[:, :end]

    def advance(self, n_new: int) -> None:
        """Count the new tokens: last of all, so that an interrupted forward pass changes nothing."""
        self.length += n_new

    def broadcast_from(self, single: KVCache) -> None:
        """Begin every row with what a cache of one row, without padding, holds."""
        for mine, theirs in ((self.keys, single.keys), (self.values, single.values)):
            mine[:, :, :, : single.length] = theirs[:, :, :, : single.length]
        self.length = single.length

    def reset(self) -> None:
        """Forget everything; the memory stays."""
        self.length = 0
        self._real = None


class LayerCache(NamedTuple):
    """One layer's share of the cache during one forward."""

    keys: Tensor  # (B, G, max, K)
    values: Tensor  # (B, G, max, K)
    start: int  # where the new positions go
    end: int  # positions held, the new ones among them

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new (B, G, T, K); give all that is held (B, G, S, K), as views."""
        self.keys.narrow(2, self.start, k.size(2)).copy_(k)
        self.values.narrow(2, self.start, k.size(2)).copy_(v)
        return self.keys.narrow(2, 0, self.end), self.values.narrow(2, 0, self.end)
