"""Calls ``train`` in several processes as torchrun would, but imports torch once: ``processes.py JOB.json``.

The job: {"sizes": [2, 4], "calls": [{the arguments of train, and "at": {rank: [step, signal]}}]}. Every
process writes the learning rates of each call to JOB.json.SIZE.RANK, as shares of the peak, or why it ended.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from gptscratch.distributed import joined
from gptscratch.training import loop
from gptscratch.training.context import TrainContext
from gptscratch.training.trainer import train


def main(file: str) -> None:
    job = json.loads(Path(file).read_text())
    for size in job["sizes"]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        world = {
            "WORLD_SIZE": size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "LOCAL_WORLD_SIZE": size,
        }
        children = []
        for rank in range(size):
            if not (child := os.fork()):
                os.environ |= {k: str(v) for k, v in {**world, "RANK": rank, "LOCAL_RANK": rank}.items()}
                follow(job["calls"], rank, size, Path(f"{file}.{size}.{rank}"))
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)


def follow(calls: list[dict[str, Any]], rank: int, size: int, results: Path) -> None:
    callbacks = loop.CALLBACKS
    with joined():
        for call in calls:
            step, number = call.get("at", {}).get(str(rank), (-1, 0))

            rates: list[float] = []

            def send(
                context: TrainContext, step: int = step, number: int = number, rates: list[float] = rates
            ) -> None:
                rates.append(context.lr_scale)
                if context.state.step == step:
                    signal.raise_signal(number)

            loop.CALLBACKS = (send, *callbacks)
            settings = {name: value for name, value in call.items() if name != "at"}
            try:
                result = train(**settings | {"name": f"{call['name']}-{size}"})
                found = f"interrupted at {result.step}" if result.interrupted else f"rates {rates}"
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            with results.open("a") as lines:
                lines.write(f"{found}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
