"""Quality of the plan: what a rule or a setting is worth, at equal compute, on text that was never used.

    python tests/benchmarks/plan_quality.py tinyshakespeare.txt --minutes 1
    python tests/benchmarks/plan_quality.py reviews.txt:200000 --tera 2 --seeds 1 2 3 \\
        --points "char: tokenizer=char" "BPE: tokenizer=bpe" "wide: n_layer=3 d_model=192 context_length=128"

A text is a file, of which ``:BYTES`` keeps the beginning. Its last tenth is the test part: it is cut off
before anything else, the validation part of the rest chooses the checkpoint, and the test part gives the
figure (bits per byte, as ``gptscratch score`` does). Rules are tuned on tiny Shakespeare and TinyStories
and reported on other texts.

A point is a name and settings of ``gptscratch.train``. What it does not give is planned, for ``--minutes``
on a machine of plan_table.py, whose stored facts are used. ``--tera`` is the compute of each run in 10^12
FLOPs (6 N + 12 L H K T for each token), from which the tokens follow; without it they are those of the
plan. So a busy machine changes nothing. The table has the mean over the seeds and their spread (largest -
smallest). Runs that are in the results file are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

TEST_SHARE = 0.1
LENGTHS = {"steps", "epochs", "tokens"}
SHAPE = ("n_layer", "d_model", "context_length")
LIMITS = ("tera", "minutes", "machine")  # of a run


def parts(text: str, folder: Path) -> tuple[Path, str]:
    """A file with the text to train and validate on, and the test text."""
    name, _, limit = text.partition(":")
    found = Path(name).read_bytes()[: int(limit) if limit else None].decode("utf-8", errors="ignore")
    cut = int((1 - TEST_SHARE) * len(found))
    file = folder / "corpus.txt"
    file.write_text(found[:cut], encoding="utf-8")
    return file, found[cut:]


def run(text: str, settings: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and score once."""
    from gptscratch import load, sizing
    from gptscratch.generation.scoring import score
    from gptscratch.training import trainer
    from gptscratch.training.planning import plan_run as planning

    table = runpy.run_path(str(Path(__file__).parent / "plan_table.py"))
    _, dtype, rate, _, _ = table["MACHINES"][arguments.machine]
    stored = {"measured_speed": lambda *_: None, "matmul_rate": lambda *_: rate}
    with tempfile.TemporaryDirectory() as home, patch.multiple(planning, **stored):
        os.environ["GPTSCRATCH_HOME"] = home
        corpus, test = parts(text, Path(home))
        given = {"train.dtype": dtype, "device": "cpu", **settings}
        if not settings.keys() & LENGTHS:
            minutes = {"minutes": arguments.minutes, "corpus": str(corpus)}
            plan, _ = planning.plan_run({**given, **minutes})
            model, tokens = plan.config.model, plan.tokens
            if arguments.tera:
                tokens = round(arguments.tera * 1e12 / sizing.training_flops_per_token(model))
            given = {**{name: getattr(model, name) for name in SHAPE}, **given, "tokens": tokens}
        began = time.process_time()
        result = trainer.train(corpus, out=Path(home) / "run", sample_interval=0, **given)
        seconds = time.process_time() - began
        generator = load(Path(home) / "run", device="cpu")
        found = score(generator, test)
        config = json.loads((Path(home) / "run" / "config.json").read_text(encoding="utf-8"))
    model, train = generator.model.config, config["train"]
    return {
        "bits_per_byte": found.bits_per_byte,
        "parameters": sizing.count_parameters(model).total,
        "tokens": result.tokens,
        "steps": result.step,
        "best_step": result.best_step,
        "seconds": seconds,
        "plan": f"{generator.tokenizer.kind} {model.vocab_size:,}, {model.n_layer} x {model.d_model}, "
        f"context {model.context_length}, batch {train['batch_size']}, rate {train['learning_rate']:.3g}, "
        f"decay {train['weight_decay']:.2g}, dropout {model.dropout:g}",
    }


def known(results: Path) -> list[dict[str, Any]]:
    lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    return [json.loads(line) for line in lines]


def table(records: list[dict[str, Any]]) -> None:
    """Each text with its points, the best first."""
    print(
        "| text | compute | machine | point | settings | tokens | best at | bits per byte | spread | runs "
        "| seconds |"
    )
    print("| --- | ---: | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        key = tuple(record.get(name, "") for name in ("text", *LIMITS, "point", "given"))
        groups.setdefault(key, []).append(record)
    for (text, tera, minutes, machine, point, given), runs in sorted(
        groups.items(), key=lambda item: (item[0][:4], mean(r["bits_per_byte"] for r in item[1]))
    ):
        bits = [r["bits_per_byte"] for r in runs]
        best = mean(r["best_step"] / r["steps"] for r in runs)
        compute = f"{tera:g} T" if tera else f"{minutes:g} min"
        name = f"{point}: {given}" if given else point
        cells = (text, compute, machine, name, runs[0]["plan"], f"{runs[0]['tokens']:,}", f"{best:.0%}",
                 f"{mean(bits):.4f}", f"{max(bits) - min(bits):.4f}", f"{len(runs)}",
                 f"{mean(r['seconds'] for r in runs):.0f}")  # fmt: skip
        print("|", " | ".join(cells), "|")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", nargs="*", help="FILE or FILE:BYTES; none: print the results")
    parser.add_argument("--points", nargs="+", default=["plan:"], help='"NAME: KEY=VALUE KEY=VALUE"')
    parser.add_argument("--seeds", nargs="+", default=["1"])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--tera", type=float, default=0.0)
    parser.add_argument("--machine", default="2 cores, AVX-512")
    parser.add_argument("--results", type=Path, default=Path("plan_quality.jsonl"))
    arguments = parser.parse_args()
    for text in arguments.texts:
        for seed in arguments.seeds:
            for point in arguments.points:
                name, _, given = point.partition(":")
                limits = {limit: getattr(arguments, limit) for limit in LIMITS}
                key = {"text": Path(text).name, **limits, "point": name, "given": given.strip(), "seed": seed}
                if any(key.items() <= record.items() for record in known(arguments.results)):
                    continue
                settings = dict(pair.split("=", 1) for pair in given.split())
                found = {**key, **run(text, {"seed": seed, **settings}, arguments)}
                with arguments.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
                print(f"{text}, {name}, seed {seed}: {found['bits_per_byte']:.4f}", file=sys.stderr)
    table(known(arguments.results))


if __name__ == "__main__":
    main()
