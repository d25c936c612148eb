"""Documents packed into a row: what the model makes of each is what it makes of it alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptscratch.config import POSITIONS, ModelConfig
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import document_layout, document_numbers, document_positions

END = 0
LENGTHS = ((5, 1, 9, 5), (20,), (1, 1, 18))  # of the documents in each row of 20


def lively(**changes: Any) -> GPT:
    torch.manual_seed(0)
    base: dict[str, Any] = {"vocab_size": 31, "context_length": 20, "n_layer": 2, "n_head": 4, "d_model": 32}
    model = GPT(ModelConfig(**base | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double()


def packed_rows() -> Tensor:
    """Each document begins with an end-of-text token, but the first of a row, which is cut there."""
    chance = torch.Generator().manual_seed(0)
    rows = torch.randint(1, 31, (len(LENGTHS), 20), generator=chance)
    for row, lengths in zip(rows, LENGTHS, strict=True):
        starts = torch.tensor(lengths).cumsum(0)[:-1]
        row[starts] = END
    return rows


def alone(model: GPT, rows: Tensor) -> Tensor:
    """The logits of each document in a forward pass of its own, (rows · 20, V)."""
    parts = [part[None] for row, lengths in zip(rows, LENGTHS, strict=True) for part in row.split(lengths)]
    return torch.cat([model(part)[0] for part in parts])


@pytest.mark.parametrize("n_kv_head", [4, 2])
@pytest.mark.parametrize("position", POSITIONS)
def test_a_packed_row_has_the_logits_and_gradients_of_its_documents_alone(
    position: str, n_kv_head: int
) -> None:
    model = lively(position=position, n_kv_head=n_kv_head)
    rows = packed_rows()
    targets = torch.randint(1, 31, (rows.numel(),), generator=torch.Generator().manual_seed(1))
    found = model(rows, layout=document_layout(document_numbers(rows, END))).flatten(0, 1)
    F.cross_entropy(found, targets).backward()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    wanted = alone(model, rows)
    F.cross_entropy(wanted, targets).backward()
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)  # rotations are made in float32
    torch.testing.assert_close(gradients, [p.grad for p in model.parameters()], rtol=1e-5, atol=1e-6)
    assert (model(rows).flatten(0, 1) - wanted).abs().max() > 1e-3  # without the mask they do see one another


def test_documents_are_numbered_and_their_positions_begin_at_0() -> None:
    row = torch.tensor([[4, 5, END, 6, END, END, 7], [END, 1, 2, 3, 4, 5, 6]])
    documents = document_numbers(row, END)
    assert documents.tolist() == [[0, 0, 1, 1, 2, 3, 3], [1] * 7]
    assert document_positions(documents).tolist() == [[0, 1, 0, 1, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6]]
