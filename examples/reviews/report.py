"""Prints a table of the results of runs, and draws their learning curves.

python examples/reviews/report.py PICTURE RUN...      (the picture needs matplotlib)

The curves show the evaluations during training, on a fixed part of the validation reviews. The table shows
the best checkpoint, scored at the end.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

from gptscratch.paths import find_run

TARGET = {"loss": 4.967, "accuracy": 20.68, "perplexity": math.exp(4.967)}


def evaluations(run: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl with a validation loss, each with the tokens and minutes at that time."""
    found, seconds, tokens = [], 0.0, 0
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        seconds, tokens = record.get("seconds", seconds), record.get("tokens", tokens)
        if "val_loss" in record:
            found.append({**record, "minutes": seconds / 60, "tokens": tokens})
    return found


def print_table(runs: list[Path]) -> None:
    print(f"{'run':<24}{'minutes':>9}{'tokens':>9}{'loss':>9}{'accuracy':>10}{'perplexity':>12}")
    for run in runs:
        best = json.loads((run / "best.json").read_text(encoding="utf-8"))
        state = json.loads(
            (run / "checkpoints" / best["checkpoint"] / "state.json").read_text(encoding="utf-8")
        )
        minutes = evaluations(run)[-1]["minutes"]
        print(
            f"{run.name:<24}{minutes:>9.1f}{state['tokens'] / 1e6:>8.1f}M{best['val_loss']:>9.4f}"
            f"{best['val_accuracy']:>10.2%}{math.exp(best['val_loss']):>12.1f}"
        )


def draw(runs: list[Path], picture: str) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No picture was made: it needs matplotlib.")
        return
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, (name, goal) in zip(axes, TARGET.items(), strict=True):
        for run in runs:
            found = evaluations(run)
            part = found[0]["val_tokens"]  # the final evaluation uses more tokens
            points = [p for p in found if p["val_tokens"] == part]
            values = {
                "loss": [p["val_loss"] for p in points],
                "accuracy": [100 * p["val_accuracy"] for p in points],
                "perplexity": [p["val_perplexity"] for p in points],
            }[name]
            axis.plot([p["tokens"] / 1e6 for p in points], values, marker=".", label=run.name)
        axis.axhline(goal, color="gray", linestyle=":", label="the older project, 20 epochs")
        axis.set_xlabel("million words seen")
        axis.set_xscale("log")
        axis.set_title({"loss": "validation loss, nats/word", "accuracy": "accuracy, %"}.get(name, name))
    axes[1].set_ylim(bottom=5)
    axes[2].set_yscale("log")
    axes[0].legend(fontsize=8)
    figure.savefig(picture, dpi=120)
    print(f"curves in {picture}")


if __name__ == "__main__":
    runs = [find_run(name) for name in sys.argv[2:]]
    print_table(runs)
    draw(runs, sys.argv[1])
