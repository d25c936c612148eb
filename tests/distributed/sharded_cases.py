"""Trains with sharded parameters, and with one process; prints how far the results differ, as JSON.

    python tests/distributed/sharded_cases.py FOLDER [STEPS]

The processes are forked from this one, which has imported everything, and find each other as under torchrun.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptscratch.config import ModelConfig, TrainConfig
from gptscratch.data.document_batches import Batch
from gptscratch.distributed import World, joined
from gptscratch.model.gpt import GPT
from gptscratch.runs.tensors import load_tensors, whole
from gptscratch.training.optimizer import make_optimizer
from gptscratch.training.replica import LowPrecisionReplica
from gptscratch.training.sharded import ShardedReplica
from gptscratch.training.step import apply_grads, compute_grads, take_step
from gptscratch.training.trainer import resume, train

CPU, ROWS = torch.device("cpu"), 5
SMALL = {
    "vocab_size": 31,
    "context_length": 12,
    "n_layer": 3,
    "n_head": 4,
    "head_dim": 6,
    "d_model": 26,
    "d_ff": 37,
}
MUON = {"learning_rate": 0.01, "adamw_learning_rate": 0.003, "muon_dtype": "float32"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int | None]] = {  # model, training, end-of-text token
    "muon": ({"n_head": 4, "head_dim": 6, "n_kv_head": 2, "qk_norm": True}, MUON, None),
    "adamw": (
        {"n_head": 2, "tie_embeddings": True, "norm": "layernorm", "bias": True, "position": "learned"},
        {"optimizer": "adamw", "learning_rate": 0.003},
        3,
    ),
    "adaptive softmax": ({"n_head": 2, "adaptive_cutoffs": (8, 16), "output_bias": True}, MUON, None),
}  # fmt: skip


def batch(step: int) -> Batch:
    rows = np.random.default_rng(step).integers(0, SMALL["vocab_size"], (ROWS, SMALL["context_length"] + 1))
    return rows[:, :-1], rows[:, 1:]


def made(world: World, model: dict[str, Any], mask_at: int | None) -> LowPrecisionReplica:
    torch.manual_seed(7)
    config, r_drop = ModelConfig(**SMALL | model), 1.0 if mask_at else 0.0
    if world.size > 1:
        replica: LowPrecisionReplica = ShardedReplica(
            config, CPU, torch.float32, mask_at=mask_at, r_drop=r_drop, world=world
        )
    else:
        replica = LowPrecisionReplica(GPT(config), torch.float32, mask_at=mask_at, r_drop=r_drop)
    assert (replica.mask_at, replica.r_drop) == (mask_at, r_drop)  # without dropout it changes no loss
    return replica


def trained(world: World, case: str, steps: int) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """Losses, parameters and optimizer state of a case."""
    model, settings, mask_at = CASES[case]
    replica = made(world, model, mask_at)
    optimizer = make_optimizer(replica.model, TrainConfig(**settings), muon=replica.muon)
    losses = []
    for step in range(steps):
        result = take_step(replica, optimizer, *batch(step), micro_batch_size=2, grad_clip=0.5, lr_scale=1.0)
        losses.append(result.loss.item())
    replica.copy_weights()
    parameters = {name: whole(p).clone() for name, p in replica.model.named_parameters()}
    state = {name: whole(t).clone() for name, t in replica.saved(optimizer.state).items()}

    compute_grads(replica, *batch(0), 2)  # an update that only one rank finds to be not finite
    if world.rank == world.size - 1:
        replica.grads()[0].fill_(math.inf)
    norm = apply_grads(replica, optimizer, torch.zeros(()), grad_clip=0.5, lr_scale=1.0)
    assert not norm.isfinite()
    replica.copy_weights()
    assert all(torch.equal(whole(p), parameters[name]) for name, p in replica.model.named_parameters())
    return losses, parameters, state


def largest(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    assert found.keys() == wanted.keys()
    return max((found[name] - wanted[name]).abs().max().item() for name in wanted)


def compare(world: World, cases: Iterable[str], steps: int) -> dict[str, Any]:
    differences: dict[str, Any] = {"start": shards_start_as_the_whole(world)}
    for case in cases:
        losses, parameters, state = trained(world, case, steps)
        if world.is_first:
            theirs, their_parameters, their_state = trained(World(), case, steps)
            loss = max(abs(own - their) for own, their in zip(losses, theirs, strict=True))
            found = largest(parameters, their_parameters), largest(state, their_state)
            differences[case] = {"loss": loss, "parameters": found[0], "state": found[1]}
    return differences


def shards_start_as_the_whole(world: World) -> dict[str, Any]:
    model = CASES["adamw"][0]
    sharded, alone = made(world, model, None).model, made(World(), model, None).model
    equal = [torch.equal(whole(p), alone.get_parameter(name)) for name, p in sharded.named_parameters()]
    numbers = sum(p.to_local().numel() for p in sharded.parameters())  # type: ignore[operator]
    return {"equal": all(equal), "share": numbers / sum(p.numel() for p in alone.parameters())}


SETTINGS: dict[str, Any] = {
    "tokenizer": "char", "context_length": 12, "n_layer": 2, "n_head": 2, "n_kv_head": 1, "d_model": 26,
    "head_dim": 6, "d_ff": 37, "batch_size": ROWS, "micro_batch_size": 2, "save_interval": 6,
    "eval_interval": 6, "dtype": "float32", "device": "cpu", "warmup_steps": 2, "learning_rate": 0.01,
    "muon_dtype": "float32", "lr_schedule": "constant",
}  # fmt: skip


def begin(_: World, folder: str, name: str, **more: Any) -> dict[str, Any]:
    train(f"{folder}/corpus.txt", out=f"{folder}/{name}", **SETTINGS | more)
    return {}


def proceed(_: World, folder: str, **more: Any) -> dict[str, Any]:
    resume(f"{folder}/moved", **more)
    return {}


def forked(size: int, job: Callable[..., dict[str, Any]], *given: Any, **more: Any) -> dict[str, Any]:
    """What ``job`` returns on rank 0 of that many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results: Any = context.SimpleQueue()

    def run(rank: int) -> None:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        os.environ |= {name: str(value) for name, value in places.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        torch.set_num_threads(1)
        with joined() as world:
            found = job(world, *given, **more)
        if rank == 0:
            results.put(found)

    ranks = [context.Process(target=run, args=(rank,)) for rank in range(size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    if any(rank.exitcode for rank in ranks):
        sys.exit(f"{job.__name__} failed with {size} processes")
    return results.get()  # type: ignore[no-any-return]


def main(folder: str, steps: int = 0) -> None:
    found: dict[str, Any] = {"2": forked(2, compare, CASES, steps or 8)}
    found["4"] = forked(4, compare, CASES if steps else ["muon"], steps or 4)
    forked(1, begin, folder, "alone", steps=18)
    forked(4, begin, folder, "moved", steps=6, parallel="fsdp")
    forked(1, proceed, folder, steps=12)
    forked(2, proceed, folder, steps=18)
    for file in ("model", "optimizer"):
        own, their = (
            load_tensors(Path(folder, run, f"checkpoints/step-00000018/{file}.safetensors"))
            for run in ("moved", "alone")
        )
        found[file] = largest(own, their)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
