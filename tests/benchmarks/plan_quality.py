"""Quality of the plan: its bits per byte, compared with settings chosen by hand.

    python tests/benchmarks/plan_quality.py tinyshakespeare.txt --minutes 1 3 --results quality.jsonl

Every point is one process on one thread with the same budget of processor time, so that other processes on
the machine do not matter. Preparing the corpus and the final scoring are not counted; all points of a corpus
with the same tokenizer are scored on the same tokens. Points in the results file are not run again.

A point is written as ``bpe2048 4x192 c128 b16 r0.03``: tokenizer with its vocabulary, layers x width,
context, sequences a step, peak learning rate. ``plan`` leaves everything to the planner.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GRID = {
    "char": (
        "char 3x96 c64 b32 r0.03", "char 4x128 c64 b32 r0.03", "char 4x128 c256 b8 r0.03",
        "char 4x192 c128 b16 r0.03", "char 6x128 c128 b16 r0.03", "char 4x256 c256 b8 r0.02",
        "char 6x256 c128 b16 r0.03", "char 6x384 c256 b16 r0.02", "bpe512 4x128 c128 b16 r0.03",
        "bpe1024 4x128 c64 b16 r0.03", "bpe1024 4x192 c128 b16 r0.03", "bpe2048 4x256 c128 b16 r0.03",
    ),
    "bpe": (
        "char 4x192 c256 b8 r0.03", "bpe1024 4x128 c128 b16 r0.03", "bpe2048 3x128 c64 b32 r0.03",
        "bpe2048 4x128 c128 b16 r0.03", "bpe2048 4x192 c128 b16 r0.03", "bpe2048 4x256 c128 b16 r0.03",
        "bpe2048 6x256 c256 b16 r0.03", "bpe4096 4x128 c128 b16 r0.02", "bpe4096 4x192 c128 b16 r0.03",
        "bpe4096 4x256 c128 b16 r0.03", "bpe4096 6x256 c128 b16 r0.03", "bpe4096 6x384 c256 b16 r0.02",
        "bpe8192 4x192 c128 b16 r0.03", "bpe8192 4x256 c128 b16 r0.03", "bpe8192 6x256 c256 b16 r0.03",
    ),
}  # fmt: skip
POINT = re.compile(r"(char|byte|word|bpe)(\d*) (\d+)x(\d+) c(\d+) b(\d+) r([\d.]+)")
PLAN = "plan"


def settings_of(point: str) -> dict[str, Any]:
    """What the point gives; the rest is the planner's."""
    if point == PLAN:
        return {}
    found = POINT.fullmatch(point)
    if found is None:
        raise SystemExit(f"{point!r} is not a point. Write it like bpe2048 4x192 c128 b16 r0.03")
    kind, vocab_size, layers, width, context, batch, rate = found.groups()
    sizes = {"n_layer": int(layers), "d_model": int(width), "context_length": int(context)}
    tokenizer = {"tokenizer": kind, "data.vocab_size": int(vocab_size) if vocab_size else None}
    return {**tokenizer, **sizes, "batch_size": int(batch), "learning_rate": float(rate)}


def run_point(corpus: Path, minutes: float, settings: dict[str, Any], score_tokens: int) -> dict[str, Any]:
    """Train once in this process, by the processor's clock, and score the best checkpoint."""
    time.perf_counter = time.process_time  # before anything asks for it
    import torch

    from gptscratch import load
    from gptscratch.training import trainer
    from gptscratch.training.evaluate import Evaluator
    from gptscratch.training.planning import plan_run as planning
    from gptscratch.training.replica import LowPrecisionReplica

    plan, prepared = planning.plan_run({**settings, "corpus": str(corpus), "minutes": minutes})
    folder = Path(tempfile.mkdtemp())
    wall, began = time.monotonic(), time.process_time()
    result = trainer.train(corpus, out=folder / "run", minutes=minutes, sample_interval=0, **settings)
    seconds, wall = time.process_time() - began, time.monotonic() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    evaluator = Evaluator(LowPrecisionReplica(load(folder / "run").model, torch.float32), prepared)
    scored = evaluator(result.best_step, score_tokens)
    shutil.rmtree(folder)
    model, train = plan.config.model, plan.config.train
    return {
        "bits_per_byte": scored.val_bits_per_byte,
        "val_tokens": scored.val_tokens,
        "parameters": plan.parameters,
        "steps": result.step,
        "best_step": result.best_step,
        "tokens": result.tokens,
        "planned_tokens": plan.tokens,
        "seconds": seconds,
        "wall_seconds": wall,
        "memory": plan.memory_bytes,
        "measured_memory": peak,
        "shape": f"{prepared.tokenizer.kind}{prepared.tokenizer.vocab_size} {model.n_layer}x{model.d_model} "
        f"c{model.context_length} b{train.batch_size} r{train.learning_rate:.3g} d{model.dropout:.2g}",
    }


