"""Training speed compared with nanoGPT: time to a loss, and tokens per second of the same architecture.

    python tests/benchmarks/train_speed.py tinyshakespeare.txt --nanogpt path/to/nanoGPT

The candidates take turns; medians are printed. nanoGPT's recipe for a CPU is run as in its README, with one
evaluation at the end. The time of nanoGPT does not include its data preparation, that of gptscratch does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import ModuleType

import numpy as np
import torch

from gptscratch.accelerate.training import accelerate_training
from gptscratch.config import ModelConfig, TrainConfig
from gptscratch.data.batches import windows
from gptscratch.device import has_fast_bfloat16, set_up
from gptscratch.model.gpt import GPT
from gptscratch.training.optimizer import make_optimizer
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.step import take_step

RECIPE = (
    "config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20",
    "--eval_interval=2000", "--log_interval=100", "--block_size=64", "--batch_size=12", "--n_layer=4",
    "--n_head=4", "--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0",
)  # fmt: skip
RECIPES = {
    "gptscratch, 2 layers of the same width, 140 steps of 32": (
        "--layers", "2", "--heads", "4", "--d-model", "128", "--context-length", "64", "--batch-size", "32",
        "--steps", "140", "--sample-interval", "0", "--eval-interval", "140",
    ),
    "gptscratch, nanoGPT's shape, 170 steps of 16": (
        "--layers", "4", "--heads", "4", "--d-model", "128", "--context-length", "64", "--batch-size", "16",
        "--steps", "170", "--sample-interval", "0", "--eval-interval", "170",
    ),
}  # fmt: skip
SAME = {"n_layer": 6, "n_head": 6, "d_model": 384, "context_length": 256, "vocab_size": 65}
ROWS = 16


def time_to_loss(corpus: Path, nanogpt: Path, rounds: int) -> None:
    """Whole processes, from the shell: nanoGPT's recipe, and gptscratch."""
    with tempfile.TemporaryDirectory() as folder:
        peer = shutil.copytree(nanogpt, Path(folder) / "nanoGPT")
        prepare_peer(corpus, peer)
        times: dict[str, list[float]] = {}
        losses: dict[str, list[float]] = {}
        for number in range(rounds):
            started = time.perf_counter()
            subprocess.run([sys.executable, "train.py", *RECIPE], cwd=peer, check=True, capture_output=True)
            times.setdefault("nanoGPT", []).append(time.perf_counter() - started)
            losses.setdefault("nanoGPT", []).append(peer_loss(peer))
            same_time = ("--minutes", f"{times['nanoGPT'][-1] / 60:.3f}")
            for name, options in {**RECIPES, "gptscratch --minutes, nanoGPT's time": same_time}.items():
                out = Path(folder) / f"{name}, {number}"
                command = ["train", str(corpus), "--tokenizer", "char", *options, "--seed", str(number)]
                command += ["--json", "--out", str(out)]
                started = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-m", "gptscratch", *command], check=True, capture_output=True, text=True
                )
                times.setdefault(name, []).append(time.perf_counter() - started)
                losses.setdefault(name, []).append(json.loads(done.stdout)["val_loss"])
    base = median(times["nanoGPT"])
    print(f"\n| whole process, medians of {rounds} | seconds | share | validation loss, whole split |")
    print("| --- | ---: | ---: | ---: |")
    for name, found in times.items():
        share = median(found) / base
        print(f"| {name} | {median(found):.1f} | {share:.3f} | {median(losses[name]):.4f} |")


