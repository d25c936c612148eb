"""Each fast path of the CPU next to the plain one, on this machine and on an emulated one with AVX2 only.

    python tests/benchmarks/fast_paths.py
    python tests/benchmarks/fast_paths.py --machines avx2 --threads 1 --only attention

A row says what the plain path took, what the fast one took, their ratio (above 1: the fast one is faster),
and whether the package takes the fast one there. A fast path that is taken and slower is marked, and the
exit status is then 1. Each machine and number of threads is a process of its own, with the environment set;
the paths take turns, and the least time of several rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptscratch.accelerate import kernels
from gptscratch.accelerate import linear as linear_module
from gptscratch.accelerate.decode_step import DecodeStep, accelerate_decoding
from gptscratch.accelerate.quantization import QUANTIZERS, quantized
from gptscratch.accelerate.training import accelerate_training, products_pay, trains_on_cpu
from gptscratch.accelerate.weight_packing import PackedLinear, can_pack, join
from gptscratch.config import ModelConfig, TrainConfig
from gptscratch.device import has_fast_bfloat16, set_up
from gptscratch.model.cache import KVCache
from gptscratch.model.gpt import GPT
from gptscratch.training.loss import head_cross_entropy
from gptscratch.training.optimizer import make_optimizer, orthogonalized
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.step import take_step

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
MACHINES = {"native": {}, "avx2": AVX2}
TOLERANCE = 0.95  # of the plain path's speed: what two measurements of the same code differ by
LEAST = 0.005  # seconds of one measurement
CPU = torch.device("cpu")
F32, BF16 = torch.float32, torch.bfloat16

Run = Callable[[], object]


class Path(NamedTuple):
    name: str
    plain: Run
    fast: Run
    is_taken: bool


def paths() -> Iterator[Callable[[], Path]]:
    """Each is made only when it is asked for: some need much memory."""
    yield partial(training_step, "AdamW", "adamw")
    yield partial(training_step, "Muon", "muon")
    for rows, inputs, outputs in ((2048, 384, 384), (2048, 384, 1536), (512, 128, 352), (64, 128, 128)):
        yield partial(onednn_linear, rows, inputs, outputs)
    for dtype in (F32, BF16):
        for probability in (0.0, 0.1):
            for length in (64, 256, 512):
                yield partial(attention_products, dtype, probability, length)
            yield partial(attention_products, dtype, probability, 256, 3)
    for dtype in (F32, BF16):
        yield partial(rms_norm, dtype)
        yield partial(dropout, dtype)
    for count in (1, 4):
        yield partial(orthogonalization, count)
    for vocabulary, width in ((65, 384), (8192, 256)):
        for dtype in (F32, BF16):
            yield partial(loss, vocabulary, width, dtype)
    for rows in (1, 8, 256):
        for dtype in (F32, BF16):
            yield partial(packed_weights, rows, dtype)
        for how in QUANTIZERS:
            yield partial(quantized_weights, how, rows)
    yield from (partial(joined_projections, rows) for rows in (1, 256))
    for name, shape in (("small", SMALL), ("medium", MEDIUM)):
        for rows in (1, 8):
            yield partial(decode_step, name, shape, rows, "float32")
        yield partial(decode_step, name, shape, 1, "bfloat16")
        for how in QUANTIZERS:
            yield partial(decode_step, name, shape, 1, how)


def training_step(label: str, optimizer: str) -> Path:
    shape = ModelConfig(vocab_size=65, n_layer=3, n_head=3, d_model=192, context_length=128)
    ids = np.random.default_rng(0).integers(0, 65, (8, 128))

    def step(dtype: torch.dtype) -> Run:
        model = GPT(shape)
        replica = LowPrecisionReplica(accelerate_training(model), dtype)
        update = make_optimizer(model, TrainConfig(optimizer=optimizer))
        return lambda: take_step(replica, update, ids, ids, micro_batch_size=8, grad_clip=1.0, lr_scale=1.0)

    name = f"training step, {label}, bfloat16 products"
    return Path(name, step(F32), step(BF16), has_fast_bfloat16(CPU))


def onednn_linear(rows: int, inputs: int, outputs: int) -> Path:
    x, weight = torch.randn(rows, inputs, requires_grad=True), nn.Parameter(torch.randn(outputs, inputs))
    grad = torch.randn(rows, outputs)
    name = f"oneDNN linear, {rows} rows, {inputs} to {outputs}, with gradients"
    return Path(
        name,
        lambda: torch.autograd.grad(F.linear(x, weight), (x, weight), grad),
        lambda: torch.autograd.grad(linear_module._Linear.apply(x, weight, None), (x, weight), grad),
        linear_module.pays(x, weight),
    )


def attention_products(dtype: torch.dtype, dropout: float, length: int, groups: int = 1) -> Path:
    q = torch.randn(8, 6, length, 64, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(8, 6 // groups, length, 64, dtype=dtype, requires_grad=True) for _ in range(2))
    grad = torch.randn_like(q)

    def plain() -> object:
        out = F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=groups > 1
        )
        return torch.autograd.grad(out, (q, k, v), grad)

    def fast() -> object:
        keys, values = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k, v))
        return torch.autograd.grad(kernels.causal_attention(q, keys, values, None, dropout), (q, k, v), grad)

    name = (
        f"attention by bmm, {short(dtype)}, dropout {dropout}, {length} positions, {6 // groups} of 6 heads"
    )
    return Path(name, plain, fast, products_pay(q, k, None, dropout))


def rms_norm(dtype: torch.dtype) -> Path:
    x, weight = torch.randn(2048, 384, dtype=dtype, requires_grad=True), torch.ones(384, dtype=dtype)
    weight.requires_grad_()
    grad = torch.randn_like(x)
    return Path(
        f"RMS norm, {short(dtype)}, with gradients",
        lambda: torch.autograd.grad(F.rms_norm(x, (384,), weight, 1e-6), (x, weight), grad),
        lambda: torch.autograd.grad(kernels.rms_norm(x, weight, 1e-6), (x, weight), grad),
        trains_on_cpu(x),
    )


def dropout(dtype: torch.dtype) -> Path:
    x = torch.randn(2048, 384, dtype=dtype, requires_grad=True)
    grad = torch.randn_like(x)
    return Path(
        f"dropout, {short(dtype)}, with gradients",
        lambda: torch.autograd.grad(F.dropout(x, 0.1), x, grad),
        lambda: torch.autograd.grad(kernels.dropout(x, 0.1), x, grad),
        trains_on_cpu(x),
    )


def orthogonalization(count: int) -> Path:
    matrices = torch.randn(count, 256, 256)
    name = f"Muon's iteration in bfloat16, {count} x 256 x 256"
    return Path(name, lambda: orthogonalized(matrices), lambda: orthogonalized(matrices, BF16),
                has_fast_bfloat16(CPU))  # fmt: skip


def loss(vocabulary: int, width: int, dtype: torch.dtype) -> Path:
    head = nn.Linear(width, vocabulary, bias=False, dtype=dtype)
    hidden = torch.randn(1024, width, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocabulary, (1024,))

    def plain() -> object:
        value = F.cross_entropy(head(hidden).float(), targets, reduction="sum")
        return torch.autograd.grad(value, (hidden, head.weight))

    name = f"loss in slices, {short(dtype)}, {vocabulary} entries"
    return Path(name, plain, lambda: torch.autograd.grad(
        head_cross_entropy(head, hidden, targets), (hidden, head.weight)), True)  # fmt: skip


def packed_weights(rows: int, dtype: torch.dtype) -> Path:
    layers = [nn.Linear(768, 2304, dtype=dtype) for _ in range(12)]
    packed = [PackedLinear(layer, rows) for layer in layers] if can_be_packed(dtype) else layers
    x = torch.randn(rows, 768, dtype=dtype)
    name = f"packed weights, {short(dtype)}, {rows} rows, 768 to 2304"
    return Path(name, each(layers, x), each(packed, x), can_pack(dtype))


def can_be_packed(dtype: torch.dtype) -> bool:
    try:
        PackedLinear(nn.Linear(8, 8, dtype=dtype), 1)
    except (AttributeError, RuntimeError):
        return False
    return True


def quantized_weights(how: str, rows: int) -> Path:
    layers = [nn.Linear(768, 2304) for _ in range(12)]
    smaller = [quantized(layer, how) for layer in layers]
    x = torch.randn(rows, 768)
    return Path(f"{how} weights, {rows} rows, 768 to 2304", each(layers, x), each(smaller, x), False)


def each(layers: list[nn.Module], x: Tensor) -> Run:
    """One layer after the other, so that no cache holds the weights of all."""

    @torch.inference_mode()
    def run() -> None:
        for layer in layers:
            layer(x)

    return run


def joined_projections(rows: int) -> Path:
    model = GPT(ModelConfig(**SMALL)).eval()
    twin = GPT(model.config).eval()
    join(twin)
    ids = torch.randint(65, (1, rows))
    return Path(f"joined projections, {rows} positions read", no_grad(model, ids), no_grad(twin, ids), True)


def no_grad(model: GPT, ids: Tensor) -> Run:
    return torch.inference_mode()(lambda: model(ids))


SMALL = {"vocab_size": 65, "n_layer": 4, "n_head": 4, "d_model": 128, "context_length": 256}
MEDIUM = {"vocab_size": 4096, "n_layer": 6, "n_head": 8, "d_model": 512, "context_length": 256}


def decode_step(label: str, shape: dict[str, int], rows: int, how: str) -> Path:
    """One token: the plain model in float32, the decoder in float32, bfloat16 or with quantized weights.

    A choice of the user, such as int8, is compared with the decoder in float32.
    """
    config = ModelConfig(**shape)
    ids = torch.randint(config.vocab_size, (rows, 100))

    def stepping(model: GPT, decoder: DecodeStep | None) -> Run:
        cache = KVCache(config, rows, dtype=model.token_embedding.weight.dtype)
        reader = model if decoder is None else decoder.model
        with torch.inference_mode():
            reader(ids, cache=cache)

        @torch.inference_mode()
        def run() -> None:
            cache.lengths = [100] * rows
            if decoder is None:
                model(ids[:, :1], cache=cache)
            else:
                decoder.step(ids[:, 0], cache)

        return run

    model, other = GPT(config).eval(), GPT(config).eval()
    if how == "bfloat16":
        other.bfloat16()
    plain = stepping(model, None if how == "float32" else accelerate_decoding(model, rows=rows))
    quantized = how if how in QUANTIZERS else None
    name = f"decode step, {label} model, {rows} rows, {how}"
    return Path(
        name,
        plain,
        stepping(other, accelerate_decoding(other, quantize=quantized, rows=rows)),
        how == "float32",
    )


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def measured(path: Path, rounds: int) -> tuple[float, float]:
    """The least seconds of the plain and of the fast path."""
    runs = (path.plain, path.fast)
    counts = []
    for run in runs:
        run()
        counts.append(max(1, int(LEAST / max(seconds(run, 1), 1e-6))))
    times = [[seconds(run, count) for run, count in zip(runs, counts, strict=True)] for _ in range(rounds)]
    plain, fast = (min(column) for column in zip(*times, strict=True))
    return plain, fast


def seconds(run: Run, count: int) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    for _ in range(count):
        run()
    return (clock() - started) / count


def measure(only: list[str], rounds: int) -> None:
    """In this process: a line of JSON for each path."""
    set_up(CPU)
    torch.manual_seed(0)
    for make in paths():
        path = make()
        if only and not any(part in path.name for part in only):
            continue
        plain, fast = measured(path, rounds)
        facts = {"name": path.name, "plain": plain, "fast": fast, "is_taken": path.is_taken}
        print(json.dumps(facts), flush=True)


def table(machine: str, threads: int, options: argparse.Namespace) -> bool:
    """Print the rows of one machine; whether a fast path that is taken was slower."""
    environment = {**os.environ, **MACHINES[machine], "OMP_NUM_THREADS": str(threads)}
    command = [
        sys.executable,
        __file__,
        "--measure",
        "--rounds",
        str(options.rounds),
        "--only",
        *options.only,
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    any_slower = False
    for line in process.stdout:
        facts = json.loads(line)
        ratio = facts["plain"] / facts["fast"]
        is_slower = facts["is_taken"] and ratio < TOLERANCE
        any_slower |= is_slower
        taken = ("yes, SLOWER" if is_slower else "yes") if facts["is_taken"] else "no"
        print(f"| {machine}, {threads} | {facts['name']} | {1e3 * facts['plain']:.3f} "
              f"| {1e3 * facts['fast']:.3f} | {ratio:.2f} | {taken} |", flush=True)  # fmt: skip
    if process.wait():
        raise SystemExit(f"the process of {machine} with {threads} threads failed")
    return any_slower


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machines", nargs="+", choices=MACHINES, default=list(MACHINES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of the paths to measure")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.only, options.rounds)
        return
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}\n")
    print("| machine, threads | path | plain, ms | fast, ms | ratio | taken |")
    print("| --- | --- | ---: | ---: | ---: | --- |")
    found = [table(machine, n, options) for machine in options.machines for n in options.threads]
    sys.exit(any(found))


if __name__ == "__main__":
    main()
