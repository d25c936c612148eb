"""What the sweeps say: speed to expect, shapes, batches, rates and regularisation.

Plain numbers and pure functions; docs/decisions/planner.md tells where they come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gptscratch import sizing
from gptscratch.config import ModelConfig


@dataclass(frozen=True)
class Facts:
    """What the plan is made from."""

    train_tokens: int
    train_bytes: int
    val_tokens: int
    vocab_size: int
    device: str  # cpu, cuda, mps
    dtype: str  # of the matrix products
    flops_per_second: float  # of large matrix products in that type
    peak_bytes: int = 0  # of memory, that preparing the corpus took
    val_bytes: int = 0
    memory_bytes: int = 0  # free on that device, before a model is made; 0: nobody knows
    start_up_seconds: float = 3.0  # of the user's time, until training begins
    tokens_per_row: Callable[[int], float] = float  # of a context's length; fewer where rows are padded
    can_compile: bool = False  # whether torch.compile has what it needs on that device
    speed: float = 1.0  # of training, measured, as a multiple of what is expected from that


def tokens_per_second(model: ModelConfig, facts: Facts) -> float:
    """Training speed to expect: narrow models reach only a part of the rate of large products."""
    half = HALF_RATE_WIDTH[facts.device, facts.dtype == "float32"]
    share = facts.speed * 0.8 * model.d_model / (model.d_model + half)
    return share * facts.flops_per_second / sizing.training_flops_per_token(model)


# The width at which training reaches half of what it reaches at best, by device and whether in float32.
HALF_RATE_WIDTH: Mapping[tuple[str, bool], int] = MappingProxyType(
    {
        ("cpu", True): 60,
        ("cpu", False): 250,
        ("cuda", True): 1000,
        ("cuda", False): 2000,
        ("mps", True): 500,
        ("mps", False): 500,
    }
)

# Layers, width and context of what is chosen from; from 640 on the width is 64 per layer, as in GPT-3.
SHAPES = (
    (2, 64, 64), (3, 96, 64), (3, 128, 128), (4, 128, 128), (4, 192, 256), (4, 256, 256), (6, 256, 256),
    (6, 384, 256), (8, 512, 512), (10, 640, 512), (12, 768, 1024), (14, 896, 1024), (16, 1024, 1024),
    (18, 1152, 1024), (20, 1280, 1024), (24, 1536, 2048), (32, 2048, 2048),
)  # fmt: skip


def tokens_per_parameter(parameters: int) -> float:
    """How many tokens each block parameter must see for a larger model to end better than a smaller one.

    1.4 up to 5 million parameters (measured), 20 from 100 million on (Hoffmann et al. 2022, "Training
    Compute-Optimal Large Language Models"); in between a straight line of the logarithms, which is a guess.
    """
    share = math.log(max(1, parameters) / 5e6) / math.log(100e6 / 5e6)
    return float(1.4 * (20 / 1.4) ** min(1.0, max(0.0, share)))


def batch_tokens(tokens: float, width: int, device: str) -> float:
    """Tokens of a step, for so many in the run.

    On a CPU a 500th of them, between 8 and 16 per channel: so it was measured, for runs of minutes. Elsewhere
    0.58 D^0.571, the optimum that Li et al. 2025 fitted ("Predictable Scale: Part I, Step Law"; from 2 to
    100 thousand million tokens, but 1.5 million give 1,950, near to what was measured). At least 16 per
    channel: with fewer, the optimizer's own work counts.
    """
    if device == "cpu":
        return min(max(tokens / 500, 8 * width), 16 * width, 8192)
    return float(max(0.58 * tokens**0.571, 16 * width))


def batch_rate_factor(batch: float, planned: float) -> float:
    """By how much the learning rates change where the user gives another batch than would be planned.

    The square root of the ratio (Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient
    Algorithms"), beyond a factor of four in the batch: nearer to it the rates hold.
    """
    ratio = batch / planned
    beyond = ratio / 4 if ratio > 4 else min(1.0, 4 * ratio)
    return float(min(4.0, max(0.25, beyond**0.5)))


VERY_SMALL_BYTES = 50_000  # a model sees too little in them for sentences
SMALL_CHARACTERS = 4_000_000  # a corpus below is read as characters, if byte pairs would be seen
FEW_TOKENS = 100_000  # to train on: learnt by heart so soon that dropout helps from the fifth epoch on
BPE_EPOCHS = 8  # more often than this


def heads(width: int) -> int:
    """As many heads as make one 64 wide (32 in a narrow model), or near to it; their width is even."""
    wanted = 32 if width <= 128 else 64
    return min(
        (n for n in range(1, width + 1) if width % n == 0 and width // n % 2 == 0),
        key=lambda n: (abs(math.log(width / n / wanted)), n),
        default=1,
    )


def compiling_pays(facts: Facts, documents: str, seconds: float) -> bool:
    """Whether torch.compile is chosen: it takes about a minute, and on a GPU joins the many small operations.

    Not for padded documents, where nearly every micro-batch has another length.
    """
    return facts.can_compile and facts.device == "cuda" and documents != "padded" and seconds >= 180


def rates(optimizer: str, width: int, steps: int) -> dict[str, float]:
    """Peak rates and momentum, as settings."""
    if optimizer == "adamw":
        return {"train.learning_rate": min(3e-3, 3e-3 * (128 / width) ** 0.5)}
    return {
        "train.learning_rate": 0.03,
        "train.adamw_learning_rate": min(0.02, max(0.002, 0.02 * 128 / width)),
        "train.momentum": 0.9 if steps < 500 else 0.95,
    }


def useful_epochs(train_tokens: int) -> float:
    """After how many epochs a run has learnt its corpus by heart: the smaller, the sooner."""
    return float(12.0 * max(1.0, train_tokens / 50_000) ** 0.4)


def regularisation(epochs: float, train_tokens: int) -> dict[str, float]:
    """Against learning the text by heart: the more often it is seen, the more."""
    few = train_tokens < FEW_TOKENS
    dropout = 0.2 if epochs >= (5 if few else 25) else 0.1 if epochs >= 10 else 0.0
    return {"model.dropout": dropout}


def weight_decay(rate: float, steps: int) -> float:
    """0.1, or less in a long run, whose parameters are averages of the updates of 1 / (rate x decay) steps.

    These must be a share of the run, here at least a fifth (Wang & Aitchison 2024, "How to set AdamW's weight
    decay as you scale model and dataset size"); the runs of minutes that 0.1 comes from have that.
    """
    return min(0.1, 5 / (max(rate, 1e-9) * max(1, steps)))
