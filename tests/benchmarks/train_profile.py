"""Where a training step spends its time: with the kernels of PyTorch, then with those of accelerate/.

    python tests/benchmarks/train_profile.py --layers 6 --d-model 384 --context-length 256 --rows 16

torch.profiler over a few steps of the default family with Muon, on this machine's CPU; the milliseconds are
of one step and count the operation itself, not what it calls. Below them: Muon with all that it calls,
and all operations but matrix products, as which the kernels of attention count.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from unittest.mock import Mock, patch

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from gptscratch.accelerate import linear, training
from gptscratch.config import ModelConfig, TrainConfig
from gptscratch.device import pick_dtype, set_up
from gptscratch.model.gpt import GPT
from gptscratch.training.optimizer import make_optimizer
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.step import take_step

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "_linear_pointwise")
NEVER = Mock(return_value=False)


def profiled(config: ModelConfig, rows: int, dtype: torch.dtype, steps: int) -> dict[str, float]:
    """Milliseconds of a step by operation, after two steps that are not counted."""
    step = make_step(config, rows, dtype)
    for _ in range(2):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
    events = profiler.key_averages()
    found = {event.key: event.self_cpu_time_total / 1e3 / steps for event in events}
    others = {name: time for name, time in found.items() if not is_product(name)}
    muon = sum(event.cpu_time_total for event in events if event.key == "Muon") / 1e3 / steps
    return found | {"Muon": muon, "no product": sum(others.values()), "all": sum(found.values())}


def is_product(name: str) -> bool:
    return name.rpartition("::")[2] in PRODUCTS or "scaled_dot_product" in name


def make_step(config: ModelConfig, rows: int, dtype: torch.dtype) -> Callable[[], object]:
    torch.manual_seed(0)
    model = GPT(config)
    replica = LowPrecisionReplica(training.accelerate_training(model), dtype)
    optimizer = make_optimizer(model, TrainConfig(optimizer="muon"))
    optimizer.parts[0].update = record_function("Muon")(optimizer.parts[0].update)  # type: ignore[method-assign]
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (rows, config.context_length))
    return lambda: take_step(replica, optimizer, ids, ids, micro_batch_size=rows, grad_clip=1.0, lr_scale=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--d-model", type=int, default=384)
    parser.add_argument("--context-length", type=int, default=256)
    parser.add_argument("--vocab-size", type=int, default=67)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    device = torch.device("cpu")
    set_up(device)
    dtype = pick_dtype(given.dtype, device)
    config = ModelConfig(
        n_layer=given.layers, d_model=given.d_model, n_head=max(1, given.d_model // 64),
        context_length=given.context_length, vocab_size=given.vocab_size,
    )  # fmt: skip
    with patch.object(training, "trains_on_cpu", NEVER), patch.object(linear, "pays", NEVER):
        before = profiled(config, given.rows, dtype, given.steps)
    after = profiled(config, given.rows, dtype, given.steps)
    print("| operation | before, ms | after, ms |")
    print("| --- | ---: | ---: |")
    sums = ("Muon", "no product", "all")
    names = sorted(before.keys() | after.keys(), key=lambda n: -max(before.get(n, 0), after.get(n, 0)))
    for name in [name for name in names if name not in sums][:16]:
        print(f"| {name} | {before.get(name, 0):.1f} | {after.get(name, 0):.1f} |")
    for name in sums:
        shares = (f"{times[name]:.1f} ({times[name] / times['all']:.0%})" for times in (before, after))
        print(f"| {name} | {' | '.join(shares)} |")


if __name__ == "__main__":
    main()
