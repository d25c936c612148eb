"""Cost of a run in addition to its steps, and cost by the size of the corpus.

    python tests/benchmarks/train_costs.py share tinyshakespeare.txt --minutes 10
    python tests/benchmarks/train_costs.py run path/to/run --seconds 601
    python tests/benchmarks/train_costs.py size --megabytes 1 100 5000
    python tests/benchmarks/train_costs.py estimates tinyshakespeare.txt --optimizers muon adamw --threads 1 2

``share`` makes the plan for N minutes, runs some of its steps, and times each thing between steps (logging,
saving, evaluation, a sample, the final score) in its planned size; the time of each multiplied by how often
it is planned is its share. ``run`` compares the steps of a finished run with the duration of its process.
``size`` trains a small model on token files of each size (uint16, a million random tokens repeated).
``estimates`` compares the plan's time and memory with those of whole runs, each in a process of its own.
``share``, ``size`` and ``estimates`` count processor time, the plan's measurement too; run the first two on
one thread: OMP_NUM_THREADS=1. A processor without AVX-512 is emulated by ATEN_CPU_CAPABILITY=avx2
ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

from gptscratch.data.token_files import Manifest, SplitCounts, manifest_json
from gptscratch.generation.generator import sample_text
from gptscratch.runs.metrics import read_metrics
from gptscratch.tokenizer import Tokenizer, build_tokenizer
from gptscratch.training import loop, trainer, whole_run
from gptscratch.training.callbacks import CALLBACKS, Callback
from gptscratch.training.context import TrainContext
from gptscratch.training.events import Planned
from gptscratch.training.planning import plan_run as planning

WHAT = ("share", "run", "size", "one-size", "estimates", "one-estimate")
STEPS = 8  # of the plan, in ``share``
SMALL = {"n_layer": 4, "d_model": 128, "context_length": 128, "batch_size": 16}
BLOCK = 1_000_000  # tokens
RUNS = (  # for ``estimates``: each takes about 15 seconds of an AVX-512 core
    "tokenizer=char n_layer=2 d_model=64 context_length=64 batch_size=16 steps=800",
    "tokenizer=char n_layer=4 d_model=128 context_length=128 batch_size=16 steps=150",
    "tokenizer=bpe data.vocab_size=4096 n_layer=3 d_model=128 context_length=128 batch_size=16 steps=100",
    "tokenizer=char n_layer=4 d_model=192 context_length=256 batch_size=12 dropout=0.1 steps=50",
    "tokenizer=char n_layer=6 d_model=256 context_length=256 batch_size=16 steps=15",
    "tokenizer=char n_layer=6 d_model=384 context_length=256 batch_size=16 steps=8",
)


def share(corpus: Path, minutes: float) -> None:
    """Print the table of a planned run's parts."""
    plan, _ = planning.plan_run({"corpus": str(corpus), "minutes": minutes})
    train = plan.config.train
    took: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            started = time.process_time()
            result = work(*arguments)
            took[name].append(time.process_time() - started)
            return result

        return wrapped

    loop.CALLBACKS = tuple(_due(hook, timed(hook.__name__, hook)) for hook in CALLBACKS)  # type: ignore[misc]
    loop.step_that_fits = timed("step", loop.step_that_fits)
    whole_run._evaluate_best = timed("final score", whole_run._evaluate_best)
    settings = {**plan.config.to_dict(), "name": ""}
    flat = {f"{part}.{key}": value for part in ("model", "train") for key, value in settings[part].items()}
    length = {"train.minutes": None, "train.steps": STEPS}
    every = {"train.log_interval": 2, "train.eval_interval": 2, "train.save_interval": 2}
    flat.pop("model.vocab_size")
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(
            corpus, out=Path(folder) / "run", sample_text=sample_text, **{**flat, **length, **every}
        )

    calls = Counter(step=plan.steps)
    for name, interval in (("log", train.log_interval), ("save", train.eval_interval)):
        calls[name] = plan.steps // interval + 1
    calls["evaluate"] = calls["sample"] = calls["save"]
    calls["final score"] = 1
    whole = {name: count * median(took[name][1:] or took[name]) for name, count in calls.items()}
    total = sum(whole.values())
    print(
        f"\n{corpus.name}, plan for {minutes:g} minutes: {plan.parameters:,} parameters, {plan.steps:,} steps"
    )
    print("\n| part | times | seconds each | share |")
    print("| --- | ---: | ---: | ---: |")
    for name, seconds in whole.items():
        print(f"| {name} | {calls[name]:,} | {seconds / calls[name]:.3f} | {seconds / total:.2%} |")
    print(f"| all but the steps | | | {1 - whole['step'] / total:.2%} |")


def _due(hook: Callback, timed: Callback) -> Callback:
    """Only the calls in which something was done are counted."""

    def called(context: TrainContext) -> None:
        (timed if context.state.step % 2 == 0 or context.finished else hook)(context)

    return called


def finished(run: Path, seconds: float) -> None:
    """Print the time in the steps of a run, by its own log, and the share of everything else."""
    tokens, in_steps = 0, 0.0
    for record in read_metrics(run / "metrics.jsonl"):
        if "train_loss" in record:
            in_steps += (record["tokens"] - tokens) / record["tokens_per_second"]
            tokens = record["tokens"]
    share = 1 - in_steps / seconds
    print(f"{in_steps:.1f} of {seconds:.1f} s in steps; all else, start and end too: {share:.2%}")


