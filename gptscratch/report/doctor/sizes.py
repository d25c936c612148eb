"""Rules about the sizes of the model, the corpus and the vocabulary."""

from __future__ import annotations

from gptscratch.report.doctor.finding import Finding
from gptscratch.report.record import RunReport
from gptscratch.units import count

LARGE = 10  # parameters in blocks, for each training token
SMALL = 1 / 50
LEAST_OCCURRENCES = 100  # of an entry of the vocabulary in the training text, on average
SAME = 0.03  # of the loss: training and validation loss that differ by less are the same
MANY_EPOCHS = 4.0


def model_too_large(run: RunReport) -> Finding | None:
    tokens, parameters = _train_tokens(run), run.described.model.non_embedding_parameters
    if not tokens or parameters < LARGE * tokens:
        return None
    return Finding(
        name="Model too large for the corpus",
        evidence=f"The blocks have {count(parameters)} parameters for {count(tokens)} training tokens: "
        f"{parameters / tokens:.0f} for each.",
        meaning="It can memorize the whole text, and each step takes longer than necessary.",
        advice="Leave out --layers and --d-model: the plan chooses a size for the corpus. Or use more text.",
    )


def model_too_small(run: RunReport) -> Finding | None:
    tokens, parameters = _train_tokens(run), run.described.model.non_embedding_parameters
    epochs = run.described.summary.tokens / tokens if tokens else 0.0
    train, val = run.training["train_loss"][-5:], run.validation["val_loss"][-1:]
    if not tokens or parameters > SMALL * tokens or epochs < MANY_EPOCHS or not (train and val):
        return None
    mean = sum(loss or 0.0 for loss in train) / len(train)
    if (val[0] or 0.0) > (1 + SAME) * mean:
        return None
    return Finding(
        name="Model too small for the corpus",
        evidence=f"The blocks have {count(parameters)} parameters for {count(tokens)} training tokens. After "
        f"{epochs:.1f} epochs the training loss ({mean:.4f}) was not much below the validation loss "
        f"({val[0]:.4f}).",
        meaning="The model cannot hold more of what this text has to teach.",
        advice="Use more --layers or a larger --d-model, or leave both to the plan.",
    )


def vocabulary_too_large(run: RunReport) -> Finding | None:
    tokens, entries = _train_tokens(run), run.described.model.config.vocab_size
    if not tokens or entries < 512 or tokens > LEAST_OCCURRENCES * entries:
        return None
    better = max(256, 1 << (int(tokens / (2 * LEAST_OCCURRENCES)).bit_length() - 1))
    return Finding(
        name="Vocabulary too large for the corpus",
        evidence=f"{entries:,} entries share {count(tokens)} training tokens: each occurs "
        f"{tokens / entries:.0f} times on average, and most of them much less often.",
        meaning="The embeddings of rare entries are hardly trained.",
        advice=f"Use --vocab-size {better} or --tokenizer char, and compare bits per byte.",
    )


def _train_tokens(run: RunReport) -> int:
    tokens = (run.described.config.get("split") or {}).get("train_tokens")
    return tokens if isinstance(tokens, int) else 0
