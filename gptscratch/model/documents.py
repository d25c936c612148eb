"""Several documents packed into one row, each treated as if it stood alone.

An end-of-text token ends a document as a target, and as an input it opens the next one: a document is
read as (end of text, first token, ..., last token) and predicts (first token, ..., last token, end of text).

Shapes: B rows, T positions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def document_numbers(token_ids: Tensor, end_of_text: int) -> Tensor:
    """Which document of its row each input token belongs to, counted along the row: (B, T) -> (B, T)."""
    return (token_ids == end_of_text).cumsum(dim=1)


def document_positions(documents: Tensor) -> Tensor:
    """Positions that begin at 0 in each document: (B, T) numbers -> (B, T)."""
    index = torch.arange(documents.size(1), device=documents.device)  # (T,)
    starts = index[1:] * (documents[:, 1:] != documents[:, :-1])  # (B, T - 1): 0 inside of a document
    starts = torch.cat((torch.zeros_like(documents[:, :1]), starts), dim=1)  # (B, T)
    return index - starts.cummax(dim=1).values


def same_document(documents: Tensor) -> Tensor:
    """Whether query and key are of one document: (B, T) numbers -> (B, 1, T, T)."""
    return documents[:, None, :, None] == documents[:, None, None, :]
