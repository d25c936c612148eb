"""Positions and visibility of tokens: plain rows, padded rows, several documents in a row.

Shapes: B batch, T new tokens, S tokens with those in the cache.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gptscratch.model.cache import KVCache


class Layout(NamedTuple):
    """Positions count from 0 in each text."""

    queries: Tensor  # (B or 1, T) positions of the new tokens
    keys: Tensor  # (B or 1, S) positions of all tokens, the new ones among them
    visible: Tensor | None  # (B or 1, 1, T, S) bool; None: all keys up to the query


def causal_layout(token_ids: Tensor, cache: KVCache | None = None) -> Layout:
    """Each token attends to itself and to all tokens before it, in the cache too."""
    n_new, n_past = token_ids.size(1), 0 if cache is None else cache.length
    end = n_past + n_new
    if cache is not None and cache.ragged:
        queries = torch.tensor(cache.lengths, device=token_ids.device)[:, None]  # (B, 1)
        keys = torch.arange(min(end, cache.max_length), device=token_ids.device)[None]  # (1, S)
        return Layout(queries, keys, (keys <= queries)[:, None, None])
    first = 0 if cache is None else max(0, end - cache.max_length)  # a sliding cache holds no more
    queries = torch.arange(n_past, end, device=token_ids.device)[None]  # (1, T)
    keys = torch.arange(first, end, device=token_ids.device)[None]  # (1, S)
    if n_past == 0 or n_new == 1:
        return Layout(queries, keys, None)
    return Layout(queries, keys, (keys <= queries.mT)[None, None])


def padded_layout(mask: Tensor) -> Layout:
    """For rows with padding, left or right: ``mask`` (B, T) is True at real tokens.

    Padding is not counted as a position and changes nothing at the real tokens.
    """
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)  # (B, T)
    index = torch.arange(mask.size(1), device=mask.device)  # (T,)
    # Padding sees itself: a softmax over nothing would be NaN, and spread through 0 · NaN.
    visible = (index <= index[:, None]) & (mask[:, None, None, :] | (index == index[:, None]))  # (B, 1, T, T)
    return Layout(positions, positions, visible)


def document_layout(documents: Tensor) -> Layout:
    """For rows that hold several documents, none of which attends to another.

    ``documents`` (B, T) numbers them along the row (``document_numbers``); positions begin at 0 in each.
    """
    positions = document_positions(documents)  # (B, T)
    index = torch.arange(documents.size(1), device=documents.device)  # (T,)
    same = documents[:, None, :, None] == documents[:, None, None, :]  # (B, 1, T, T)
    return Layout(positions, positions, same & (index <= index[:, None]))


def document_numbers(token_ids: Tensor, end_of_text: int) -> Tensor:
    """Which document of its row each input token belongs to, counted along the row: (B, T) -> (B, T).

    An end-of-text token ends a document as a target, and begins the next one as an input: a document is
    read as (end of text, first token, ..., last token) and predicts (first token, ..., end of text).
    """
    return (token_ids == end_of_text).cumsum(dim=1)


def document_positions(documents: Tensor) -> Tensor:
    """Positions that begin at 0 in each document: (B, T) numbers -> (B, T)."""
    index = torch.arange(documents.size(1), device=documents.device)  # (T,)
    starts = index[1:] * (documents[:, 1:] != documents[:, :-1])  # (B, T - 1): 0 inside a document
    starts = torch.cat((torch.zeros_like(documents[:, :1]), starts), dim=1)  # (B, T)
    return index - starts.cummax(dim=1).values
