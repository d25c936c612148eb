"""Kill ``gptscratch train`` at random moments, repeat or resume it, and compare it with one never killed.

    python tests/torture/kill.py --kills 200 --seed 1

Each scenario has settings of its own and a straight run; its other runs are killed with SIGKILL, half of them
after a random part of the processor time and half before a random file operation, some of them several times.
After each kill every checkpoint must be whole; at the end all files must be equal, bit for bit, and no
temporary file may be left. The last line printed is a JSON object with the counts. Linux only.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from forked import Ended, Kill, differences, gptscratch, unreadable, words

from gptscratch import paths
from gptscratch.runs.run import read_facts

TINY: dict[str, Any] = {
    "n_layer": 1, "n_head": 2, "d_model": 16, "context_length": 16, "batch_size": 4, "micro_batch_size": 2,
    "steps": 24, "log_interval": 3, "eval_interval": 8, "save_interval": 4, "sample_interval": 0,
    "eval_tokens": 64, "device": "cpu", "seed": 1337,
}  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """What is done before, the command that is killed, and the settings that both have."""

    kind: str
    settings: dict[str, Any]
    corpus: tuple[str, ...]
    before: list[tuple[object, ...]] = field(default_factory=list)
    options: tuple[object, ...] = ()

    def next_command(self) -> tuple[object, ...]:
        """What the user would type now: a resume if there is something to resume."""
        run = paths.run_dir("killed")
        own = read_facts(run / "config.json").get("train", {}).get("seed") == self.settings["seed"]
        if self.kind == "go back":
            return ("train", "--resume", paths.checkpoint_dir(run, 8))
        if self.kind == "train longer":
            return ("train", "--resume", "killed", "--steps", self.settings["steps"])
        if own and paths.checkpoints(run):
            return ("train", "--resume", "killed")
        return trained(self.corpus, "killed", self.settings, *self.options)


def trained(
    corpus: tuple[str, ...], name: str, settings: dict[str, Any], *options: object
) -> tuple[object, ...]:
    pairs = (part for key, value in settings.items() for part in ("--set", f"{key}={value}"))
    return ("train", *corpus, "--name", name, *pairs, *options)


def scenario(chance: random.Random, place: Path) -> Scenario:
    """A random one: a kind, a corpus of one or many documents, a tokenizer, an optimizer, and so on."""
    kind = chance.choice(
        ("train", "train", "train", "go back", "train longer", "replace", "fine-tune", "LoRA")
    )
    documents = chance.choice(("packed", "packed", "masked", "padded"))
    one, many = str(place / "tale.txt"), str(place / "tales")
    settings = TINY | {
        "optimizer": chance.choice(("adamw", "muon")),
        "dtype": chance.choice(("float32", "bfloat16")),
        "micro_batch_size": chance.choice((1, 3, 4)),
        "keep_checkpoints": chance.choice((1, 2, 3)),
        "sample_interval": chance.choice((0, 8)),
        "documents": documents,
    }
    shape = {
        "tokenizer": chance.choice(("char", "bpe", "word", "byte")),
        "dropout": chance.choice((0.0, 0.2)),
        "n_kv_head": chance.choice((1, 2)),
    }
    if shape["tokenizer"] == "bpe":
        shape["data.vocab_size"] = 280
    corpus = chance.choice(((one,), (f"{one}=0.7", f"{many}=0.3"))) if documents == "packed" else (many,)
    if kind in ("fine-tune", "LoRA"):
        base = trained((one,), "base", TINY | shape | {"steps": 8, "documents": "packed"})
        options: tuple[object, ...] = ("--init-from", "base")
        if kind == "LoRA":
            options += ("--lora-rank", 2)
        elif documents == "packed":
            options += ("--keep-file", one)
        fixed = {key: value for key, value in settings.items() if not key.startswith(("n_", "d_", "context"))}
        return Scenario(kind, fixed, (many,), [base], options)
    settings |= shape
    if kind == "go back":
        before = trained(corpus, "killed", settings | {"keep_checkpoints": 9})
        return Scenario(kind, settings, corpus, [before])
    if kind == "train longer":
        before = trained(corpus, "killed", settings | {"steps": 10, "lr_schedule": "constant"})
        return Scenario(kind, settings, corpus, [before])
    if kind == "replace":
        before = trained((many,), "killed", TINY | {"seed": 5, "steps": 8})
        return Scenario(kind, settings, corpus, [before], ("--force",))
    return Scenario(kind, settings, corpus)


class Torture:
    """Runs scenarios, and counts."""

    def __init__(self, place: Path, chance: random.Random, again: float) -> None:
        self.place, self.chance, self.again = place, chance, again
        self.home = place / "home"
        os.environ["GPTSCRATCH_HOME"] = str(self.home)
        self.counts: collections.Counter[str] = collections.Counter(kills=0, runs=0, equal=0)

    def copy(self, home: Path) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        if home.exists():
            shutil.copytree(home, self.home)

    def run(self, scene: Scenario, times: int) -> None:
        """The straight run, and some that are killed."""
        first, straight = self.place / "first", self.place / "straight"
        for folder in (first, straight, self.home):
            shutil.rmtree(folder, ignore_errors=True)
        for command in scene.before:
            self.require(gptscratch(*command))
        if self.home.exists():
            shutil.copytree(self.home, first)
        ended = self.require(gptscratch(*scene.next_command()))
        self.home.rename(straight)
        for _ in range(times):
            self.copy(first)
            wrong = self.killed(scene, ended)
            wrong += differences(self.home, straight)
            self.counts["runs"] += 1
            self.counts["different" if wrong else "equal"] += 1
            print(
                f"{scene.kind} {scene.corpus} {scene.settings} {scene.options}: {wrong or 'equal'}",
                flush=True,
            )

    def killed(self, scene: Scenario, straight: Ended) -> list[str]:
        """Kill and repeat until it ends by itself; returns what was wrong on the way."""
        wrong: list[str] = []
        kills = 0
        while True:
            again = not kills or self.chance.random() < self.again
            ended = gptscratch(*scene.next_command(), kill=self.kill(straight) if again else Kill())
            if not ended.killed:
                return wrong if ended.status == 0 else [*wrong, f"exit {ended.status}: {ended.output[-900:]}"]
            kills += 1
            self.counts["kills"] += 1
            self.counts[f"killed while it {self.phase()}"] += 1
            wrong += unreadable(paths.run_dir("killed"))

    def kill(self, straight: Ended) -> Kill:
        if self.chance.random() < 0.5:
            return Kill(seconds=max(0.01, self.chance.random() * straight.seconds))
        at = self.chance.randint(1, straight.operations)
        return Kill(operation=at, half=self.chance.random() < 0.5)

    def phase(self) -> str:
        """What the killed process was doing, by what it left."""
        run = paths.run_dir("killed")
        left = [file for file in self.home.rglob(".*.tmp") if file.parent.name != "tokens"]
        if not (run / "config.json").exists() or list((self.home / "tokens").glob(".*.tmp")):
            return "prepared"
        if any(".removed." in file.name for file in left):
            return "deleted a checkpoint"
        return "wrote a file" if left else "trained"

    def require(self, ended: Ended) -> Ended:
        if ended.status:
            raise SystemExit(f"a run that was not killed ended with {ended.status}: {ended.output}")
        return ended


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", type=float, default=0.4, help="probability that a repetition is killed")
    parser.add_argument("--times", type=int, default=4, help="runs of each scenario")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "tales").mkdir()
        (place / "tale.txt").write_text(words(1, 1000))
        for number in range(12):
            (place / "tales" / f"{number}.txt").write_text(words(number, 40 + 20 * number))
        torture = Torture(place, chance, given.again)
        while torture.counts["kills"] < given.kills:
            torture.run(scenario(chance, place), given.times)
    print(json.dumps(torture.counts))
    return int(torture.counts["equal"] != torture.counts["runs"])


if __name__ == "__main__":
    sys.exit(main())
