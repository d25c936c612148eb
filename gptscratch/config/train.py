"""Training: its length, its optimizer, its intervals, its hardware."""

from __future__ import annotations

from dataclasses import dataclass

from gptscratch.config.setting import (
    ADVANCED,
    DATA,
    FINE_TUNING,
    HARDWARE,
    LENGTH,
    OPTIMIZATION,
    RUN,
    check_settings,
    planned,
    setting,
)  # fmt: skip
from gptscratch.errors import require

OPTIMIZERS = ("muon", "adamw")
SCHEDULES = ("constant", "cosine", "linear", "wsd", "onecycle")
DOCUMENTS = ("packed", "masked", "padded")
DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")
ON_DIVERGENCE = ("rollback", "stop")
UNITS = ("steps", "epochs", "tokens", "minutes")  # of the training length: one of them is given
LENGTHS = frozenset(f"train.{name}" for name in (*UNITS, "max_steps"))
PARALLEL = ("replicated", "fsdp")
DTYPES = ("auto", "float32", "bfloat16", "float16")
_SHARE = {"at_least": 0, "at_most": 1}
_BETA = {"at_least": 0, "below": 1}
LORA_TARGETS = ("q", "k", "v", "out", "up", "gate", "down")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how fast and where."""

    steps: int | None = setting(None, LENGTH, "Train for N optimizer steps.", at_least=1)
    epochs: float | None = setting(None, LENGTH, "Train for X passes over the training text.", above=0)
    tokens: int | None = setting(None, LENGTH, "Train on N tokens in total.", at_least=1)
    minutes: float | None = setting(
        None,
        LENGTH,
        "Time limit for the whole command, in minutes; with --resume for the whole run.",
        above=0,
        default_is="5",
    )
    max_steps: int | None = planned(
        None, None, "With --minutes: the most optimizer steps in that time.", at_least=1
    )
    batch_size: int = planned(16, OPTIMIZATION, "Sequences per optimizer step.", at_least=1)
    micro_batch_size: int = planned(
        16, ADVANCED, "Sequences per forward pass (gradient accumulation).", at_least=1
    )
    documents: str = setting(
        "packed", DATA, "Documents in a sequence: packed (one after the other), masked (none attends to "
        "another) or padded (one in each).", metavar="MODE", choices=DOCUMENTS,
    )  # fmt: skip
    optimizer: str = setting("muon", OPTIMIZATION, "Optimizer.", choices=OPTIMIZERS)
    learning_rate: float = planned(
        0.03, OPTIMIZATION, "Peak learning rate; with muon, of the matrices in the blocks.", at_least=0
    )
    adamw_learning_rate: float = planned(
        0.02, None, "With muon: peak learning rate of all parameters but the blocks' matrices.", at_least=0
    )
    weight_decay: float = planned(0.1, OPTIMIZATION, "Decoupled weight decay on matrices.", at_least=0)
    r_drop: float = planned(
        0.0, OPTIMIZATION, "R-Drop: weight of the divergence between the predictions under two dropout "
        "masks; 0 is off. With it, a step takes up to twice as long.", at_least=0,
    )  # fmt: skip
    beta1: float = setting(0.9, None, "First beta of AdamW.", **_BETA)
    beta2: float = setting(0.95, None, "Second beta of AdamW.", **_BETA)
    momentum: float = planned(0.95, None, "Momentum of Muon.", **_BETA)
    grad_clip: float = setting(
        1.0, ADVANCED, "Clip the norm of the gradient to X; 0 disables this.", at_least=0
    )
    lr_schedule: str = setting(
        "wsd", OPTIMIZATION, "Learning-rate schedule (wsd: warmup-stable-decay).", choices=SCHEDULES
    )
    warmup_steps: int = planned(0, OPTIMIZATION, "Linear warm-up of the learning rate, in steps.", at_least=0)
    decay_fraction: float = setting(
        0.5, None, "With wsd: the last share of the run, in which the learning rate decays.", **_SHARE
    )
    final_fraction: float = setting(
        0.0, None, "Share of the peak learning rate that is left at the end of a decaying schedule.", **_SHARE
    )
    keep_file: str | None = setting(
        None,
        FINE_TUNING,
        "With --init-from: report the loss on this text, too: what the model forgets (on its held-out part).",
        metavar="FILE",
    )
    lora_rank: int | None = setting(
        None, FINE_TUNING, "With --init-from: train LoRA adapters of rank N and nothing else.", at_least=1
    )
    lora_alpha: float | None = setting(
        None, FINE_TUNING, "LoRA: factor alpha / rank of the adapters.", above=0, default_is="twice the rank"
    )
    lora_targets: tuple[str, ...] = setting(
        (), FINE_TUNING, "LoRA: layers that get an adapter, such as q,v.", metavar="NAMES",
        choices=LORA_TARGETS, default_is="all",
    )  # fmt: skip
    lora_dropout: float = setting(0.0, FINE_TUNING, "LoRA: dropout in the adapters.", **_BETA)
    log_interval: int = planned(10, None, "Steps between two lines of metrics.jsonl.", at_least=1)
    eval_interval: int = planned(100, RUN, "Evaluate every N steps.", at_least=1)
    save_interval: int = planned(
        100, RUN, "Save a checkpoint every N steps (and every ten minutes).", at_least=1
    )
    sample_interval: int | None = setting(
        None, RUN, "Show a sample text every N steps; 0 shows none.", at_least=0,
        default_is="with each evaluation",
    )  # fmt: skip
    eval_tokens: int = planned(
        10_000,
        None,
        "Tokens of the validation set, evenly spread, for an evaluation in training.",
        at_least=1,
    )
    final_eval_tokens: int = planned(
        50_000, None, "Tokens of the validation set for the evaluation at the end.", at_least=1
    )
    keep_checkpoints: int = setting(
        2, ADVANCED, "Number of recent checkpoints to keep, besides the best one.", at_least=1
    )
    patience: int | None = setting(
        None, RUN, "Stop early after N evaluations without improvement.", at_least=1, default_is="never"
    )
    on_divergence: str = setting(
        "rollback", RUN, "If the loss becomes infinite or NaN: rollback (to the best checkpoint, with a "
        "quarter of the learning rate) or stop.", choices=ON_DIVERGENCE,
    )  # fmt: skip
    seed: int = setting(1337, RUN, "Random seed.", at_least=0, below=2**63)
    device: str = setting("auto", HARDWARE, "Device for the computation.", choices=DEVICES)
    dtype: str = setting("auto", HARDWARE, "Number format of the matrix products.", choices=DTYPES)
    muon_dtype: str = setting(
        "auto", None, "Number format of the products of Muon's updates.", choices=DTYPES
    )
    muon_block_rows: int = setting(
        0, None, "Rows of a matrix that Muon orthogonalizes together; 0: whole matrices.", at_least=0
    )
    parallel: str = setting(
        "replicated", HARDWARE, "With torchrun: each process has the whole model (replicated) or a part "
        "of it (fsdp).", metavar="KIND", choices=PARALLEL,
    )  # fmt: skip
    compile: bool | None = planned(None, ADVANCED, "Compile the model with torch.compile.")

    @property
    def passes(self) -> int:
        """How often a step computes each of its sequences."""
        return 2 if self.r_drop else 1

    def __post_init__(self) -> None:
        check_settings(self)
        given = [name for name in UNITS if getattr(self, name) is not None]
        require(
            len(given) <= 1,
            f"More than one training length is given: {', '.join(given)}.",
            "Give one of --steps, --epochs, --tokens, --minutes.",
        )
        require(
            self.max_steps is None or self.minutes is not None,
            f"max_steps = {self.max_steps} limits a run by --minutes, and no minutes are given.",
            "Give --steps instead.",
        )
        require(
            self.lora_rank is None or self.parallel == "replicated",
            "--parallel fsdp cannot train LoRA adapters.",
            "Leave it out: adapters are small, so each process can have the whole model.",
        )
        idle = [name for name in ("lora_alpha", "lora_targets", "lora_dropout") if getattr(self, name)]
        require(
            self.lora_rank is not None or not idle,
            f"{', '.join(f'--{name}'.replace('_', '-') for name in idle)} has no effect without --lora-rank.",
            "Give --lora-rank too, for example 8.",
        )
