"""Batches: a pure function of the step that gives every token once per epoch."""

from __future__ import annotations

import numpy as np
import pytest

from gptscratch.data.batches import Batches, windows
from gptscratch.data.permutation import Permutation
from gptscratch.errors import CorpusError

SIZES = [(101, 7, 3), (50, 49, 2), (1000, 8, 16), (10, 1, 4), (9, 8, 1)]


def tokens(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.uint16)


def epoch_rows(batches: Batches, epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
    n_rows = len(batches.parts[0])
    first, last = epoch * n_rows, (epoch + 1) * n_rows
    rows = []
    for step in range(first // batches.batch_size, -(-last // batches.batch_size)):
        inputs, targets = batches.batch(step)
        rows += [
            (step * batches.batch_size + i, x, y)
            for i, (x, y) in enumerate(zip(inputs, targets, strict=True))
        ]
    return [(x, y) for i, x, y in rows if first <= i < last]


@pytest.mark.parametrize(("n", "length", "size"), SIZES)
@pytest.mark.parametrize("epoch", [0, 3])
def test_every_pair_comes_once_per_epoch(n: int, length: int, size: int, epoch: int) -> None:
    rows = epoch_rows(Batches(tokens(n), length, size, seed=1), epoch)
    pairs = [(int(x), int(y)) for inputs, targets in rows for x, y in zip(inputs, targets, strict=True)]
    assert len(set(pairs)) == len(pairs)
    assert all(y == x + 1 for x, y in pairs)
    assert 0 <= n - 1 - len(pairs) < length


def test_a_batch_depends_on_the_step_alone() -> None:
    ahead = Batches(tokens(1000), 8, 4, seed=5)
    for step in range(50):
        ahead.batch(step)
    for found, expected in zip(ahead.batch(7), Batches(tokens(1000), 8, 4, seed=5).batch(7), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_epochs_and_seeds_differ() -> None:
    batches = Batches(tokens(1000), 8, 124, seed=2)
    first, second = batches.batch(0)[0], batches.batch(1)[0]
    assert not np.array_equal(first, second)
    assert not np.array_equal(np.sort(first.ravel()), np.sort(second.ravel()))  # another offset
    assert not np.array_equal(first, Batches(tokens(1000), 8, 124, seed=3).batch(0)[0])


@pytest.mark.parametrize(("n", "length", "size"), SIZES)
def test_windows_cover_every_target_once(n: int, length: int, size: int) -> None:
    found = list(windows(tokens(n), length, size))
    assert np.concatenate([y.ravel() for _, y in found]).tolist() == list(range(1, n))
    assert all(np.array_equal(x + 1, y) for x, y in found)


def test_limited_windows_are_evenly_spread() -> None:
    found = list(windows(tokens(1001), 10, 4, limit=100))
    starts = np.concatenate([x[:, 0] for x, _ in found])
    assert starts.tolist() == list(range(0, 1000, 100))


def test_too_few_tokens_are_an_error_with_the_longest_context() -> None:
    with pytest.raises(CorpusError, match="--context-length 7 or less"):
        Batches(tokens(8), 8, 1, seed=0)
    with pytest.raises(CorpusError, match="two tokens"):
        next(windows(tokens(1), 8, 1))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 65, 1000])
def test_a_computed_order_has_each_number_once(n: int) -> None:
    orders = [Permutation(n, np.random.default_rng([3, epoch]))[np.arange(n)] for epoch in range(3)]
    assert all(sorted(order.tolist()) == list(range(n)) for order in orders)
    if n > 5:
        assert not np.array_equal(orders[0], orders[1])


def test_a_computed_order_is_as_random_as_a_shuffled_one() -> None:
    """Chi-square of (place, number) and of neighbors in 16 x 16 cells: about 225, with a deviation of 21."""
    n, found = 1 << 16, []
    for seed in range(5):
        order = Permutation(n, np.random.default_rng(seed))[np.arange(n)]
        for pairs in ((np.arange(n), order), (order[:-1], order[1:]), (order[:-1] % 16, order[1:] % 16)):
            cells, _, _ = np.histogram2d(*pairs, bins=16)
            expected = cells.sum() / cells.size
            found.append(float(((cells - expected) ** 2 / expected).sum()))
    assert min(found) > 150
    assert max(found) < 330


def test_a_computed_order_of_many_rows_takes_no_memory() -> None:
    order = Permutation(10**12, np.random.default_rng(1))
    found = order[np.arange(1000)]
    assert len(set(found.tolist())) == 1000
    assert found.min() >= 0
    assert 9e11 < found.max() < 1e12


@pytest.mark.parametrize(("n", "length", "size"), SIZES)
def test_every_pair_comes_once_per_epoch_in_a_computed_order(n: int, length: int, size: int) -> None:
    computed = Batches(tokens(n), length, size, seed=1, order_in_memory=0)
    pairs = [pair for x, y in epoch_rows(computed, 2) for pair in zip(x.tolist(), y.tolist(), strict=True)]
    assert len(set(pairs)) == len(pairs)
    assert 0 <= n - 1 - len(pairs) < length
    shuffled = [x.tolist() for x, _ in epoch_rows(Batches(tokens(n), length, size, seed=1), 2)]
    assert sorted(shuffled) == sorted(x.tolist() for x, _ in epoch_rows(computed, 2))  # the same rows
