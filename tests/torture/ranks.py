"""Kills random ranks of runs under torchrun: ``python tests/torture/ranks.py --kills 20``.

Each run is started by ``torchrun --max-restarts``, which starts all processes again whenever one is killed,
and gptscratch resumes from its last checkpoint by itself. At the end the run equals one that was never
killed: parameters, optimizer state and logged losses, bit for bit. Prints one line per run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STEPS = 200
SETTINGS = (
    f"--steps {STEPS} --layers 1 --heads 2 --d-model 32 --context-length 32 --batch-size 6 "
    "--micro-batch-size 2 --eval-interval 50 --device cpu --tokenizer char --dropout 0.1 --quiet "
    "--set save_interval=10 --set log_interval=10"
).split()
LAST_KILL = STEPS - 20  # so that there is something to kill
LONGEST = 300  # seconds of a run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--each", type=int, default=5, help="kills in a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("corpus", type=Path)
    given = parser.parse_args()
    chance, done = random.Random(given.seed), 0
    straight = {size: killed(given.corpus, f"straight-{size}", size, 0, chance) for size in given.ranks}
    while done < given.kills:
        size = given.ranks[done // given.each % len(given.ranks)]
        each = min(given.each, given.kills - done)
        run = killed(given.corpus, f"killed-{size}-{done}", size, each, chance)
        require_equal(run, straight[size])
        done += each
        print(f"{size} ranks, {each} kills: equal to the straight run", flush=True)


def killed(
    corpus: Path, name: str, size: int, kills: int, chance: random.Random, number: int = signal.SIGKILL
) -> Path:
    """Train with ``size`` ranks, send one of them the signal that many times at random moments.

    Returns:
        The run.
    """
    run = Path(os.environ["GPTSCRATCH_HOME"]) / "runs" / name
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size)]
    restarts = ["--max-restarts", str(kills), "-m", "gptscratch", "train", str(corpus)]
    with subprocess.Popen([*torchrun, *restarts, *SETTINGS, "--name", name]) as agent:
        reached = 0
        for _ in range(kills):
            reached = chance.randint(reached, max(reached, min(LAST_KILL, reached + 60)))
            wait_for(run, reached, agent)
            pause(run, chance.random())
            victims = ranks_of(agent.pid)
            assert victims, f"{name} had ended before it was killed"
            os.kill(chance.choice(victims), number)
            began = time.monotonic()
            while set(victims) & set(ranks_of(agent.pid)):
                time.sleep(0.05)
            ended = time.monotonic() - began
            print(f"killed one of {size} after step {newest(run)}; all had ended {ended:.1f} s later")
            assert ended < 60
        assert agent.wait(timeout=LONGEST) == 0
    return run


def wait_for(run: Path, step: int, agent: subprocess.Popen[Any]) -> None:
    until = time.monotonic() + LONGEST
    while newest(run) < step or not ranks_of(agent.pid):
        assert time.monotonic() < until, f"{run.name} does not reach step {step}"
        assert agent.poll() is None, "torchrun has ended"
        time.sleep(0.02)


def pause(run: Path, seconds: float) -> None:
    """Wait, but not until the run is at its end."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and newest(run) < LAST_KILL:
        time.sleep(0.01)


def newest(run: Path) -> int:
    """The step of the last checkpoint; -1: there is none."""
    try:
        return int(json.loads((run / "last.json").read_text())["step"])
    except (OSError, ValueError, KeyError):
        return -1


def ranks_of(agent: int) -> list[int]:
    """The processes that torchrun has started and that live (Linux)."""
    found = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return [int(pid) for pid in found if state_of(pid) not in ("Z", "")]


def state_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def require_equal(run: Path, straight: Path) -> None:
    last = f"checkpoints/step-{STEPS:08}"
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, other = ((folder / last / name).read_bytes() for folder in (run, straight))
        assert one == other, f"{name} of {run.name} differs"
    assert losses(run) == losses(straight), f"metrics.jsonl of {run.name} differs"


def losses(run: Path) -> list[dict[str, float]]:
    measured = {"step", "train_loss", "val_loss", "grad_norm", "tokens"}
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name in measured} for line in lines]


if __name__ == "__main__":
    main()
