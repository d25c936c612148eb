"""Memory of each process, and what they send to each other in a step, replicated and sharded.

    torchrun --nproc-per-node 4 tests/benchmarks/parallel.py --parallel fsdp

Bytes are those that one process sends where collectives are rings, as NCCL's and gloo's are. The processes
wait for each collective at once, so that its time is seen: nothing overlaps.
With MALLOC_MMAP_THRESHOLD_=65536 in the environment glibc returns what is freed, so that the peak is that of
the tensors, without fragments.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gptscratch import sizing
from gptscratch.accelerate.training import accelerate_training
from gptscratch.config import ModelConfig, TrainConfig
from gptscratch.device import peak_memory
from gptscratch.distributed import World, joined
from gptscratch.model.gpt import GPT
from gptscratch.training.optimizer import make_optimizer
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.sharded import ShardedReplica
from gptscratch.training.step import take_step

CPU = torch.device("cpu")


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes that this process sends, by the kind of collective, and the seconds that they take."""

    def __init__(self, world: World) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.world, self.seconds = world, 0.0
        self.sent: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        name = func.name().removeprefix("c10d::")
        if name == func.name():
            return func(*args, **(kwargs or {}))
        started = time.perf_counter()
        found = func(*args, **(kwargs or {}))
        work = found[-1] if isinstance(found, tuple | list) else found
        if hasattr(work, "wait"):
            work.wait()
        self.seconds += time.perf_counter() - started
        self.sent[name] = self.sent.get(name, 0) + self.bytes_of(name, args)
        return found

    def bytes_of(self, name: str, args: Any) -> int:
        others = self.world.size - 1
        if name.startswith("_allgather_base"):
            return others * _bytes(args[1])
        if name.startswith("_reduce_scatter_base"):
            return others * _bytes(args[1]) // self.world.size
        if name.startswith("allreduce"):
            return 2 * others * sum(map(_bytes, args[0])) // self.world.size
        if name.startswith("alltoall_base"):
            rows = list(args[4])
            rows[self.world.rank] = 0
            return int(sum(rows)) * args[1].element_size()
        return 0


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parallel", default="replicated", choices=("replicated", "fsdp"))
    parser.add_argument("--optimizer", default="adamw", choices=("adamw", "muon"))
    parser.add_argument("--micro-batches", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--layers", type=int, default=8, help="two values show what a layer takes")
    given = parser.parse_args()
    model = ModelConfig(n_layer=given.layers, d_model=384, n_head=6, vocab_size=4096, context_length=128)
    torch.set_num_threads(1)
    with joined() as world:
        before = resident()
        config = TrainConfig(optimizer=given.optimizer, muon_dtype="float32")
        if given.parallel == "fsdp" and world.size > 1:
            replica: LowPrecisionReplica = ShardedReplica(model, CPU, torch.float32, world=world)
        else:
            replica = LowPrecisionReplica(accelerate_training(GPT(model)), torch.float32, world=world)
        optimizer = make_optimizer(replica.model, config, muon=replica.muon)
        rows = world.size * given.micro_batches
        ids = np.random.default_rng(0).integers(0, model.vocab_size, (rows, model.context_length))
        step = {"micro_batch_size": 1, "grad_clip": 1.0, "lr_scale": 0.1}
        take_step(replica, optimizer, ids, ids, **step)  # type: ignore[arg-type]
        with Traffic(world) as traffic:
            started = time.perf_counter()
            for _ in range(given.steps):
                take_step(replica, optimizer, ids, ids, **step)  # type: ignore[arg-type]
            seconds = time.perf_counter() - started
        shards = world.size if replica.is_sharded else 1
        expected = sizing.memory_to_train(model, optimizer=given.optimizer, shards=shards)
        values = {
            "processes": world.size, "parallel": given.parallel, "optimizer": given.optimizer,
            "layers": given.layers, "parameters": sizing.count_parameters(model).total,
            "micro_batches": given.micro_batches,
            "peak_mb": round((peak_memory() - before) / 1e6), "expected_mb": round(expected.total / 1e6),
            "sent_mb": {name: round(n / given.steps / 1e6, 2) for name, n in traffic.sent.items() if n},
            "seconds": round(seconds / given.steps, 3),
            "share_of_communication": round(traffic.seconds / seconds, 2),
        }  # fmt: skip
        if world.is_first:
            print(json.dumps(values))
        world.wait()


def resident() -> int:
    """Bytes of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


if __name__ == "__main__":
    main()
