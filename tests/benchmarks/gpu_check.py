"""Every path of training on a GPU, compared with the plain one, and decoding: one table, about 10 minutes.

    python tests/benchmarks/gpu_check.py --nanogpt path/to/nanoGPT
    python tests/benchmarks/gpu_check.py --device cpu --shape small --only "bfloat16"

GPT-2's architecture (124 million parameters) makes the same steps on the same tokens in each row. ``loss`` is
that of the last step, ``difference`` is to the plain row of the same optimizer: float32 without TF32, eager,
attention in plain products; it is empty where that row was not made. MFU is the share of the card's matrix
products that the model's FLOPs take: of --peak TFLOP/s, or of the rate that is measured first. A row that
fails shows its error, the others follow, and the exit status is 1. It needs PyTorch, NumPy and this
repository on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar
from unittest.mock import MagicMock

# No step needs them.
MISSING = [n for n in ("safetensors", "platformdirs", "tokenizers") if importlib.util.find_spec(n) is None]
sys.modules |= {name: MagicMock() for package in MISSING for name in (package, f"{package}.torch")}

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, distributed  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from gptscratch import sizing  # noqa: E402
from gptscratch.accelerate.training import accelerate_training  # noqa: E402
from gptscratch.config import ModelConfig, TrainConfig  # noqa: E402
from gptscratch.config.presets import PRESETS  # noqa: E402
from gptscratch.device import set_up  # noqa: E402
from gptscratch.distributed import World  # noqa: E402
from gptscratch.model.cache import KVCache  # noqa: E402
from gptscratch.model.gpt import GPT  # noqa: E402
from gptscratch.training.optimizer import Optimizer, make_optimizer  # noqa: E402
from gptscratch.training.planning.benchmark import matmul_rate  # noqa: E402
from gptscratch.training.replica import LowPrecisionReplica  # noqa: E402
from gptscratch.training.step import take_step  # noqa: E402

SMALL = {"n_layer": 2, "n_head": 2, "n_kv_head": 2, "d_model": 64, "d_ff": 256, "context_length": 64,
         "vocab_size": 200}  # fmt: skip
PASSAGE = 3000  # tokens that repeat, so that there is something to learn
WARM_UP = 3  # steps that are not timed; torch.compile compiles in the first
NEW_TOKENS = 64

T = TypeVar("T")
Step = Callable[[np.ndarray], Tensor]  # from (B, T + 1) ids to the loss


@dataclass(frozen=True)
class Row:
    """A way to train."""

    name: str
    dtype: str = "bfloat16"
    optimizer: str = "adamw"
    backend: SDPBackend | None = None  # of attention; None: PyTorch chooses
    tf32: bool = True
    compiles: bool = False
    parallel: str = ""  # one rank of that kind
    torch_optimizer: bool = False
    peer: bool = False  # nanoGPT


ROWS = (
    Row("plain: float32, AdamW", "float32", backend=SDPBackend.MATH, tf32=False),
    Row("float32 with TF32", "float32"),
    Row("bfloat16"),
    Row("bfloat16, attention in plain products", backend=SDPBackend.MATH),
    Row("bfloat16, flash attention", backend=SDPBackend.FLASH_ATTENTION),
    Row("bfloat16, torch.optim.AdamW that is not fused", torch_optimizer=True),
    Row("bfloat16, compiled", compiles=True),
    Row("float16 with a loss scale", "float16"),
    Row("bfloat16, all-reduce of one rank", parallel="replicated"),
    Row("bfloat16, FSDP2 of one rank", parallel="fsdp"),
    Row("plain: float32, Muon", "float32", "muon", SDPBackend.MATH, tf32=False),
    Row("bfloat16, Muon", optimizer="muon"),
    Row("bfloat16, Muon, compiled", optimizer="muon", compiles=True),
    Row("nanoGPT, bfloat16 autocast, fused AdamW", peer=True),
    Row("nanoGPT, compiled", peer=True, compiles=True),
)


def batches(config: ModelConfig, rows: int, steps: int) -> Iterator[np.ndarray]:
    """(rows, T + 1) ids of each step."""
    chance = np.random.default_rng(0)
    passage = chance.integers(0, config.vocab_size, PASSAGE)
    for _ in range(steps):
        starts = chance.integers(0, PASSAGE, rows)[:, None]
        yield passage[(starts + np.arange(config.context_length + 1)) % PASSAGE]


def trained(row: Row, config: ModelConfig, asked: argparse.Namespace) -> tuple[float, float]:
    """The loss of the last step, and tokens per second."""
    device = torch.device(asked.device)
    torch.set_float32_matmul_precision("high" if row.tf32 else "highest")
    torch.manual_seed(0)
    times, loss = [], torch.zeros(())
    attention = contextlib.nullcontext() if row.backend is None else sdpa_kernel(row.backend)
    with attention, one_rank(device) if row.parallel else contextlib.nullcontext():
        step = (peer_step if row.peer else our_step)(row, config, asked, device)
        for ids in batches(config, asked.rows, WARM_UP + asked.steps):
            started = time.perf_counter()
            loss = step(ids)
            loss.item()  # waits for the device
            times.append(time.perf_counter() - started)
    return float(loss), asked.rows * config.context_length / median(times[WARM_UP:])


def our_step(row: Row, config: ModelConfig, asked: argparse.Namespace, device: torch.device) -> Step:
    dtype = getattr(torch, row.dtype)
    if row.parallel == "fsdp":
        from gptscratch.training.sharded import ShardedReplica

        replica: LowPrecisionReplica = ShardedReplica(config, device, dtype, world=World())
        model = replica.model
    else:
        model = accelerate_training(GPT(config).to(device))
        replica = LowPrecisionReplica(model, dtype)
    if row.compiles:
        replica.compile(asked.rows, config.context_length, fail)
    if row.parallel == "replicated":
        group = replace(World(), size=2)  # with the real group of one rank

        def sum_over_ranks(loss: Tensor) -> None:
            group.add_up([loss, *(p.grad for p in replica.parameters if p.grad is not None)])

        replica.sum_over_ranks = sum_over_ranks  # type: ignore[method-assign]
    settings = TrainConfig(optimizer=row.optimizer, learning_rate=6e-4 if row.optimizer == "adamw" else 0.02)
    kind = {"muon": replica.muon} if hasattr(replica, "muon") else {}
    optimizer = make_optimizer(model, settings, replica.loss_scale, **kind)
    if row.torch_optimizer:
        optimizer = Reference(replica.parameters, settings)

    def step(ids: np.ndarray) -> Tensor:
        x, y = ids[:, :-1], ids[:, 1:]
        result = take_step(replica, optimizer, x, y, micro_batch_size=asked.rows, grad_clip=1.0, lr_scale=1.0)
        return result.loss

    return step


class Reference(Optimizer):
    """AdamW of torch.optim, with the same settings."""

    def __init__(self, parameters: list[Tensor], config: TrainConfig) -> None:
        super().__init__()
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        betas = (config.beta1, config.beta2)
        self.optimizer = torch.optim.AdamW(groups, config.learning_rate, betas, fused=False)

    def step(self, lr_scale: float, finite: Tensor) -> None:
        del lr_scale, finite
        self.optimizer.step()


@contextlib.contextmanager
def one_rank(device: torch.device) -> Iterator[None]:
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def peer_step(row: Row, config: ModelConfig, asked: argparse.Namespace, device: torch.device) -> Step:
    """The body of nanoGPT's training loop."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", asked.nanogpt / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    shape = module.GPTConfig(
        n_layer=config.n_layer, n_head=config.n_head, n_embd=config.d_model, dropout=0.0,
        block_size=config.context_length, vocab_size=config.vocab_size, bias=config.bias,
    )  # fmt: skip
    with contextlib.redirect_stdout(None):
        model = module.GPT(shape).to(device)
        optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), device.type)
    forward = torch.compile(model) if row.compiles else model

    def step(ids: np.ndarray) -> Tensor:
        x, y = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in (ids[:, :-1], ids[:, 1:]))
        with torch.autocast(device.type, torch.bfloat16):
            _, loss = forward(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


@torch.inference_mode()
def decoded(config: ModelConfig, rows: int, dtype: torch.dtype, device: torch.device) -> float:
    """Tokens per second of the most likely tokens, one forward pass each: the product has no CUDA graphs."""
    model = GPT(config).to(device, dtype).eval()
    cache = KVCache(config, rows, device=device, dtype=dtype)
    ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
    times = []
    for _ in range(min(NEW_TOKENS, config.context_length)):
        started = time.perf_counter()
        ids = model(ids, cache=cache)[:, -1].argmax(-1, keepdim=True)
        ids[0, 0].item()
        times.append(time.perf_counter() - started)
    return rows / median(times)


def fail(text: str) -> None:
    raise RuntimeError(text)


def attempted(call: Callable[..., T], *arguments: Any) -> T | str:
    """What the call returns, or its error in a few words."""
    try:
        return call(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:90]
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", choices=("gpt2", "small"), default="gpt2")
    parser.add_argument("--rows", type=int, default=16, help="sequences in a step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--nanogpt", type=Path, help="a folder with nanoGPT")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the card in bfloat16; none: as measured")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of rows")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    set_up(device)
    config = PRESETS["gpt2"] if asked.shape == "gpt2" else replace(PRESETS["gpt2"], **SMALL)
    peak = 1e12 * asked.peak if asked.peak else matmul_rate(device, torch.bfloat16)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{card}, torch {torch.__version__}, {peak / 1e12:,.1f} TFLOP/s{'' if asked.peak else ' measured'}")
    shape = f"{asked.shape}, steps of {asked.rows} x {config.context_length}"
    print(f"\n| {shape} | loss | difference | tokens/s | MFU |")
    print("| --- | ---: | ---: | ---: | ---: |")
    plain: dict[str, float] = {}
    failures = 0
    for row in ROWS:
        if (row.peer and not asked.nanogpt) or not is_wanted(row.name, asked.only):
            continue
        found = attempted(trained, row, config, asked)
        if isinstance(found, str):
            failures += 1
            print(f"| {row.name} | {found} | | | |", flush=True)
            continue
        loss, rate = found
        if row.name.startswith("plain"):
            plain[row.optimizer] = loss
        base = None if row.peer else plain.get(row.optimizer)
        off = "" if base is None else f"{loss - base:+.4f}"
        mfu = rate * sizing.training_flops_per_token(config) / peak
        print(f"| {row.name} | {loss:.4f} | {off} | {rate:,.0f} | {mfu:.1%} |", flush=True)
    print("\n| decoding, a forward pass per token | sequences | tokens/s |")
    print("| --- | ---: | ---: |")
    for dtype, rows in itertools.product((torch.float32, torch.bfloat16), (1, 16)):
        name = str(dtype).removeprefix("torch.")
        if is_wanted(f"decoding {name}", asked.only):
            speed = attempted(decoded, config, rows, dtype, device)
            failures += isinstance(speed, str)
            print(f"| {name} | {rows} | {speed if isinstance(speed, str) else f'{speed:,.0f}'} |", flush=True)
    sys.exit(failures > 0)


def is_wanted(name: str, only: list[str]) -> bool:
    return not only or any(part in name for part in only)


if __name__ == "__main__":
    main()
