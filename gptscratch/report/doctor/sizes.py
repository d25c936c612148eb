"""Rules about the sizes of the model, the corpus and the vocabulary."""

from __future__ import annotations

from statistics import median

from gptscratch.report.doctor.finding import Finding
from gptscratch.report.record import RunReport
from gptscratch.training.planning.heuristics import usual_share
from gptscratch.units import count

LARGE = 10  # parameters in blocks, for each training token
SMALL = 1 / 50
LEAST_ENTRIES = 512  # of a vocabulary that the rule looks at, and of one that it proposes
LEAST_OCCURRENCES = 100  # of an entry of the vocabulary in the training text, on average
SAME = 0.03  # of the loss: training and validation loss that differ by less are the same
MANY_EPOCHS = 4.0
FEW_TOKENS = 4  # in a step, for each channel of d_model: the planner chooses at least 8
LOW_SHARE = 0.5  # of what models of this width usually reach


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
    if not tokens or entries < LEAST_ENTRIES or tokens > LEAST_OCCURRENCES * entries:
        return None
    better = 1 << (int(tokens / (2 * LEAST_OCCURRENCES)).bit_length() - 1)
    smaller = f"--vocab-size {better} or " if LEAST_ENTRIES <= better < entries else ""
    return Finding(
        name="Vocabulary too large for the corpus",
        evidence=f"{entries:,} entries share {count(tokens)} training tokens: each occurs "
        f"{tokens / entries:.0f} times on average, and most of them much less often.",
        meaning="The embeddings of rare entries are hardly trained.",
        advice=f"Use {smaller}--tokenizer char, and compare bits per byte.",
    )


def steps_too_small(run: RunReport) -> Finding | None:
    model, train, plan = run.described.model, run.described.config["train"], run.described.plan
    speeds = [speed for speed in run.training["tokens_per_second"] if speed]
    peak, width = plan.get("flops_per_second"), model.config.d_model
    tokens = (train.get("batch_size") or 0) * model.config.context_length
    if not (speeds and isinstance(peak, float) and peak > 0 and plan.get("device") == "cpu"):
        return None
    if not 0 < tokens < FEW_TOKENS * width:
        return None
    share = median(speeds) * model.training_flops_per_token / peak
    usual = usual_share(width, "cpu", train["dtype"])
    if share > LOW_SHARE * usual:
        return None
    return Finding(
        name="Steps too small for this machine",
        evidence=f"Training reached {share:.1%} of the rate of large matrix products, which is "
        f"{peak / 1e9:.0f} GFLOP/s here; models of d_model {width} usually reach {usual:.0%}. A step has "
        f"{tokens:,} tokens.",
        meaning="Most of the time goes into the updates of the optimizer and into starting small operations.",
        advice=f"Use a larger batch, such as --batch-size {8 * width // model.config.context_length}, "
        "or leave it to the plan.",
    )


def _train_tokens(run: RunReport) -> int:
    tokens = (run.described.config.get("split") or {}).get("train_tokens")
    return tokens if isinstance(tokens, int) else 0