def size(megabytes: float, steps: int) -> dict[str, float]:
    """Train in this process on token files of that size; tokens per second and memory (Linux).

    The peak counts the pages of the files that are mapped at the moment, which the system may take back
    at any time; ``own`` is what the process has besides, at the end.
    """
    time.perf_counter = time.process_time
    with tempfile.TemporaryDirectory() as folder:
        files = write_tokens(Path(folder) / "tokens", round(megabytes * 1e6 / 2))
        out = Path(folder) / "run"
        trainer.train(files, out=out, steps=steps, log_interval=5, eval_interval=steps, sample_interval=0,
                      eval_tokens=2048, **SMALL)  # fmt: skip
        rates = [r["tokens_per_second"] for r in read_metrics(out / "metrics.jsonl") if "train_loss" in r]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    own = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))
    return {"tokens_per_second": median(rates[1:]), "peak": peak, "own": own}


def write_tokens(folder: Path, n_tokens: int) -> Path:
    """A folder of token files whose training side is as long as asked."""
    ids = np.random.default_rng(0).integers(0, 256, BLOCK).astype(np.uint16)
    tokenizer = Tokenizer(build_tokenizer("byte", [], alphabet=""))
    lengths = {"train": n_tokens, "val": 20_000}
    folder.mkdir()
    for side, length in lengths.items():
        with (folder / f"{side}.bin").open("wb") as file:
            for done in range(0, length, BLOCK):
                ids[: min(BLOCK, length - done)].astype("<u2").tofile(file)
    counts = {s: SplitCounts(documents=1, characters=n, bytes=n, tokens=n) for s, n in lengths.items()}
    manifest = Manifest(
        key="", dtype="uint16", vocab_size=tokenizer.vocab_size, tokenizer_kind=tokenizer.kind,
        tokenizer_hash=tokenizer.hash, lossy=False, corpus_hash="random", end_of_text=None, files=1,
        skipped=0, split="tail", documents=1, distinct_characters=1, train=counts["train"], val=counts["val"],
    )  # fmt: skip
    tokenizer.save(folder / "tokenizer.json")
    (folder / "manifest.json").write_text(manifest_json(manifest))
    return folder


def sizes(megabytes: list[float], steps: int) -> None:
    """Each size in a process of its own, so that the peaks are its own."""
    print("| token files | tokens/s | µs per token | peak with mapped pages | without |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for number in megabytes:
        command = [sys.executable, __file__, "one-size", "--megabytes", str(number), "--steps", str(steps)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rate, peak, own = (found[name] for name in ("tokens_per_second", "peak", "own"))
        print(f"| {number:,.0f} MB | {rate:,.0f} | {1e6 / rate:.1f} "
              f"| {peak / 1e6:,.0f} MB | {own / 1e6:,.0f} MB |", flush=True)  # fmt: skip


def estimates(corpus: Path, optimizers: list[str], threads: list[int], compiles: bool) -> None:
    """Print the plan's estimates and what whole runs took."""
    print("| settings | threads | seconds planned | measured | | memory planned | measured | |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for run, optimizer, number in itertools.product(RUNS, optimizers, threads):
        settings = f"{run} optimizer={optimizer}{' compile=true' * compiles}"
        command = [sys.executable, __file__, "one-estimate", str(corpus), "--settings", *settings.split()]
        environment = {**os.environ, "OMP_NUM_THREADS": str(number)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        output, _ = process.communicate()
        found = json.loads(output.splitlines()[-1])
        cells = [f"`{settings}`", f"{number}"]
        for planned, measured, form in (("planned", "seconds", "{:.1f}"), ("memory", "peak", "{:,.0f} MB")):
            ratio = found[planned] / found[measured]
            cells += [form.format(found[planned]), form.format(found[measured]), f"{ratio - 1:+.0%}"]
        print("|", " | ".join(cells), "|", flush=True)


def estimate(corpus: Path, settings: dict[str, str]) -> dict[str, float]:
    """Train in this process, by the processor's clock; what was planned and what it took."""
    started, plans = time.process_time(), []
    with tempfile.TemporaryDirectory() as home, patch("time.perf_counter", time.process_time):
        os.environ["GPTSCRATCH_HOME"] = home
        settings_and_more = {"sample_interval": 0, "device": "cpu", **settings}

        def note(event: object) -> None:
            plans.extend([event.plan] if isinstance(event, Planned) else [])

        trainer.train(corpus, out=Path(home) / "run", on_event=note, started=started, **settings_and_more)
    return {
        "planned": plans[-1].seconds,
        "seconds": time.process_time() - started,
        "memory": plans[-1].memory_bytes / 1e6,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("path", type=Path, nargs="?", help="of the corpus (share) or the run (run)")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, help="that the run's process took")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1, 100, 5000])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--optimizers", nargs="+", default=["muon", "adamw"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--settings", nargs="*", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if "size" not in arguments.what and arguments.path is None:
        parser.error(f"{arguments.what} needs a path")
    if arguments.what == "share":
        share(arguments.path, arguments.minutes)
    elif arguments.what == "estimates":
        estimates(arguments.path, arguments.optimizers, arguments.threads, arguments.compile)
    elif arguments.what == "one-estimate":
        print(json.dumps(estimate(arguments.path, dict(pair.split("=", 1) for pair in arguments.settings))))
    elif arguments.what == "run":
        finished(arguments.path, arguments.seconds)
    elif arguments.what == "size":
        sizes(arguments.megabytes, arguments.steps)
    else:
        print(json.dumps(size(arguments.megabytes[0], arguments.steps)))


if __name__ == "__main__":
    main()
