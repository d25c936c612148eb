"""Numbers as text: three digits and a unit."""

from __future__ import annotations

import pytest

from gptscratch.units import count, size


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (9_999, "9,999"), (12_345, "12.3 k"), (999_499, "999 k"), (999_700, "1 M"), (3_145_728, "3.15 M"),
        (999.7e6, "1 G"), (999.7e9, "1 T"), (5e15, "5,000 T"),
    ],
)  # fmt: skip
def test_a_count_never_has_an_exponent(number: float, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"), (999, "999 B"), (999_700, "1 MB"), (2.5e9, "2.5 GB"), (999.7e9, "1 TB"),
        (1e15, "1,000 TB"), (1.2345e18, "1,234,500 TB"),
    ],
)  # fmt: skip
def test_a_size_never_has_an_exponent(number: float, text: str) -> None:
    assert size(number) == text
