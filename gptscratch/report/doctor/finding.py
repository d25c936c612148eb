"""What a rule finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault, in whole sentences."""

    name: str  # a short heading, such as "Overfitting from step 300"
    evidence: str  # the numbers
    meaning: str
    advice: str  # which option to change
