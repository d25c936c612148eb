"""Training: its horizon, its optimizer, its intervals, its machine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gptscratch.config.checks import require, require_choice, require_seed

OPTIMIZERS = ("muon", "adamw")
SCHEDULES = ("constant", "cosine", "linear", "wsd", "onecycle")
DOCUMENTS = ("packed", "masked", "padded")
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how fast and where. A zero is chosen by the plan."""

    steps: int = 0  # horizon: optimizer updates
    epochs: float = 0.0  # horizon: passes over the training tokens
    tokens: int = 0  # horizon: tokens seen
    minutes: float = 0.0  # horizon: wall-clock time of the whole command
    max_steps: int = 0  # with minutes: the most optimizer updates in that time; 0: as many as fit
    batch_size: int = 0  # sequences per step, over all micro-batches and ranks
    micro_batch_size: int = 0  # sequences per forward and backward pass
    documents: str = "packed"  # in a row: many; blind to one another: --mask-documents; one: --pad-documents
    optimizer: str = "muon"
    learning_rate: float = 0.0  # peak; of the blocks' matrices under muon, of everything under adamw
    adamw_learning_rate: float = 0.0  # peak of all else under muon: embeddings, lm_head, norms, biases
    weight_decay: float = -1.0  # decoupled, on matrices only; -1: chosen
    beta1: float = 0.9  # of AdamW
    beta2: float = 0.95  # of AdamW
    momentum: float = 0.95  # of Muon
    grad_clip: float = 1.0  # largest global gradient norm; 0: no clipping
    lr_schedule: str = "wsd"
    warmup_steps: int = -1  # steps of linear warm-up; -1: chosen
    decay_fraction: float = 0.5  # wsd: the share of the run, at its end, that decays
    final_fraction: float = 0.0  # of the peak rate, left at the end of a decaying schedule
    log_interval: int = 0  # steps between logged losses
    eval_interval: int = 0  # steps between evaluations
    save_interval: int = 0  # steps between checkpoints
    sample_interval: int = -1  # steps between sample texts; 0: none, -1: with each evaluation
    eval_tokens: int = 0  # of the validation split, evenly spread, in evaluations along the way; 0: chosen
    final_eval_tokens: int = 0  # of the same, in the evaluation of the best checkpoint at the end; 0: chosen
    keep_checkpoints: int = 2  # newest checkpoints kept, beside the best
    patience: int = 0  # evaluations without a better loss before stopping; 0: never
    seed: int = 1337
    device: str = "auto"
    dtype: str = "auto"
    compile: bool | None = None  # torch.compile; None: chosen

    def __post_init__(self) -> None:
        given = [name for name in ("steps", "epochs", "tokens", "minutes") if getattr(self, name)]
        require(
            len(given) <= 1,
            f"more than one horizon is given: {', '.join(given)}.",
            "Give one of --steps, --epochs, --tokens, --minutes.",
        )
        numbers = (
            "steps", "epochs", "tokens", "minutes", "max_steps", "batch_size", "micro_batch_size",
            "learning_rate", "adamw_learning_rate", "grad_clip", "log_interval", "eval_interval",
            "save_interval", "eval_tokens", "final_eval_tokens", "patience",
        )  # fmt: skip
        for name in numbers:
            value = getattr(self, name)
            require(math.isfinite(value), f"{name} is {value}: it must be a finite number.")
            require(value >= 0, f"{name} is {value}: it must not be negative.")
        for name in ("weight_decay", "warmup_steps", "sample_interval"):
            value = getattr(self, name)
            require(math.isfinite(value), f"{name} is {value}: it must be a finite number.")
            require(value == -1 or value >= 0, f"{name} is {value}: it must not be negative.")
        require(
            self.max_steps == 0 or self.minutes > 0,
            f"max_steps = {self.max_steps} limits a run by --minutes, and no minutes are given.",
            "Give --steps instead.",
        )
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"{name} is {value}: it must be in [0, 1).")
        for name in ("decay_fraction", "final_fraction"):
            value = getattr(self, name)
            require(0.0 <= value <= 1.0, f"{name} is {value}: it must be in [0, 1].")
        require_seed(self.seed)
        require(
            self.keep_checkpoints >= 1,
            f"keep_checkpoints is {self.keep_checkpoints}: at least one checkpoint must be kept.",
        )
        require_choice("documents", self.documents, DOCUMENTS)
        require_choice("optimizer", self.optimizer, OPTIMIZERS)
        require_choice("lr_schedule", self.lr_schedule, SCHEDULES)
        kind, _, index = self.device.partition(":")
        has_index = kind == "cuda" and index.isdecimal()
        require_choice("device", kind if has_index else self.device, DEVICES)
        require_choice("dtype", self.dtype, DTYPES)
