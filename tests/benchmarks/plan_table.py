"""The planner's choices for many corpora, times and machines, next to published laws and recipes.

    python tests/benchmarks/plan_table.py
    python tests/benchmarks/plan_table.py --machine "8 x H200" T4 --corpus 2GB --minutes 60

Nothing is measured: the machines are the stored facts below. Their rates are those of large matrix products,
as ``matmul_rate`` measures them; measured for the CPUs of one and two cores (AVX2 by emulation), typical
values for the others. The text is English, in one file, whose tokens are ready.

The columns from "N, Besiroglu" on are published figures: for 6 x blocks x tokens FLOPs the best number of
parameters by Besiroglu et al. 2024 (a fit to the data of Hoffmann et al. 2022) and by nanochat's 12 tokens
per parameter; for the same number of tokens the batch by Li et al. 2025 (Step Law) and by nanochat; and for
AdamW alone the learning rate of our plan and by Step Law.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from typing import Any

from gptscratch import sizing
from gptscratch.config import DataConfig, qualified
from gptscratch.config.presets import PRESETS, preset_settings
from gptscratch.tokenizer import choose_tokenizer
from gptscratch.training.planning.heuristics import Facts
from gptscratch.training.planning.planner import Plan, make_plan

MACHINES: dict[str, tuple[str, str, float, int, int]] = {
    "1 core, AVX2": ("cpu", "float32", 5e10, 6, 1),
    "2 cores, AVX-512": ("cpu", "bfloat16", 4.4e11, 12, 1),
    "16 cores, AVX-512": ("cpu", "bfloat16", 3e12, 48, 1),
    "M2": ("mps", "float32", 3e12, 10, 1),
    "T4": ("cuda", "float16", 2.5e13, 14, 1),
    "RTX 4090": ("cuda", "bfloat16", 1.5e14, 23, 1),
    "H200": ("cuda", "bfloat16", 7e14, 139, 1),
    "8 x H200": ("cuda", "bfloat16", 7e14, 139, 8),
}  # device, type and FLOP/s of matrix products, free GiB, processes
CORPORA = {"20kB": 2e4, "200kB": 2e5, "2MB": 2e6, "20MB": 2e7, "2GB": 2e9, "200GB": 2e11}  # bytes
MINUTES = (1, 10, 60, 8 * 60, 48 * 60)
MOST_VALIDATION = 2e7  # bytes


def planned(machine: str, corpus: str, **settings: Any) -> tuple[Plan, Facts]:
    """The plan, and the facts from which it is made."""
    n_bytes = CORPORA[corpus]
    kind, size = choose_tokenizer(int(n_bytes), 100)
    vocab_size = size or 102
    token_bytes = 1.0 if kind == "char" else 0.4 * (math.log2(vocab_size) - 4)  # of English text, about
    val = min(0.1 * n_bytes, MOST_VALIDATION)
    device, dtype, rate, gigabytes, world_size = MACHINES[machine]
    facts = Facts(
        device=device, dtype=dtype, flops_per_second=rate, memory_bytes=gigabytes << 30,
        can_compile=device == "cuda", world_size=world_size,
        train_bytes=int(n_bytes - val), train_tokens=int((n_bytes - val) / token_bytes),
        val_bytes=int(val), val_tokens=int(val / token_bytes), vocab_size=vocab_size,
    )  # fmt: skip
    return make_plan(qualified(settings), DataConfig(corpus=("text.txt",)), facts), facts


def blocks(plan: Plan) -> int:
    return sizing.count_parameters(plan.config.model).non_embedding


def optimal_parameters(compute: float) -> float:
    """N that minimizes 482 / N^0.348 + 2085 / D^0.366 where 6 N D = C (Besiroglu et al. 2024)."""
    alpha, beta = 0.3478, 0.3658
    ratio = (alpha * 482.01) / (beta * 2085.43)
    return float(ratio ** (1 / (alpha + beta)) * (compute / 6) ** (beta / (alpha + beta)))


def nanochat_batch(tokens: float) -> float:
    """524,288 tokens for the 1.3 thousand million of its smallest model, growing with D^0.383."""
    return float(2**19 * (tokens / 1.3e9) ** 0.383)


def step_law_rate(parameters: float, tokens: float) -> float:
    """The peak learning rate of AdamW by Li et al. 2025."""
    return float(1.79 * parameters**-0.713 * tokens**0.307)


HEAD = (
    "corpus", "minutes", "vocabulary", "shape", "blocks", "tokens", "per parameter", "epochs", "batch",
    "steps", "Muon", "AdamW", "decay", "dropout", "memory", "FLOPs", "N, Besiroglu", "N, nanochat",
    "batch, Step Law", "batch, nanochat", "AdamW alone", "Step Law",
)  # fmt: skip


def row(machine: str, corpus: str, minutes: float, preset: str | None) -> Iterator[str]:
    settings = {"minutes": minutes, **(preset_settings(preset) if preset else {})}
    plan, facts = planned(machine, corpus, **settings)
    adamw, _ = planned(machine, corpus, **settings, optimizer="adamw")
    model, train, size = plan.config.model, plan.config.train, blocks(plan)
    compute = 6.0 * size * plan.tokens
    yield from (corpus, f"{minutes:g}", f"{facts.vocab_size:,}")
    yield f"{model.n_layer}x{model.d_model} c{model.context_length}"
    yield from (short(size), short(plan.tokens), f"{plan.tokens / size:.1f}", f"{plan.epochs:.2g}")
    yield from (short(plan.tokens_per_step), f"{plan.steps:,}", f"{train.learning_rate:.3g}")
    yield from (f"{train.adamw_learning_rate:.2g}", f"{train.weight_decay:.2g}", f"{model.dropout:g}")
    yield from (short(plan.memory_bytes), f"{compute:.0e}")
    yield from (short(optimal_parameters(compute)), short(math.sqrt(compute / 6 / 12)))
    yield from (short(0.58 * plan.tokens**0.571), short(nanochat_batch(plan.tokens)))
    yield from (
        f"{adamw.config.train.learning_rate:.2g}",
        f"{step_law_rate(blocks(adamw), adamw.tokens):.2g}",
    )


def short(number: float) -> str:
    power = min(4, max(0, int(math.log10(max(1.0, number)) / 3)))
    return f"{number / 1000**power:.3g}{' kMGT'[power].strip()}"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("|", " | ".join(head), "|")
    print("|", " | ".join("---:" for _ in head), "|")
    for cells in rows:
        print("|", " | ".join(cells), "|")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machine", nargs="+", choices=MACHINES, default=list(MACHINES))
    parser.add_argument("--corpus", nargs="+", choices=CORPORA, default=list(CORPORA))
    parser.add_argument("--minutes", nargs="+", type=float, default=list(MINUTES))
    parser.add_argument("--preset", choices=PRESETS, help="the shape of the model; none: as planned")
    arguments = parser.parse_args()
    for machine in arguments.machine:
        print(f"\n{machine}\n")
        cases = [(corpus, minutes) for corpus in arguments.corpus for minutes in arguments.minutes]
        print_table(HEAD, [list(row(machine, *case, arguments.preset)) for case in cases])


if __name__ == "__main__":
    main()
