"""The rows of a decoded batch, each with its own length: they join and leave between two tokens.

Shapes: B rows, T prompt ids, V vocab.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gptscratch.accelerate.decode_step import DecodeStep
from gptscratch.model.cache import KVCache
from gptscratch.model.gpt import GPT


class Context:
    """``read`` gives the logits of what follows each row, ``append`` takes the ids that were chosen."""

    def __init__(self, model: GPT, max_rows: int, max_length: int, decoder: DecodeStep | None) -> None:
        """``max_length``: of a row, in tokens; ``decoder``: of this model; None: it reads all itself."""
        self.length = model.config.context_length
        self.device = model.token_embedding.weight.device
        self.slides = model.config.position == "rope"
        self.model = model if decoder is None else decoder.model
        self.decoder = decoder
        self.rows: list[list[int]] = []  # their ids; of sliding rows, the prompts
        self.new = torch.empty(0, dtype=torch.long, device=self.device)  # (B,) ids that were not read yet
        self.cache = self._cache(max_rows, max_length=min(self.length, max_length), sliding=self.slides)
        self.cache.resize(0)

    def add(self, prompts: Sequence[Sequence[int]]) -> None:
        """Rows that begin with these ids, after the others; the same prompt is read once."""
        first = len(self.rows)
        self.rows += [list(prompt[-self.length :]) for prompt in prompts]
        self.cache.resize(len(self.rows))
        self._fill(range(first, len(self.rows)))
        newest = torch.tensor([row[-1] for row in self.rows[first:]], device=self.device)
        self.new = torch.cat((self.new, newest))

    def remove(self, row: int) -> None:
        """The last row takes the place of this one."""
        self.cache.remove_row(row)
        self.rows[row], self.new[row] = self.rows[-1], self.new[-1].clone()
        self.rows.pop()
        self.new = self.new[:-1]

    def read(self) -> Tensor:
        """(B, V) logits of what follows each row."""
        if not self.slides:
            full = [row for row, seen in enumerate(self.cache.lengths) if seen == self.cache.max_length]
            for row in full:
                self.rows[row] = self.rows[row][-max(1, self.length // 2) :]
            self._fill(full)
        if self.decoder is not None:
            return self.decoder.step(self.new, self.cache)
        logits: Tensor = self.model(self.new[:, None], cache=self.cache)[:, 0]
        return logits

    def append(self, chosen: Tensor, token_ids: Sequence[int]) -> None:
        """Take one more id of each row: (B,), and the same as numbers."""
        self.new = chosen
        if not self.slides:  # a sliding row never reads its ids again
            for row, token_id in zip(self.rows, token_ids, strict=True):
                row.append(token_id)

    def _fill(self, rows: Sequence[int]) -> None:
        """Read all ids of these rows but the newest, as right-padded rows: no token sees what follows it."""
        prompts = {tuple(self.rows[row][:-1]): row for row in rows}  # each prompt once
        if not prompts:
            return
        longest = max(map(len, prompts))
        cache = self._cache(len(prompts), max_length=longest)
        if longest:
            padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
            self.model.hidden(torch.tensor(padded, device=self.device), cache=cache)
        cache.lengths = [len(prompt) for prompt in prompts]
        numbers = {prompt: number for number, prompt in enumerate(prompts)}
        for row in rows:
            self.cache.copy_row(row, cache, numbers[tuple(self.rows[row][:-1])])

    def _cache(self, rows: int, *, max_length: int, sliding: bool = False) -> KVCache:
        dtype = self.model.token_embedding.weight.dtype
        return KVCache(
            self.model.config, rows, max_length=max_length, sliding=sliding, device=self.device, dtype=dtype
        )
