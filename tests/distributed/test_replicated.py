"""Several processes train one run: the same losses as one process, from parts of the same batches."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gptscratch.config import ModelConfig
from gptscratch.distributed import World
from gptscratch.errors import ConfigError
from gptscratch.model.gpt import GPT
from gptscratch.training.loss import IGNORE
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.step import compute_grads
from gptscratch.training.trainer import resume, train

COMMON: dict[str, Any] = {
    "n_layer": 1, "n_head": 4, "d_model": 32, "context_length": 16, "batch_size": 5, "micro_batch_size": 1,
    "steps": 50, "log_interval": 1, "eval_interval": 50, "save_interval": 50, "sample_interval": 0,
    "dropout": 0.0, "device": "cpu", "dtype": "float32", "muon_dtype": "float32",
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "muon": {"tokenizer": "char", "documents": "masked", "tie_embeddings": True, "n_kv_head": 2,
             "grad_clip": 0.1, "learning_rate": 0.01, "weight_decay": 0.1},
    "adamw": {"tokenizer": "byte", "documents": "padded", "optimizer": "adamw", "learning_rate": 3e-3},
    "lora": {"lora_rank": 2, "init_from": "muon-1", "steps": 10},
}  # fmt: skip
SIZES = (2, 4)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """Two corpora of documents."""
    folder = tmp_path_factory.mktemp("files")
    lines = corpus.read_text().splitlines()
    for name, some in (("a", lines[::2]), ("b", lines[1::2])):
        texts = [" ".join(some[start : start + 1 + start % 3]) for start in range(0, len(some), 3)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


@pytest.fixture(scope="module")
def trained(files: Path) -> Path:
    """The home folder of all cases, trained by one process, by two and by four."""
    home = files / "home"
    mixture = [f"{files / 'a.jsonl'}=0.7", f"{files / 'b.jsonl'}=0.3"]
    calls = [{**COMMON, **case, "corpus": mixture, "name": name} for name, case in CASES.items()]
    stopped = [{**calls[0], "name": "signal", "at": {"1": [6, signal.SIGTERM]}},
               {**calls[0], "name": "kill", "at": {"1": [4, signal.SIGKILL]}}]  # fmt: skip
    timed = {**calls[0], "name": "timed", "steps": None, "minutes": 0.04, "eval_interval": 1,
             "lr_schedule": "linear"}  # fmt: skip
    (files / "job").write_text(json.dumps({"sizes": SIZES, "calls": [*calls, timed, *stopped]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTSCRATCH_HOME", str(home))
        for call in calls:
            train(**{**call, "name": f"{call['name']}-1"})
        subprocess.run(
            [sys.executable, Path(__file__).with_name("processes.py"), files / "job"], check=True, timeout=200
        )
    return home / "runs"


def results(trained: Path, size: int, rank: int) -> list[str]:
    """What the calls after ``CASES`` gave."""
    return (trained.parents[1] / f"job.{size}.{rank}").read_text().splitlines()[len(CASES) :]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_several_processes_have_the_losses_of_one(trained: Path, case: str, size: int) -> None:
    straight, shared = metrics(trained / f"{case}-1"), metrics(trained / f"{case}-{size}")
    assert [line["step"] for line in shared] == [line["step"] for line in straight]
    for one, other in zip(straight, shared, strict=True):
        for name in one.keys() & {"train_loss", "val_loss", "tokens", "val_tokens"}:
            assert other[name] == pytest.approx(one[name], abs=1e-5), (one["step"], name)


@pytest.mark.parametrize("size", SIZES)
def test_with_a_time_limit_all_processes_have_the_same_learning_rates(trained: Path, size: int) -> None:
    (found,) = {results(trained, size, rank)[0] for rank in range(size)}
    assert len(set(json.loads(found.removeprefix("rates ")))) > 3


@pytest.mark.parametrize("size", SIZES)
def test_a_signal_to_one_process_ends_all_after_the_same_step(trained: Path, size: int) -> None:
    assert {results(trained, size, rank)[1] for rank in range(size)} == {"interrupted at 7"}


def test_one_process_continues_what_four_began(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTSCRATCH_HOME", str(trained.parent))
    resume("signal-4")
    one, other = (
        load_file(trained / run / "checkpoints/step-00000050/model.safetensors")
        for run in ("muon-1", "signal-4")
    )
    for name, parameter in one.items():
        torch.testing.assert_close(other[name], parameter, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_a_process_that_is_killed_ends_the_others(trained: Path, size: int) -> None:
    endings = [results(trained, size, rank)[2:] for rank in range(size)]
    assert endings.pop(1) == []
    for (ending,) in endings:
        assert ending.startswith("PeerError: Another process of this run has ended")


@pytest.mark.parametrize("rows", [5, 2])
def test_the_ranks_compute_disjoint_rows(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    inputs, targets = generator.integers(0, 31, (2, rows, 12))
    targets[0, 7:] = IGNORE  # one row is shorter

    def gradients(world: World) -> tuple[list[torch.Tensor], torch.Tensor, int]:
        torch.manual_seed(0)
        model = GPT(ModelConfig(vocab_size=31, context_length=12, n_layer=1, n_head=2, d_model=32))
        replica = LowPrecisionReplica(model, torch.float32, world=world)
        loss, tokens = compute_grads(replica, inputs, targets, micro_batch_size=2)
        return [p.grad for p in replica.parameters if p.grad is not None], loss, tokens

    monkeypatch.setattr(World, "add_up", lambda *_: None)
    wanted, loss, tokens = gradients(World())
    parts = [gradients(World(rank, 3)) for rank in range(3)]
    assert [part[2] for part in parts] == [tokens] * 3
    torch.testing.assert_close(sum(part[1] for part in parts), loss)
    for number, gradient in enumerate(wanted):
        torch.testing.assert_close(sum(part[0][number] for part in parts), gradient)


def test_a_batch_that_the_processes_cannot_share_is_refused(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes cannot share a batch of 1"):
        train(corpus, batch_size=1)


def test_a_machine_needs_a_gpu_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    world = World(rank=1, size=2, local_rank=1, local_size=2)
    assert world.place(torch.device("cpu")) == torch.device("cpu")
    for name, reason in (("cuda", "has 1 GPUs for 2"), ("cuda:0", "All processes"), ("mps", "cannot train")):
        with pytest.raises(ConfigError, match=reason):
            world.place(torch.device(name))
