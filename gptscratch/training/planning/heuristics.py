"""The planner's rules: expected speed, shapes, batches, rates, dropout and weight decay.

Plain numbers and pure functions, fitted to the sweeps in docs/decisions/planner.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gptscratch import sizing
from gptscratch.config import NARROWING, ModelConfig


@dataclass(frozen=True)
class Facts:
    """The facts from which the plan is made."""

    train_tokens: int
    train_bytes: int
    val_tokens: int
    vocab_size: int
    device: str  # cpu, cuda, mps
    dtype: str  # of the matrix products
    flops_per_second: float  # of large matrix products in that type, on one device
    least_tokens: int | None = None  # to train on, of any of several corpora with weights
    world_size: int = 1  # processes that train together, each with a device of its own
    muon_dtype: str = "auto"  # of the products of Muon's updates
    val_bytes: int = 0
    peak_bytes: int = 0  # of memory, while the corpus was prepared
    memory_bytes: int = 0  # free on that device, before a model is made; 0: not known
    start_up_seconds: float = 3.0  # of the user's time, until training begins
    tokens_per_row: Callable[[int], float] = float  # by context length; fewer where rows are padded
    can_compile: bool = False  # whether torch.compile has what it needs on that device
    fine_tunes: bool = False  # the run starts from weights that are trained already
    speed: float = 1.0  # of training, measured, as a multiple of what is expected from that
    evaluation_cost: float = 0.67  # of a token, as a multiple of training on it


def tokens_per_second(model: ModelConfig, facts: Facts) -> float:
    """Expected training speed, of all processes together."""
    share = facts.speed * usual_share(model.d_model, facts.device, facts.dtype)
    return facts.world_size * share * facts.flops_per_second / sizing.training_flops_per_token(model)


def usual_share(d_model: int, device: str, dtype: str) -> float:
    """The share of the rate of large matrix products that training reaches: narrow models reach less."""
    return 0.8 * d_model / (d_model + HALF_RATE_WIDTH[device][dtype != "float32"])


# The d_model at which training reaches half of its best speed, in float32 and in half precision.
HALF_RATE_WIDTH = {"cpu": (60, 250), "cuda": (1000, 2000), "mps": (500, 500)}


def shapes() -> Iterator[tuple[int, int, int]]:
    """Candidates without end, each larger than the one before: n_layer, d_model and context_length.

    d_model is 64 times n_layer, as in GPT-2 and nanochat, or up to 64 less: between about 30 and 100 the
    ratio hardly matters (Kaplan et al. 2020, "Scaling Laws for Neural Language Models", figure 5). In a
    context of the next power of two from d_model on, attention adds a sixth to a third to the blocks' FLOPs.
    """
    for n_layer in itertools.count(2):
        for d_model in range(64 * (n_layer - 1), 64 * n_layer + 1, 32 if n_layer == 2 else 64):
            yield n_layer, d_model, usual_context(d_model)


def usual_context(d_model: int) -> int:
    """The next power of two from d_model on."""
    return 1 << (d_model - 1).bit_length()


def fine_tuning_context(model: ModelConfig) -> int:
    """The context of a new model of this width, but at least 1,024 tokens where the trained model has them:
    published models have contexts in which a text for fine-tuning gives few sequences, or not a single one.
    """
    return min(model.context_length, max(1024, usual_context(model.d_model)))


def tokens_per_parameter(parameters: int) -> float:
    """How many tokens each block parameter must see for a larger model to end better than a smaller one.

    1.4 up to 5 million parameters (measured), then more with their square root: 11 for 300 million (nanochat
    has 12 for blocks and lm_head, with Muon), and 20 from a thousand million on (Hoffmann et al. 2022,
    "Training Compute-Optimal Large Language Models"; confirmed by Besiroglu et al. 2024, Porian et al. 2024).
    """
    return float(min(20.0, 1.4 * max(1.0, parameters / 5e6) ** 0.5))


def most_parameters(train_tokens: int) -> float:
    """How many block parameters a text is enough for, however long the run: 10 for each of its tokens.

    All epochs together are worth at most 16.4 epochs of new text (Muennighoff et al. 2023, "Scaling
    Data-Constrained Language Models", equation 5), and 1.4 tokens are enough for a parameter. A model of
    4 x 128 was better than smaller ones on any text, with the decay of ``weight_decay``.
    """
    return max(800_000, 10 * train_tokens)


STEP_TOKENS = 16  # of a step, times d_model, where the number of steps is given: the cost is proportional


def batch_tokens(tokens: float, d_model: int) -> float:
    """Tokens of a step, for a run of that many: 0.58 tokens^0.571, and at least 8 d_model.

    Li et al. 2025, "Predictable Scale: Part I, Step Law", fitted this to runs of 2 to 100 thousand million
    tokens; 1.5 million give 1,950, near to what was measured. With fewer than 8 d_model, products are small
    and the update counts: one of Muon costs as much as training on about 4 d_model.
    """
    return float(max(0.58 * tokens**0.571, 8 * d_model))


def batch_rate_factor(batch: float, planned: float) -> float:
    """The factor of the learning rates for another batch size than the rule gives for the run's tokens.

    The square root of the ratio beyond a factor of four in the batch (Malladi et al. 2022, "On the SDEs and
    Scaling Rules for Adaptive Gradient Algorithms").
    """
    ratio = batch / planned
    beyond = max(1.0, ratio / 4) * min(1.0, 4 * ratio)
    return float(min(2.0, max(0.5, beyond**0.5)))


def model_with(given: Mapping[str, Any], n_layer: int, d_model: int, context_length: int) -> ModelConfig:
    """A model with the given settings, and with these sizes where none are given.

    Where neither d_model nor n_head is given, d_model is rounded up to a width that the given key-value heads
    divide and that is enough for the parts of an adaptive softmax.
    """
    kv_heads = given.get("n_kv_head") or 1
    if not given.keys() & {"d_model", "n_head"}:
        least = max(d_model, NARROWING ** len(given.get("adaptive_cutoffs", ())))
        d_model = -(-least // (2 * kv_heads)) * 2 * kv_heads
    sizes = {"n_layer": n_layer, "d_model": d_model, "n_head": heads(d_model, kv_heads)}
    return ModelConfig(**{**sizes, "context_length": context_length, **given})


def heads(d_model: int, multiple_of: int = 1) -> int:
    """The number of heads with which head_dim is close to 64 (32 in a narrow model) and even.

    ``multiple_of``: the number of key-value heads; returned where no multiple of it is possible.
    """
    wanted = 32 if d_model <= 128 else 64
    widths = (width for width in range(2, 2049, 2) if d_model % (width * multiple_of) == 0)
    head_dim = min(widths, key=lambda width: (abs(math.log(width / wanted)), -width), default=None)
    return d_model // head_dim if head_dim else multiple_of


COMPILE_SECONDS = {"cpu": 20.0, "cuda": 60.0, "mps": 60.0}  # measured on a CPU only


def compiling_pays(facts: Facts, documents: str, seconds: float) -> bool:
    """Whether torch.compile is chosen, which joins the many small operations on a GPU.

    Not for padded documents, where nearly every micro-batch has another length.
    """
    long = seconds >= 3 * COMPILE_SECONDS[facts.device]
    return facts.can_compile and facts.device == "cuda" and documents != "padded" and long


def rates(optimizer: str, d_model: int, steps: int, factor: float = 1.0) -> dict[str, float]:
    """Peak learning rates, times ``factor``, and Muon's momentum."""
    if optimizer == "adamw":
        return {"learning_rate": factor * min(3e-3, 3e-3 * (128 / d_model) ** 0.5)}
    return {
        "learning_rate": factor * 0.03,
        "adamw_learning_rate": factor * min(0.02, 0.02 * 128 / d_model),
        "momentum": 0.9 if steps < 800 else 0.95,
    }


def warmup_steps(steps: int, *, fine_tunes: bool) -> int:
    """A twentieth of a short run, 100 steps, a hundredth of a long one; a tenth for trained weights."""
    return min(steps // (10 if fine_tunes else 20), max(100, steps // 100))


def fine_tuning_rates(rates: Mapping[str, float], optimizer: str, *, adapters: bool) -> dict[str, float]:
    """Peak learning rates for weights that are trained already: lower, so that less is forgotten.

    Adapters start at 0 and need higher ones of AdamW than the weights themselves.
    """
    factor = LORA_RATE if adapters and optimizer == "adamw" else FINE_TUNING_RATE
    return {
        name: value * factor if name.endswith("learning_rate") else value for name, value in rates.items()
    }


FINE_TUNING_RATE, LORA_RATE = 0.3, 3.0  # multiples of the rates for new weights


def useful_epochs(train_tokens: int, *, r_drop: bool = False) -> float:
    """After how many epochs a run only memorizes its corpus: 20 up to 180,000 tokens.

    Measured at 20 kB, where 40 are better for some texts and worse for others, and up to a million tokens,
    whose 40 are the end in general (Muennighoff et al. 2023, section 5). With R-Drop, 1.5 times as many are
    useful below 100,000 tokens; at 180,000 these were too many.
    """
    if r_drop and train_tokens < 100_000:
        return 30.0
    return float(min(40.0, max(20.0, 12.0 * (train_tokens / 50_000) ** 0.4)))


def dropout(epochs: float, train_tokens: int) -> float:
    """More the more often the text is seen; a corpus below 100,000 tokens is memorized sooner."""
    many = 5 if train_tokens < 100_000 else 25
    return 0.2 if epochs >= many else 0.1 if epochs >= 10 else 0.0


def r_drop(epochs: float, train_tokens: int) -> float:
    """The weight of Wu et al. 2021, where half as many epochs, with two dropout masks for each sequence, give
    a lower loss. Measured from 20 kB to 1.1 MB of characters.
    """
    return 1.0 if epochs >= 12 and train_tokens < 2_000_000 else 0.0


LEAST_AVERAGED = 16  # steps: with 8 the model of a very small text learned less


def weight_decay(learning_rate: float, steps: int, epochs: float, train_tokens: int) -> float:
    """Parameters are averages of the updates of 1 / (rate x decay) steps (Wang & Aitchison 2024, "How to set
    AdamW's weight decay as you scale model and dataset size").

    In a long run these are a fifth of it at least, in one of minutes those of a decay of 0.1, and where a
    small text repeats a step for each 1,000 of its tokens, but no less than one epoch (measured at 20 kB).
    """
    per_step = 1 / max(1e-5, learning_rate)
    small_text = max(LEAST_AVERAGED, train_tokens / 1000, steps / max(epochs, 1e-9))
    return max(min(0.1, 5 * per_step / max(1, steps)), per_step / small_text)


EVALUATIONS = 10  # along a run; in more than 10,000 steps one every 1,000
EVALUATION_SHARE = 0.015  # of the run's work, for those along it, and once more for the one at its end
LEAST_FINAL_TOKENS = 50_000  # evaluated at the end, however short the time
ALL_FINAL_TOKENS = 250_000  # the same where no time is given


def evaluations(
    steps: int, tokens: int, model: ModelConfig, facts: Facts, *, by_time: bool
) -> dict[str, int]:
    """How often the run logs and evaluates, and on how many tokens.

    Evaluating a token costs about two thirds of training on it: a third of the work, but in float32.
    """
    # This depends on the steps alone: two runs of one plan are equal.
    count = min(max(EVALUATIONS, steps / 1000), max(2, steps / 25))
    interval = _round_number(steps / count)
    share = 1.5 * EVALUATION_SHARE * tokens
    each = max(share * interval / steps, 4 * model.context_length)
    final = max(share, LEAST_FINAL_TOKENS if by_time else ALL_FINAL_TOKENS)
    return {
        "log_interval": _round_number(min(100, steps / 200)),
        "eval_interval": interval,
        "eval_tokens": min(int(each), facts.val_tokens),
        "final_eval_tokens": min(int(final), facts.val_tokens),
    }


def _round_number(value: float) -> int:
    """The nearest of 1, 2, 5, 10, 20, 50 ... by its ratio."""
    value = max(1.0, value)
    power = 10 ** math.floor(math.log10(value))
    return int(min((n * power for n in (1, 2, 5, 10)), key=lambda n: abs(math.log(n / value))))
