"""A pseudo-random order of many numbers, computed number by number: it takes no memory.

A Feistel network permutes the numbers of an even number of bits, whatever its round function (Luby and
Rackoff 1988, "How to construct pseudorandom permutations from pseudorandom functions"). A result of ``n`` or
more is permuted again (cycle walking: Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_ROUNDS = 6


class Permutation:
    """A permutation of 0 to n - 1: ``order[places]``, as of an array with the order."""

    def __init__(self, n: int, generator: np.random.Generator) -> None:
        self._n = n
        self._half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))  # bits
        self._keys = generator.integers(0, 1 << 64, _ROUNDS, np.uint64, endpoint=False)

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        found = places.astype(np.uint64)
        left = np.arange(len(found))  # of the domain, which has up to 4 n numbers
        while len(left):
            found[left] = self._permuted(found[left])
            left = left[found[left] >= self._n]
        return found.astype(np.int64)

    def _permuted(self, numbers: Words) -> Words:
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        high, low = numbers >> self._half, numbers & mask
        for key in self._keys:
            high, low = low, high ^ (_mixed(low ^ key) & mask)
        joined: Words = high << self._half | low
        return joined


def _mixed(x: Words) -> Words:
    """A hash of 64 bits: the end of SplitMix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    mixed: Words = x ^ x >> np.uint64(31)
    return mixed
