"""Runs with one fault each, and what ``gptscratch doctor`` finds in them.

``python tests/benchmarks/doctor_examples.py TEXT``
The runs are small: a few minutes in all on one core. docs/doctor.md has the results. Two rules are about
other programs that use the machine; for them, the script uses the processor itself.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gptscratch.generation.generator import sample_text
from gptscratch.report.copies import measure_copies
from gptscratch.report.doctor import diagnose
from gptscratch.report.record import read_report
from gptscratch.training.events import Event, Logged
from gptscratch.training.trainer import train

SMALL: dict[str, Any] = {
    "n_layer": 2, "d_model": 64, "n_head": 2, "context_length": 64, "batch_size": 12, "tokenizer": "char",
    "steps": 200, "eval_interval": 25, "log_interval": 2, "sample_interval": 0, "device": "cpu",
}  # fmt: skip


def cases(text: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """For each fault a text and settings."""
    paragraphs = text[:60_000].split("\n\n")
    chance = random.Random(0)
    repeated = [paragraph for _ in range(5) for paragraph in chance.sample(paragraphs, len(paragraphs))]
    log = (
        f"2026-01-{i % 28 + 1:02d} INFO worker {i % 4}: heartbeat received, queue empty" for i in range(8000)
    )
    return {
        "overfitting": (text[:20_000], {"steps": 500, "dropout": 0.0}),
        "learning rate too high": (text, {"learning_rate": 3.0, "adamw_learning_rate": 2.0}),
        "learning rate too low": (text, {"learning_rate": 0.001, "adamw_learning_rate": 0.001}),
        "too short": (text, {"steps": 100}),
        "twice as long": (text, {"steps": 200}),
        "small steps": (text, {"batch_size": 1, "steps": 300}),
        "too large": (text[:8_000], {"steps": 30, "n_layer": 4}),
        "too small": (text[:60_000], {"n_layer": 1, "d_model": 8, "n_head": 1, "steps": 400}),
        "vocabulary too large": (text[:100_000], {"tokenizer": "bpe", "data.vocab_size": 4096, "steps": 30}),
        "duplicated": ("\n\n".join(repeated), {"steps": 60}),
        "copies": (text[:8_000], {"steps": 500, "dropout": 0.0, "eval_interval": 500}),
        "leak": (text[:-60_000] + text[-18_000:], {"data.val_file": text[-60_000:], "steps": 20}),
        "repeats": ("\n".join(log), {"steps": 150, "sample_interval": 50}),
        "other programs": (text, {"n_layer": 3}),
        "none": (text, {"steps": 1200, "batch_size": 32}),
    }


def busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


def disturb(event: Event) -> None:
    """Let other processes use every core in the middle of the run."""
    if isinstance(event, Logged) and event.step == 60:
        for _ in range(3 * (os.cpu_count() or 1)):
            multiprocessing.Process(target=busy, args=(10,), daemon=True).start()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--only", nargs="*", default=())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GPTSCRATCH_HOME"] = folder
        for name, (text, settings) in cases(arguments.text.read_text(encoding="utf-8")).items():
            if arguments.only and name not in arguments.only:
                continue
            corpus = Path(folder) / f"{name}.txt"
            corpus.write_text(text, encoding="utf-8")
            if "data.val_file" in settings:
                validation = Path(folder) / "validation.txt"
                validation.write_text(settings["data.val_file"], encoding="utf-8")
                settings["data.val_file"] = str(validation)
            listener = {"on_event": disturb} if name == "other programs" else {}
            run = train(corpus, name=name, sample_text=sample_text, **SMALL | settings, **listener).run  # type: ignore[arg-type]
            report = read_report(run)
            found = [(each.name, each.evidence) for each in diagnose(report, measure_copies(run))]
            loss = report.described.summary.best_val_loss
            print(json.dumps({"fault": name, "val_loss": loss, "found": found}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
