"""What a run of a million steps on 100 GB of tokens costs in addition to its steps, next to a small one.

    python tests/benchmarks/long_run.py
    python tests/benchmarks/long_run.py --gigabytes 0.002 100 --steps 100 1000000 --documents packed

The token files are sparse: all zeros, and no space on the disk. Each row is a process of its own: it plans
and starts a run of that many steps, trains a few, pretends that all but a few of the others were made (a step
of the checkpoint, a metrics.jsonl with a line per step), and resumes it. Times are processor time, so run it
on one thread: OMP_NUM_THREADS=1. ``memory`` is what the process has besides mapped files. Linux.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gptscratch import paths
from gptscratch.data.batches import Batches
from gptscratch.data.token_files import Manifest, SplitCounts, manifest_json, open_tokens
from gptscratch.report.record import read_report
from gptscratch.runs.summary import describe_run
from gptscratch.tokenizer import Tokenizer
from gptscratch.training import trainer
from gptscratch.training.events import Event, Logged, Notice, Started

SMALL = {"n_layer": 1, "d_model": 32, "n_head": 1, "context_length": 256, "batch_size": 4, "log_interval": 1}
LEFT = 8  # steps that are made before the pretended ones, and after them


def sparse_tokens(folder: Path, n_bytes: float, documents: str) -> Path:
    """A folder of token files of zeros, a tenth of them for validation."""
    tokenizer = Tokenizer.of_bytes()
    folder.mkdir()
    counts = {}
    for side, share in (("train", 0.9), ("val", 0.1)):
        n = max(2000, int(n_bytes * share / 2))
        with (folder / f"{side}.bin").open("wb") as file:
            file.truncate(2 * n)
        counts[side] = SplitCounts(documents=1, characters=n, bytes=n, tokens=n)
    manifest = Manifest(
        key="", dtype="uint16", vocab_size=tokenizer.vocab_size, tokenizer_kind="byte",
        tokenizer_hash=tokenizer.hash, lossy=False, corpus_hash="zeros",
        end_of_text=None if documents == "packed" else tokenizer.eot_id, files=1, skipped=0, split="tail",
        documents=1, distinct_characters=1, train=counts["train"], val=counts["val"],
    )  # fmt: skip
    tokenizer.save(folder / "tokenizer.json")
    (folder / "manifest.json").write_text(manifest_json(manifest), encoding="utf-8")
    return folder


class Clock:
    """A listener of training that notes when it begins and when each step ends."""

    def __init__(self) -> None:
        self.called = time.process_time()
        self.started = 0.0
        self.steps: list[float] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self.started = time.process_time() - self.called
        elif isinstance(event, Logged):
            self.steps.append(time.process_time())
            if len(self.steps) == LEFT and event.step == LEFT:
                raise KeyboardInterrupt  # the pretended steps follow
        elif isinstance(event, Notice) and "memory" in event.text:
            raise SystemExit(event.text)

    @property
    def milliseconds(self) -> float:
        return 1e3 * median(np.diff(self.steps).tolist())


def pretend(run: Path, step: int) -> None:
    """Make the run's checkpoint that of a later step, with a line of metrics.jsonl for each step."""
    folder = paths.checkpoints(run)[-1][1]
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"step": step}))
    folder.rename(paths.checkpoint_dir(run, step))
    for name in ("last.json", "best.json"):
        if (run / name).exists():
            values = json.loads((run / name).read_text())
            (run / name).write_text(json.dumps(values | {"checkpoint": paths.checkpoint_dir(run, step).name}))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    logged = json.loads(next(line for line in lines if "train_loss" in line))
    with (run / "metrics.jsonl").open("w") as file:
        file.writelines(json.dumps(logged | {"step": i}) + "\n" for i in range(1, step + 1))


def measure(n_bytes: float, steps: int, documents: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokens = sparse_tokens(folder / "tokens", n_bytes, documents)
        first, second = Clock(), Clock()
        settings = {**SMALL, "steps": steps, "save_interval": LEFT - 1, "eval_tokens": 1024, "device": "cpu",
                    "final_eval_tokens": 1024, "sample_interval": 0, "documents": documents}  # fmt: skip
        try:
            trainer.train(tokens, out=folder / "run", on_event=first, eval_interval=steps, **settings)
        except KeyboardInterrupt:
            pretend(folder / "run", steps - LEFT)
        second.called = time.process_time()
        trainer.resume(folder / "run", on_event=second)
        found = {
            "start": first.started, "resume": second.started,
            "first_steps": first.milliseconds, "last_steps": second.milliseconds,
            "info": seconds(lambda: describe_run(folder / "run")),
            "report": seconds(lambda: read_report(folder / "run")),
        }  # fmt: skip
        batches = Batches(open_tokens(tokens).train, SMALL["context_length"], 64, 0)
        found["epoch"] = 1e3 * seconds(lambda: batches.batch(10**6))
        found["batch"] = 1e3 * min(seconds(lambda i=i: batches.batch(10**6 + i)) for i in range(1, 20))
        found["lines"] = (folder / "run" / "metrics.jsonl").read_bytes().count(b"\n")
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found["memory"] = next(int(line.split()[1]) / 1e3 for line in status.splitlines() if "RssAnon" in line)
    return found


def seconds(call: Any) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


COLUMNS = {
    "start": "start, s", "first_steps": "step, ms", "resume": "resume, s", "last_steps": "step, ms",
    "epoch": "first batch of an epoch, ms", "batch": "batch of 64, ms", "info": "info, s",
    "report": "report, s", "memory": "memory, MB",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.002, 100])
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 1_000_000])
    parser.add_argument("--documents", choices=("packed", "masked", "padded"), default="packed")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(1e9 * options.gigabytes[0], options.steps[0], options.documents)))
        return
    print(f"| tokens, {options.documents} | steps | {' | '.join(COLUMNS.values())} |")
    print("| ---: " * (2 + len(COLUMNS)) + "|")
    for size in options.gigabytes:
        for steps in options.steps:
            command = [sys.executable, __file__, "--one", "--gigabytes", str(size), "--steps", str(steps),
                       "--documents", options.documents]  # fmt: skip
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            cells = " | ".join(f"{found[name]:,.2f}" for name in COLUMNS)
            print(f"| {size:g} GB | {steps:,} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
