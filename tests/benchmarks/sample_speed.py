"""How fast text is sampled: gptscratch, transformers, and llama.cpp and CTranslate2 where installed.

    python tests/benchmarks/sample_speed.py [--shape gpt2|small] [--rows 1] [--rounds 3] [--threads 2]

The same shape, random weights, greedy, a prompt of 32 tokens. The contestants take turns; medians are shown,
and what share of the machine's measured bandwidth the weights were read at. ``--only`` takes some of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gptscratch.accelerate.decode_step import DecodeStep, accelerate_decoding
from gptscratch.accelerate.weight_packing import PackedLinear, can_pack
from gptscratch.config import ModelConfig, SampleConfig
from gptscratch.config.presets import PRESETS
from gptscratch.device import has_fast_bfloat16
from gptscratch.generation.generate import generate_batch
from gptscratch.model.cache import KVCache
from gptscratch.model.gpt import GPT

sys.path.insert(0, str(Path(__file__).parent))
import sampling_peers as peers

Run = peers.Run

SMALL = ModelConfig(vocab_size=67, context_length=64)
PROMPT = [(7 * i + 3) % 61 for i in range(32)]
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "int4": 0.625}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", choices=("gpt2", "small"), default="gpt2")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=0, help="new ones; 0: 128, or 32 of a small model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", default=[], help="a part of a contestant's name")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    config = PRESETS["gpt2"] if asked.shape == "gpt2" else SMALL
    count = asked.tokens or (128 if asked.shape == "gpt2" else 32)
    torch.manual_seed(0)
    runs = {
        name: make()
        for name, make in contestants(config, asked)
        if not asked.only or any(part in name for part in asked.only)
    }
    for run in runs.values():
        run(4)  # warm
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(asked.rounds):
        for name, run in runs.items():
            rates[name].append(asked.rows * count / seconds(run, count))
    show(rates, config, asked, bandwidth(asked.threads))


def show(rates: dict[str, list[float]], config: ModelConfig, asked: argparse.Namespace, limit: float) -> None:
    weights = GPT(config).named_parameters()
    matrices = sum(p.numel() for name, p in weights if "embedding" not in name and p.dim() > 1)
    matrices += config.vocab_size * config.d_model if config.tie_embeddings else 0
    print(f"{asked.shape}, {asked.rows} rows, {asked.threads} threads, {limit / 1e9:.1f} GB/s, "
          f"median of {asked.rounds}\n")  # fmt: skip
    print(f"| {'':28} | {'tokens/s':>9} | {'us/token':>9} | {'of bandwidth':>12} |")
    print(f"|{'-' * 30}|{'-' * 10}:|{'-' * 10}:|{'-' * 13}:|")
    for name, found in rates.items():
        rate = statistics.median(found)
        read = rate / asked.rows * matrices * next(b for kind, b in BYTES.items() if kind in name)
        print(f"| {name:28} | {rate:9.1f} | {1e6 / rate:9.0f} | {read / limit:12.0%} |")


def seconds(run: Run, count: int) -> float:
    start = time.perf_counter()
    run(count)
    return time.perf_counter() - start


def bandwidth(threads: int) -> float:
    """Bytes per second at which the fastest kernel of torch reads a large matrix."""
    numbers = torch.ones(threads, 1 << 25)
    runs: list[Run] = [lambda _: float(numbers.sum())]  # type: ignore[list-item, return-value]
    if can_pack(torch.float32):
        row = torch.ones(1, numbers.numel() >> 13)
        layer = PackedLinear(torch.nn.Linear(row.numel(), 1 << 13), rows=1)
        runs.append(lambda _: layer(row))
    with torch.inference_mode():
        return max(numbers.numel() * 4 / seconds(run, 0) for run in runs for _ in range(5))


def contestants(config: ModelConfig, asked: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Run]]]:
    rows, threads = asked.rows, asked.threads
    fast = has_fast_bfloat16(torch.device("cpu"))
    if not fast:
        print("This processor has no fast bfloat16 products: they are left out.", file=sys.stderr)
    narrow = ("bfloat16",) if fast else ()
    for kind in ("plain float32", "float32", *narrow, "float16", "int8", "int4"):
        yield f"gptscratch {kind}", partial(gptscratch_run, config, kind, rows)
    if not is_here("transformers"):
        return
    for kind in ("float32", *narrow):
        yield f"transformers {kind}", lambda kind=kind: peers.transformers(GPT(config), kind, PROMPT, rows)
    if asked.shape != "gpt2":
        return
    if is_here("ctranslate2"):
        for kind in ("float32", "int8"):
            yield (
                f"CTranslate2 {kind}",
                lambda kind=kind: peers.ctranslate2(GPT(config), kind, PROMPT, rows, threads),
            )
    if rows == 1 and is_here("llama_cpp") and is_here("gguf"):
        for kind in peers.LLAMA_KINDS:
            yield f"llama.cpp {kind}", lambda kind=kind: peers.llama_cpp(GPT(config), kind, PROMPT, threads)


def is_here(package: str) -> bool:
    found = importlib.util.find_spec(package) is not None
    if not found:
        print(f"{package} is not installed and left out.", file=sys.stderr)
    return found


def gptscratch_run(config: ModelConfig, kind: str, rows: int) -> Run:
    model = GPT(config).eval()
    if kind == "bfloat16":
        model.bfloat16()
    quantized = kind if kind in ("float16", "int8", "int4") else None
    plain = kind.startswith("plain")
    decoder = _Plain(model) if plain else accelerate_decoding(model, quantize=quantized, rows=rows)

    def run(count: int) -> None:
        for _ in generate_batch(
            model, [PROMPT] * rows, SampleConfig(max_tokens=count, temperature=0), decoder=decoder
        ):
            pass

    return run


class _Plain(DecodeStep):
    """The model's own forward, where a decoder is asked for."""

    def __init__(self, model: GPT) -> None:
        self.model = model

    def step(self, token_ids: Tensor, cache: KVCache) -> Tensor:
        logits: Tensor = self.model(token_ids[:, None], cache=cache)
        return logits[:, -1]


if __name__ == "__main__":
    main()
