"""The loss over a large vocabulary, forward and backward: torch's, the lean one, the adaptive softmax.

python tests/benchmarks/loss_speed.py --vocab 38700 --width 256

Each measurement is a process of its own, so that its peak of memory can be seen; they take turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptscratch.config import ModelConfig
from gptscratch.device import pick_dtype
from gptscratch.model.head import build_head
from gptscratch.training.loss import head_cross_entropy

WAYS = ("torch, all logits at once", "gptscratch, slices", "gptscratch, adaptive softmax")


def loss_of(way: str, head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    if way == WAYS[0]:
        return F.cross_entropy(head(hidden).float(), targets, reduction="sum")
    return head_cross_entropy(head, hidden, targets)


def measure(way: str, *, vocab: int, width: int, tokens: int, dtype: torch.dtype) -> dict[str, float]:
    """Microseconds per token (median of five), and the growth of memory in MiB."""
    torch.manual_seed(0)
    cutoffs = (vocab // 10, 4 * vocab // 10) if way == WAYS[2] else ()
    config = ModelConfig(vocab_size=vocab, d_model=width, adaptive_cutoffs=cutoffs, output_bias=True)
    head = build_head(config).to(dtype)
    hidden = torch.randn(tokens, width).to(dtype).requires_grad_()
    targets = (vocab ** torch.rand(tokens)).long().clamp(max=vocab - 1)  # by Zipf's law
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        loss_of(way, head, hidden, targets).backward()  # type: ignore[no-untyped-call]
        seconds.append(time.perf_counter() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"microseconds": 1e6 * statistics.median(seconds[1:]) / tokens, "megabytes": grown / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=38_700)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=4096, help="positions at once")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.dtype = str(pick_dtype(given.dtype, torch.device("cpu"))).removeprefix("torch.")
    if given.way:
        sizes = {"vocab": given.vocab, "width": given.width, "tokens": given.tokens}
        print(json.dumps(measure(given.way, dtype=getattr(torch, given.dtype), **sizes)))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(given.rounds):
        for way in WAYS:
            call = [sys.executable, *sys.argv, "--dtype", given.dtype, "--way", way]
            found[way].append(json.loads(subprocess.run(call, check=True, capture_output=True).stdout))
    first = statistics.median(r["microseconds"] for r in found[WAYS[0]])
    print(f"{given.vocab:,} entries, {given.width} wide, {given.tokens:,} tokens at once, {given.dtype}")
    print(f"{'':<32}{'µs/token':>10}{'speed':>8}{'MiB':>8}")
    for way, rounds in found.items():
        micro = statistics.median(r["microseconds"] for r in rounds)
        mega = statistics.median(r["megabytes"] for r in rounds)
        print(f"{way:<32}{micro:>10.1f}{first / micro:>7.1f}x{mega:>8.0f}")


if __name__ == "__main__":
    main()
