"""Kill a training process at random file operations, resume it, and compare it with a run never killed.

    python tests/training/kill_points.py --count 40 --seed 1

Each process is forked from this one, which has imported everything and done nothing else. Before the chosen
operation (a file opened for writing, flushed, renamed or removed, a folder made or removed; or after half of
a safetensors file is written) it sends itself SIGKILL.
The last line printed is a JSON object with the counts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gptscratch import paths
from gptscratch.errors import CheckpointError
from gptscratch.runs import tensors as storage
from gptscratch.runs.metrics import read_metrics
from gptscratch.runs.tensors import load_tensors
from gptscratch.training.trainer import resume, train

SETTINGS: dict[str, Any] = {
    "n_layer": 1, "n_head": 2, "d_model": 16, "context_length": 16, "batch_size": 4, "micro_batch_size": 2,
    "steps": 24, "log_interval": 3, "eval_interval": 8, "save_interval": 4, "sample_interval": 0,
    "tokenizer": "char", "device": "cpu", "dtype": "float32", "optimizer": "adamw", "dropout": 0.2,
    "eval_tokens": 64,
}  # fmt: skip
OPERATIONS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "test.fsync", "test.half")
TIMES = ("seconds", "tokens_per_second")


def in_a_process(job: Callable[[], object], kill_at: int = 0) -> tuple[int, int]:
    """Run ``job`` in a fork that kills itself before operation ``kill_at``; status and operations."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _count_operations(writing, kill_at)
            job()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        done = len(pipe.read())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), done


def _count_operations(pipe: int, kill_at: int) -> None:
    """One byte goes into the pipe for each operation."""
    done = 0
    real_sync, real_save = os.fsync, storage.save_file

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal done
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if not writes and event not in OPERATIONS:
            return
        done += 1
        os.write(pipe, b".")
        if done == kill_at:
            if event == "test.half":
                os.truncate(args[0], Path(args[0]).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(descriptor: int) -> None:
        sys.audit("test.fsync", descriptor)
        real_sync(descriptor)

    def save_file(tensors: Any, path: Any, **more: Any) -> None:
        real_save(tensors, path, **more)
        sys.audit("test.half", str(path))

    os.fsync, storage.save_file = fsync, save_file
    sys.addaudithook(hook)


def differences(found: Path, wanted: Path) -> list[str]:
    """What differs between two runs, times left out."""
    own_files, their_files = dict(paths.checkpoints(found)), dict(paths.checkpoints(wanted))
    wrong = (
        []
        if own_files.keys() == their_files.keys()
        else [f"checkpoints {sorted(own_files)}, not {sorted(their_files)}"]
    )
    for step in own_files.keys() & their_files.keys():
        for file in ("model.safetensors", "optimizer.safetensors"):
            own, their = load_tensors(own_files[step] / file), load_tensors(their_files[step] / file)
            if own.keys() != their.keys() or not all(torch.equal(t, their[n]) for n, t in own.items()):
                wrong.append(f"{file} of step {step}")
        own_state, their_state = (
            {k: v for k, v in json.loads((f / "state.json").read_text()).items() if "seconds" not in k}
            for f in (own_files[step], their_files[step])
        )
        if own_state != their_state:
            wrong.append(f"state of step {step}")
    lines = [
        [{k: v for k, v in r.items() if k not in TIMES} for r in read_metrics(run / "metrics.jsonl")]
        for run in (found, wanted)
    ]
    if lines[0] != lines[1]:
        wrong.append("metrics")
    wrong += [n for n in ("best.json", "last.json") if facts_of(found / n) != facts_of(wanted / n)]
    known = {f.name for f in wanted.iterdir()} | {f.name for _, f in paths.checkpoints(found)}
    left = [
        f.name for place in (found, found / "checkpoints") for f in place.iterdir() if f.name not in known
    ]
    return wrong + [f"left: {name}" for name in left]


def facts_of(file: Path) -> dict[str, Any]:
    """Without the memory, which depends on the process."""
    return {k: v for k, v in json.loads(file.read_text()).items() if k != "peak_memory_bytes"}


def scenarios(corpus: Path, keep: int) -> dict[str, tuple[Callable[[], object], Callable[[Path], object]]]:
    """By name: what prepares the run folder's home, and the job that is killed and then repeated."""

    def begin(run: Path) -> object:
        try:
            return resume(run)
        except CheckpointError:  # killed before the first checkpoint: the same command starts it again
            return train(corpus, name="killed", keep_checkpoints=keep, **SETTINGS)

    def finished() -> object:
        return train(corpus, name="killed", keep_checkpoints=keep, **SETTINGS)

    def rewind(run: Path) -> object:
        return resume(paths.checkpoints(run)[0][1])

    return {
        "train": (lambda: None, begin),
        "go back to an older checkpoint": (finished, rewind),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=40, help="kills, over all scenarios")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", type=float, default=0.3, help="probability that a resume is killed too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    chance = random.Random(given.seed)
    totals: dict[str, int] = {}  # operations of each scenario
    counts = {"kills": 0, "runs": 0, "equal": 0, "different": 0, "failed": 0}
    with tempfile.TemporaryDirectory() as place:
        corpus = Path(place) / "corpus.txt"
        corpus.write_text(
            "".join(chance.choice(("the fox ", "a dog ", "runs. ", "sings.\n")) for _ in range(800))
        )
        while counts["kills"] < given.count:
            keep = chance.choice((1, 2, 8))
            names = scenarios(corpus, keep)
            name = chance.choice(sorted(names))
            scenario = f"{name}, keep {keep}"
            home = Path(place) / "home"  # a new one for each
            shutil.rmtree(home, ignore_errors=True)
            os.environ["GPTSCRATCH_HOME"] = str(home)
            prepare, job = names[name]
            run = paths.run_dir("killed")

            in_a_process(prepare)
            wanted = Path(place) / scenario  # the same without a kill
            if scenario not in totals:
                copy = shutil.copytree(home, Path(place) / "copy") if home.exists() else None
                status, totals[scenario] = in_a_process(lambda job=job, run=run: job(run))
                assert status == 0
                shutil.move(run, wanted)
                shutil.rmtree(home)
                if copy is not None:
                    shutil.move(copy, home)
            points, status = [], -signal.SIGKILL
            while status == -signal.SIGKILL:
                again = not points or chance.random() < given.again
                points.append(chance.randint(1, totals[scenario]) if again else 0)
                status, _ = in_a_process(lambda job=job, run=run: job(run), points[-1])
                counts["kills"] += status == -signal.SIGKILL
            wrong = differences(run, wanted) if status == 0 else ["it failed"]
            counts["runs"] += 1
            counts["failed" if status else "different" if wrong else "equal"] += 1
            print(f"{scenario}, killed at {points}: {wrong or 'equal'}", flush=True)
    print(json.dumps(counts))
    return int(counts["equal"] != counts["runs"])


if __name__ == "__main__":
    sys.exit(main())
