"""Rules about texts: what the corpus repeats, and what the model copies."""

from __future__ import annotations

from gptscratch.report.copies import N_TOKENS, Copies
from gptscratch.report.doctor.finding import Finding

DUPLICATED = 0.4  # of a validation text: as one span in the training text
COPIED = 0.4  # of a generated text: the same
TIMES_NATURAL = 3  # the copied span in relation to that of validation text


def duplicated_text(copies: Copies) -> Finding | None:
    if copies.natural is None or copies.natural < DUPLICATED * N_TOKENS:
        return None
    return Finding(
        name="Duplicated text",
        evidence=f"In {N_TOKENS} tokens of validation text, typically {copies.natural} in a row are also in "
        "the training text.",
        meaning="The corpus contains the same text several times, so the validation loss is too low: it "
        "measures what the model has seen.",
        advice="Train again with --clean dedup, or --clean neardup for texts that differ a little.",
    )


def copied_text(copies: Copies) -> Finding | None:
    natural = copies.natural or 0
    spans = [span for _, span in copies.texts if span.of_tokens]
    worst = max(spans, key=lambda span: span.tokens / span.of_tokens, default=None)
    if worst is None or worst.tokens < max(COPIED * worst.of_tokens, TIMES_NATURAL * natural):
        return None
    return Finding(
        name="Copies of the training text",
        evidence=f"{worst.tokens} of {worst.of_tokens} generated tokens are one span of the training text; "
        f"in validation text of the same length this span has {natural}.",
        meaning="The model recites what it memorized.",
        advice="Train on more text or for fewer epochs. sample --no-copy-ngram 12 prevents long copies.",
    )