def prepare_peer(corpus: Path, peer: Path) -> None:
    """The files that nanoGPT's data/shakespeare_char/prepare.py would write."""
    text = corpus.read_text(encoding="utf-8")
    ids = {character: i for i, character in enumerate(sorted(set(text)))}
    data = np.array([ids[c] for c in text], dtype=np.uint16)
    folder = peer / "data" / "shakespeare_char"
    cut = int(len(data) * 0.9)
    data[:cut].tofile(folder / "train.bin")
    data[cut:].tofile(folder / "val.bin")
    meta = {"vocab_size": len(ids), "stoi": ids, "itos": {i: c for c, i in ids.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def peer_module(peer: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("nanogpt_model", peer / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def peer_loss(peer: Path) -> float:
    """The loss of nanoGPT's checkpoint over its whole validation split, in windows of its context."""
    module = peer_module(peer)
    saved = torch.load(peer / "out-shakespeare-char" / "ckpt.pt", weights_only=False)
    model = module.GPT(module.GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    model.eval()
    tokens = np.fromfile(peer / "data" / "shakespeare_char" / "val.bin", dtype=np.uint16)
    total, count = 0.0, 0
    for inputs, targets in windows(tokens, saved["model_args"]["block_size"], 128):
        _, loss = model(torch.from_numpy(inputs), torch.from_numpy(targets))
        total, count = total + loss.item() * targets.size, count + targets.size
    return total / count


def throughput(nanogpt: Path, rounds: int) -> None:
    """Tokens per second of nanoGPT's model and of gptscratch's in the same sizes, AdamW, no dropout."""
    set_up(torch.device("cpu"))
    chance = np.random.default_rng(0)
    shape = (ROWS, SAME["context_length"])
    inputs, targets = (chance.integers(0, SAME["vocab_size"], shape) for _ in range(2))
    gpt2 = ModelConfig(
        **SAME, position="learned", norm="layernorm", activation="gelu", qk_norm=False, tie_embeddings=True
    )
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if not has_fast_bfloat16(torch.device("cpu")):
        print("This processor has no fast bfloat16 products: they are left out.")
        dtypes.pop("bfloat16")
    contestants: dict[str, Callable[[], None]] = {}
    for name, dtype in dtypes.items():
        peers = name if dtype == torch.float32 else f"{name} autocast"
        contestants |= {
            f"nanoGPT, {peers}": peer_step(nanogpt, inputs, targets, dtype),
            f"gptscratch, {name}": our_step(gpt2, "adamw", inputs, targets, dtype),
            f"gptscratch's default family, Muon, {name}": our_step(
                ModelConfig(**SAME), "muon", inputs, targets, dtype
            ),
        }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for step in contestants.values():
        step()
    for _ in range(rounds):
        for name, step in contestants.items():
            started = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - started)
    base = inputs.size / median(times["nanoGPT, float32"])
    print(f"\n| one step of {ROWS} x {shape[1]} tokens, medians of {rounds} | tokens/s | ratio |")
    print("| --- | ---: | ---: |")
    for name, found in times.items():
        rate = inputs.size / median(found)
        print(f"| {name} | {rate:,.0f} | {rate / base:.2f} |")


def our_step(
    config: ModelConfig, optimizer: str, inputs: np.ndarray, targets: np.ndarray, dtype: torch.dtype
) -> Callable[[], None]:
    model = GPT(config)
    replica = LowPrecisionReplica(accelerate_training(model), dtype)
    update = make_optimizer(model, TrainConfig(optimizer=optimizer))

    def step() -> None:
        take_step(replica, update, inputs, targets, micro_batch_size=ROWS, grad_clip=1.0, lr_scale=1.0)

    return step


def peer_step(
    nanogpt: Path, inputs: np.ndarray, targets: np.ndarray, dtype: torch.dtype
) -> Callable[[], None]:
    """The body of nanoGPT's training loop."""
    module = peer_module(nanogpt)
    names = {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "vocab_size": 65}
    model = module.GPT(module.GPTConfig(**names, dropout=0.0, bias=False))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    x, y = torch.from_numpy(inputs), torch.from_numpy(targets)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            _, loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a folder with nanoGPT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["loss", "throughput"])
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if options.only != "loss":
        throughput(options.nanogpt, max(5, options.rounds))
    if options.only != "throughput":
        time_to_loss(options.corpus.resolve(), options.nanogpt, options.rounds)


if __name__ == "__main__":
    main()