def spawn(corpus: Path, minutes: float, point: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run a point in a process of one thread."""
    command = [sys.executable, __file__, str(corpus), "--minutes", str(minutes), "--point", point]
    command += ["--score-tokens", str(arguments.score_tokens), "--set", *arguments.set]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def known(results: Path) -> list[dict[str, Any]]:
    lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    return [json.loads(line) for line in lines]


def table(records: list[dict[str, Any]]) -> None:
    """Each corpus and time: the plan against the best point of the grid, then every point."""
    print("| corpus | minutes | plan | best of the grid | points | plan above it |")
    print("| --- | ---: | ---: | --- | ---: | ---: |")
    for corpus, minutes in dict.fromkeys((r["corpus"], r["minutes"]) for r in records):
        mine = [r for r in records if (r["corpus"], r["minutes"]) == (corpus, minutes)]
        plans = [r for r in mine if r["point"] == PLAN]
        grid = sorted((r for r in mine if r["point"] != PLAN), key=lambda r: r["bits_per_byte"])
        if not (plans and grid):
            continue
        plan, best = plans[-1], grid[0]
        above = plan["bits_per_byte"] / best["bits_per_byte"] - 1
        print(f"| {corpus} | {minutes:g} | {plan['bits_per_byte']:.4f} ({plan['shape']}) "
              f"| {best['bits_per_byte']:.4f} ({best['point']}) | {len(grid)} | {above:+.1%} |")  # fmt: skip
    print("\n| corpus | minutes | point | parameters | steps | tokens | bits per byte | seconds |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for r in sorted(records, key=lambda r: (r["corpus"], r["minutes"], r["bits_per_byte"])):
        name = f"plan: {r['shape']}" if r["point"] == PLAN else r["point"]
        print(f"| {r['corpus']} | {r['minutes']:g} | {name} | {r['parameters']:,} | {r['steps']:,} "
              f"| {r['tokens']:,} | {r['bits_per_byte']:.4f} | {r['seconds']:.1f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0])
    parser.add_argument("--grid", choices=sorted(GRID), default="char", help="which points to run")
    parser.add_argument("--only", nargs="*", help="these points instead of the grid; plan is always run")
    parser.add_argument("--set", nargs="*", default=[], help="settings of every point, as KEY=VALUE")
    parser.add_argument("--score-tokens", type=int, default=200_000)
    parser.add_argument("--results", type=Path, default=Path("plan_quality.jsonl"))
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    extra = dict(pair.split("=", 1) for pair in arguments.set)
    if arguments.point:
        settings = {**settings_of(arguments.point), **extra}
        found = run_point(arguments.corpus, arguments.minutes[0], settings, arguments.score_tokens)
        print(json.dumps(found))
        return
    points = [PLAN, *(GRID[arguments.grid] if arguments.only is None else arguments.only)]
    for minutes in arguments.minutes:
        for point in points:
            key = {"corpus": arguments.corpus.name, "minutes": minutes, "point": point, "set": extra}
            if any(key.items() <= record.items() for record in known(arguments.results)):
                continue
            record = {**key, **spawn(arguments.corpus, minutes, point, arguments)}
            with arguments.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{minutes:g} min, {point}: {record['bits_per_byte']:.4f} bits per byte", file=sys.stderr)
    table(known(arguments.results))


if __name__ == "__main__":
    main()
