"""The lean cross-entropy against torch's plain one: value and gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptscratch.model.head import AdaptiveHead
from gptscratch.training import loss as loss_module
from gptscratch.training.loss import (
    IGNORE,
    head_cross_entropy,
    linear_cross_entropy,
    slice_rows,
)


def inputs(*, rows: int = 37, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(rows, 16).to(dtype).requires_grad_()
    weight = torch.randn(29, 16).to(dtype).requires_grad_()
    targets = torch.randint(29, (rows,))
    targets[::5] = IGNORE
    return hidden, weight, targets


def naive(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.T, targets, ignore_index=IGNORE, reduction="sum")


@pytest.mark.parametrize("slice_rows", [1, 8, 37, 1000])
def test_value_and_gradients_equal_the_plain_form(slice_rows: int) -> None:
    hidden, weight, targets = inputs()
    found = linear_cross_entropy(hidden, weight, targets, rows=slice_rows)
    wanted = naive(hidden, weight, targets)
    torch.testing.assert_close(found, wanted)
    actual = torch.autograd.grad(3.0 * found, (hidden, weight))
    theirs = torch.autograd.grad(3.0 * wanted, (hidden, weight))
    torch.testing.assert_close(actual, theirs)


@pytest.mark.parametrize("rows", [None, 8])
def test_half_precision_stays_near_the_full_one(rows: int | None) -> None:
    hidden, weight, targets = inputs(rows=500, dtype=torch.bfloat16)
    found = linear_cross_entropy(hidden, weight, targets, rows=rows)
    wanted = naive(hidden.float(), weight.float(), targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=0)
    actual = torch.autograd.grad(found, (hidden, weight))
    theirs = torch.autograd.grad(wanted, (hidden, weight))
    for own, their in zip(actual, theirs, strict=True):
        assert own.dtype == torch.bfloat16
        assert (own.float() - their).norm() < 0.01 * their.float().norm()


@pytest.mark.parametrize("rows", [None, 8])
def test_a_token_that_is_nearly_certain_still_has_its_small_gradient(rows: int | None) -> None:
    hidden = torch.tensor([[1.0]], dtype=torch.bfloat16, requires_grad=True)
    weight = torch.tensor([[4.0], [-4.0]], dtype=torch.bfloat16)  # p = 1 / (1 + exp(-8)) = 0.99966
    linear_cross_entropy(hidden, weight, torch.tensor([0]), rows=rows).backward()
    assert hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(-8 / (1 + math.exp(8)), rel=0.02)


def test_rows_that_do_not_count_have_no_gradient() -> None:
    hidden, weight, targets = inputs()
    linear_cross_entropy(hidden, weight, targets, rows=8).backward()
    assert hidden.grad is not None
    assert not hidden.grad[targets == IGNORE].any()
    assert hidden.grad[targets != IGNORE].any(dim=1).all()


def test_without_gradients_it_is_the_same_number() -> None:
    hidden, weight, targets = inputs()
    with torch.no_grad():
        assert linear_cross_entropy(hidden, weight, targets) == linear_cross_entropy(
            hidden.detach(), weight.detach(), targets
        )


def test_large_logits_do_not_overflow() -> None:
    hidden, weight, targets = inputs()
    hidden, weight = 1e3 * hidden.detach(), 1e3 * weight.detach()
    for rows in (None, 8):
        found = linear_cross_entropy(hidden, weight, targets, rows=rows)
        torch.testing.assert_close(found, naive(hidden, weight, targets))


def test_a_bias_is_part_of_the_logits_and_has_its_gradient() -> None:
    hidden, weight, targets = inputs()
    bias = torch.randn(29, requires_grad=True)
    found = linear_cross_entropy(hidden, weight, targets, bias, rows=8)
    wanted = F.cross_entropy(F.linear(hidden, weight, bias), targets, ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(found, wanted)
    actual = torch.autograd.grad(found, (hidden, weight, bias))
    torch.testing.assert_close(actual, torch.autograd.grad(wanted, (hidden, weight, bias)))


@pytest.mark.parametrize("bias", [False, True])
def test_an_adaptive_softmax_has_the_value_and_gradients_of_torchs_own(bias: bool) -> None:
    torch.manual_seed(0)
    head = AdaptiveHead(16, 29, [5, 12], head_bias=bias)
    hidden, targets = torch.randn(37, 16, requires_grad=True), torch.randint(29, (37,))
    found = head_cross_entropy(head, hidden, targets)
    wanted = -nn.AdaptiveLogSoftmaxWithLoss.forward(head, hidden, targets).output.sum()
    torch.testing.assert_close(found, wanted)
    leaves = (hidden, *head.parameters())
    torch.testing.assert_close(torch.autograd.grad(found, leaves), torch.autograd.grad(wanted, leaves))


def test_padding_counts_for_nothing_in_an_adaptive_softmax() -> None:
    torch.manual_seed(0)
    head = AdaptiveHead(16, 29, [5, 12])
    hidden, targets = torch.randn(37, 16), torch.randint(29, (37,))
    padded = targets.clone()
    padded[::5] = IGNORE
    kept = padded != IGNORE
    torch.testing.assert_close(
        head_cross_entropy(head, hidden, padded), head_cross_entropy(head, hidden[kept], targets[kept])
    )


def test_a_part_of_the_vocabulary_that_does_not_occur_costs_nothing() -> None:
    torch.manual_seed(0)
    head = AdaptiveHead(16, 29, [5, 12])
    hidden, targets = torch.randn(7, 16), torch.randint(5, (7,))
    wanted = -nn.AdaptiveLogSoftmaxWithLoss.forward(head, hidden, targets).output.sum()
    torch.testing.assert_close(head_cross_entropy(head, hidden, targets), wanted)


def test_no_targets_have_no_loss_and_no_gradient() -> None:
    hidden, weight, targets = inputs()
    found = linear_cross_entropy(hidden[:0], weight, targets[:0], rows=8)
    assert found == 0
    assert not torch.autograd.grad(found, weight)[0].any()


def test_a_factor_keeps_the_gradient_of_many_tokens_within_float16() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(65_536, 8, dtype=torch.float16) + 2
    targets = torch.zeros(len(hidden), dtype=torch.long)
    weights = [torch.zeros(16, 8, dtype=torch.float16, requires_grad=True) for _ in range(2)]
    for weight, factor in zip(weights, (1.0, 2.0**-6), strict=True):
        linear_cross_entropy(hidden, weight, targets, factor=factor, rows=len(hidden)).backward()
    whole, scaled = (weight.grad for weight in weights)
    assert whole is not None
    assert scaled is not None
    assert whole.isinf().any()
    logits_gradient = torch.full((16,), 1 / 16)
    logits_gradient[0] -= 1
    wanted = logits_gradient[:, None] * hidden.float().sum(0) / 64
    torch.testing.assert_close(scaled.float(), wanted, rtol=2e-3, atol=0)


def test_a_factor_multiplies_value_and_gradients_exactly() -> None:
    hidden, weight, targets = inputs()
    plain = linear_cross_entropy(hidden, weight, targets)
    scaled = linear_cross_entropy(hidden, weight, targets, factor=torch.tensor(8.0))
    assert scaled == 8 * plain
    actual, theirs = (torch.autograd.grad(loss, (hidden, weight)) for loss in (scaled, 8.0 * plain))
    torch.testing.assert_close(actual, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("rows", [None, 1, 8, 37])
@pytest.mark.parametrize("head", [nn.Linear(32, 30), AdaptiveHead(32, 30, [5, 12])])
def test_r_drop_has_the_gradients_of_torchs_divergence_in_any_slices(
    head: nn.Module, rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rows is not None:
        monkeypatch.setattr(loss_module, "_ROWS", rows)
        monkeypatch.setattr(loss_module, "slice_rows", lambda *_: rows)
    torch.manual_seed(0)
    hidden, targets = torch.randn(2 * 37, 32, requires_grad=True), torch.randint(0, 30, (37,))
    targets[::5] = IGNORE
    found = head_cross_entropy(head, hidden, targets, factor=3.0, r_drop=0.7)
    log_p = head(hidden).log_softmax(-1)
    loss = F.nll_loss(log_p, targets.repeat(2), ignore_index=IGNORE, reduction="sum") / 2
    p, q = log_p.view(2, 37, 30)[:, targets != IGNORE]
    kl = F.kl_div(p, q, reduction="sum", log_target=True) + F.kl_div(q, p, reduction="sum", log_target=True)
    torch.testing.assert_close(found, 3 * loss)
    leaves = (hidden, *head.parameters())
    wanted = torch.autograd.grad(3 * (loss + 0.7 * kl / 2), leaves)
    torch.testing.assert_close(torch.autograd.grad(found, leaves), wanted)


def test_r_drop_in_half_precision_stays_near_the_full_one() -> None:
    hidden, weight, targets = inputs(rows=500, dtype=torch.bfloat16)
    grads = []
    for kind in (torch.bfloat16, torch.float32):
        leaves = [leaf.detach().to(kind).requires_grad_() for leaf in (hidden, weight)]
        loss = linear_cross_entropy(*leaves, targets[:250], r_drop=2.0, rows=64)
        grads.append(torch.autograd.grad(loss, leaves))
    for own, their in zip(*grads, strict=True):
        assert (own.float() - their).norm() < 0.01 * their.norm()


def test_r_drop_of_padding_alone_has_no_loss_and_no_gradient_in_an_adaptive_softmax() -> None:
    hidden, head = torch.ones(2 * 3, 32, requires_grad=True), AdaptiveHead(32, 30, [5, 12])
    loss = head_cross_entropy(head, hidden, torch.full((3,), IGNORE), r_drop=1.0)
    (grad,) = torch.autograd.grad(loss, hidden)
    assert loss == 0
    assert not grad.any()


@pytest.mark.parametrize("n_vocab", [67, 16_384, 50_257, 152_000])
def test_a_slice_stays_near_the_cache_of_a_cpu_and_fills_a_gpu(n_vocab: int) -> None:
    cpu, cuda, mps = (slice_rows(n_vocab, torch.device(d)) for d in ("cpu", "cuda", "mps"))
    assert cpu * n_vocab * 4 <= 4 << 20 < (cpu + 1) * n_vocab * 4
    assert cuda * n_vocab * 4 <= 256 << 20
    assert cuda >= 440
    assert cpu < mps < cuda
