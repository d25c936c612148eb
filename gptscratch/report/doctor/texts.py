"""Rules about texts: what the corpus repeats, and what the model copies."""

from __future__ import annotations

from statistics import median

from gptscratch.report.copies import LONG, N_TOKENS, Copies
from gptscratch.report.doctor.finding import Finding
from gptscratch.report.record import RunReport
from gptscratch.units import plural

COPIED = 0.4  # of a generated text: the same
TIMES_NATURAL = 3  # the copied span in relation to that of validation text
SPAN = 20  # characters, which are seldom the same twice in a text
LEAKED = 0.05  # of the validation texts: in the training text
REPEATED = 0.1  # of the spans of a sample


def repeated_samples(run: RunReport) -> Finding | None:
    texts = [sample["text"] for sample in run.samples[-3:] if len(sample["text"]) >= 4 * SPAN]
    share = median(map(_repeated, texts)) if texts else 0.0
    if share < REPEATED:
        return None
    return Finding(
        name="Samples repeat themselves",
        evidence=f"In the last {plural(len(texts), 'sample')} of the training, typically {share:.0%} of the "
        f"spans of {SPAN} characters were in the same sample before.",
        meaning="The model continues its own text, or the corpus itself repeats its lines.",
        advice="If the corpus does that (logs, headers, tables), remove repeated lines before training. "
        "sample --no-repeat-ngram 8 or --repetition-penalty 1.1 prevents repeats.",
    )


def duplicated_text(copies: Copies) -> Finding | None:
    if copies.natural is None or copies.natural < LONG:
        return None
    return Finding(
        name="Duplicated text",
        evidence=f"In {N_TOKENS} tokens of validation text, typically {copies.natural} in a row are also in "
        "the training text.",
        meaning="The corpus contains the same text several times, so the validation loss is too low: it "
        "measures what the model has seen.",
        advice="Train again with --clean dedup, or --clean neardup for texts that differ a little.",
    )


def leaked_text(copies: Copies) -> Finding | None:
    if copies.leaked < LEAKED or duplicated_text(copies):
        return None
    return Finding(
        name="Validation text in the training text",
        evidence=f"{copies.leaked:.0%} of the passages of {N_TOKENS} tokens in the validation text have "
        f"{LONG} or more tokens in a row that are also in the training text; "
        f"typically the longest such span has {copies.natural}.",
        meaning="The validation loss is too low: a part of it measures what the model has seen.",
        advice="Remove these passages from one of the two texts; where they are whole documents "
        "of one corpus, --clean dedup does it.",
    )


def copied_text(copies: Copies) -> Finding | None:
    natural = copies.natural
    spans = [span for _, span in copies.texts if span.of_tokens]
    worst = max(spans, key=lambda span: span.tokens / span.of_tokens, default=None)
    if worst is None or worst.tokens < max(COPIED * worst.of_tokens, TIMES_NATURAL * (natural or 0)):
        return None
    usual = "" if natural is None else f"; in validation text of the same length this span has {natural}"
    return Finding(
        name="Copies of the training text",
        evidence=f"{worst.tokens} of {worst.of_tokens} generated tokens are one span of the training text"
        f"{usual}.",
        meaning="The model recites what it memorized.",
        advice="Train on more text or for fewer epochs. sample --no-copy-ngram 12 prevents long copies.",
    )


def _repeated(text: str) -> float:
    """The share of spans that are in the text before."""
    spans = [text[i : i + SPAN] for i in range(len(text) - SPAN + 1)]
    return 1 - len(set(spans)) / len(spans)
