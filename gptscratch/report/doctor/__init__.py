"""A diagnosis of a run in plain words: rules over its curves, sizes and texts.

A rule is a function from a run to a finding, or None. docs/doctor.md has a measured example of each.
"""

from __future__ import annotations

from collections.abc import Callable

from gptscratch.report.copies import Copies
from gptscratch.report.doctor import curves, sizes, texts
from gptscratch.report.doctor.finding import Finding
from gptscratch.report.record import RunReport

__all__ = ["CURVE_RULES", "Finding", "diagnose"]

# In the order in which findings are shown: what hurts most comes first.
CURVE_RULES: tuple[Callable[[RunReport], Finding | None], ...] = (
    curves.learning_rate_too_high,
    curves.overfitting,
    curves.uneven_speed,
)
_OTHER_RULES: tuple[Callable[[RunReport], Finding | None], ...] = (
    curves.learning_rate_too_low,
    curves.too_short,
    curves.slower_than_planned,
    sizes.steps_too_small,
    texts.repeated_samples,
)
# Not for a run that started from another one, whose sizes it keeps.
_SIZE_RULES: tuple[Callable[[RunReport], Finding | None], ...] = (
    sizes.model_too_large,
    sizes.model_too_small,
    sizes.vocabulary_too_large,
)
_TEXT_RULES: tuple[Callable[[Copies], Finding | None], ...] = (
    texts.duplicated_text,
    texts.leaked_text,
    texts.copied_text,
)


def diagnose(run: RunReport, copies: Copies | str | None = None) -> list[Finding]:
    """Every finding about a run.

    Args:
        copies: texts of the best checkpoint, for the rules about texts; else those are left out.
    """
    size_rules = () if run.init_from else _SIZE_RULES
    found = [rule(run) for rule in (*CURVE_RULES, *_OTHER_RULES, *size_rules)]
    if isinstance(copies, Copies):
        found += [rule(copies) for rule in _TEXT_RULES]
    return [finding for finding in found if finding is not None]
