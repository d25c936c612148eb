"""Faults other than a kill, really injected into ``gptscratch train``: signals, disks, clocks, other runs.

    python tests/torture/faults.py

It prints a table: what was done, the exit code, whether all was right, and the last message. A run that can
be resumed must then equal one that nothing happened to, bit for bit. Linux; the disks need root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from forked import Running, differences, gptscratch, words
from kill import TINY, trained

from gptscratch import paths
from gptscratch.runs.run import read_facts

SETTINGS = TINY | {"tokenizer": "char", "dropout": 0.2, "keep_checkpoints": 1, "optimizer": "adamw"}
RESUME = ("train", "--resume", "killed")


class Faults:
    """The home folder, the straight run, and one method for each fault; they return what went wrong."""

    def __init__(self, place: Path) -> None:
        self.home, self.straight = place / "home", place / "straight"
        self.corpus = str(place / "tale.txt")
        Path(self.corpus).write_text(words(1, 1000))
        self.train = trained((self.corpus,), "killed", SETTINGS)
        self.run = self.home / "runs" / "killed"
        self.ended = gptscratch(*self.train)
        if self.ended.status:
            raise SystemExit(self.ended.output)
        self.home.rename(self.straight)

    def expect(self, status: int, *said: str) -> list[str]:
        lines = self.ended.output.replace("\n", " ")
        wrong = [f"no {text!r} in the message" for text in said if text not in lines]
        wrong += ["a traceback"] * ("Traceback" in lines)
        return wrong + [f"exit {self.ended.status}, not {status}"] * (self.ended.status != status)

    def resumed(self, command: tuple[object, ...] = RESUME) -> list[str]:
        ended = gptscratch(*command)
        return [f"the next command: {ended.output[-300:]}"] if ended.status else self.equal()

    def equal(self) -> list[str]:
        return differences(self.home, self.straight)

    def signals(
        self, *numbers: int, event: str = "open", name: str = "metrics.jsonl", at: int = 3
    ) -> list[str]:
        """The first signal comes at a file operation in training, a second one at the next flush."""
        self.ended = gptscratch(*self.train, before=lambda: _signals_at(event, name, at, numbers))
        # The second signal acts as if it were not handled.
        return self.expect(-numbers[-1] if numbers[1:] == (signal.SIGTERM,) else 130) + self.resumed()

    def suspended(self) -> list[str]:
        """Stopped for longer than the budget: the time does not count."""
        settings = {key: value for key, value in SETTINGS.items() if key != "steps"} | {"minutes": 0.1}
        command = trained((self.corpus,), "killed", settings)
        running = Running(*command, before=lambda: _signals_at("open", "metrics.jsonl", 3, (signal.SIGSTOP,)))
        _until(lambda: running.has(os.WSTOPPED))
        time.sleep(8.0)
        running.send(signal.SIGCONT)
        self.ended = running.end()
        last = read_facts(paths.find_checkpoint(self.run, which="last")[1] / "state.json")
        took = last["seconds"]
        return self.expect(0) + [f"{took} s were counted"] * (not 4.0 < took < 6.5)

    def jumping_clock(self) -> list[str]:
        """time.time goes a year forward, then a year back, again and again."""
        self.ended = gptscratch(*self.train, before=_jump)
        return self.expect(0) + self.equal()

    def full_disk(self, kilobytes: int) -> list[str]:
        with _mounted(self.home, f"size={kilobytes}k"):
            self.ended = gptscratch(*self.train)
            wrong = self.expect(1, "No space left on device")
            _mount("-o", "remount,size=64m", str(self.home))
            return wrong + self.resumed(RESUME if paths.checkpoints(self.run) else self.train)

    def full_disk_for_a_resume(self) -> list[str]:
        self.signals(signal.SIGTERM)
        shutil.rmtree(self.home)
        with _mounted(self.home, "size=64m"):
            gptscratch(*self.train, before=lambda: _signals_at("open", "metrics.jsonl", 3, (signal.SIGTERM,)))
            used = sum(file.stat().st_size // 4096 * 4 + 4 for file in self.home.rglob("*"))
            _mount("-o", f"remount,size={used + 24}k", str(self.home))
            self.ended = gptscratch(*RESUME)
            wrong = self.expect(1, "No space left on device")
            _mount("-o", "remount,size=64m", str(self.home))
            return wrong + self.resumed()

    def read_only(self) -> list[str]:
        """The run's folder becomes read-only in training."""
        run = str(self.run)

        def protect() -> None:
            _mount("--bind", run, run)
            _mount("-o", "remount,ro,bind", run)

        self.ended = gptscratch(*self.train, before=lambda: _call_at("open", "metrics.jsonl", 5, protect))
        wrong = self.expect(1, "Read-only file system", "--resume killed")
        subprocess.run(["umount", run], check=True)
        return wrong + self.resumed()

    def gone(self, what: str, status: int, *said: str) -> list[str]:
        """A folder of the run is deleted in training."""
        folder = self.run / what

        def remove() -> None:
            shutil.rmtree(folder)

        self.ended = gptscratch(*self.train, before=lambda: _call_at("open", "metrics.jsonl", 5, remove))
        if status:
            return self.expect(status, *said) + self.resumed(self.train)
        return self.expect(status, *said) + self.equal()

    def unplugged(self) -> list[str]:
        """The disk with the run disappears in training, and comes back."""
        kept = self.home.with_name("kept")

        def unplug() -> None:
            shutil.copytree(self.home, kept)
            subprocess.run(["umount", "--lazy", str(self.home)], check=True)

        self.home.mkdir()
        _mount("-t", "tmpfs", "tmpfs", str(self.home))
        self.ended = gptscratch(*self.train, before=lambda: _call_at("open", "metrics.jsonl", 5, unplug))
        shutil.rmtree(self.home)
        kept.rename(self.home)
        return self.expect(1, "was deleted or moved") + self.resumed()

    def second_run(self, *command: object) -> list[str]:
        """A command that needs the run's folder while the run trains."""
        running = self.stopped("open", "metrics.jsonl", 3)
        self.ended = gptscratch(*command)
        wrong = self.expect(2, f"process {running.pid}")
        running.send(signal.SIGCONT)
        first = running.end()
        return wrong + [first.output] * (first.status != 0) + self.equal()

    def same_tokens(self, number: int) -> list[str]:
        """Two runs prepare the same corpus; the first is stopped as it writes, then continued or killed."""
        running = self.stopped("open", "train.bin", 1)
        second = Running(*trained((self.corpus,), "second", SETTINGS))
        _until(lambda: "waiting for another" in second.output())
        running.send(signal.SIGCONT)
        running.send(number)
        first, self.ended = running.end(), second.end()
        wrong = self.expect(0) + [first.output] * (first.killed != (number == signal.SIGKILL))
        if first.killed:
            wrong += [] if gptscratch(*self.train).status == 0 else ["the first one could not be repeated"]
        own, straight = self.home / "runs" / "second", self.straight / "runs" / "killed"
        ignored = "config.json"  # which has the name
        wrong += [text for text in differences(own, straight) if ignored not in text]
        shutil.rmtree(own)
        return wrong + self.equal()

    def stopped(self, event: str, name: str, at: int) -> Running:
        """A training that has stopped itself at a file operation."""
        running = Running(*self.train, before=lambda: _signals_at(event, name, at, (signal.SIGSTOP,)))
        _until(lambda: running.has(os.WSTOPPED))
        return running


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def _call_at(event: str, name: str, at: int, call: Callable[[], None]) -> None:
    """``call`` at the n-th operation on a file of this name."""
    seen = 0

    def hook(found: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if found == event and isinstance(args[0], str | os.PathLike) and Path(args[0]).name == name:
            seen += 1
            if seen == at:
                call()

    sys.addaudithook(hook)


def _signals_at(event: str, name: str, at: int, numbers: tuple[int, ...]) -> None:
    waiting = list(numbers)

    def send() -> None:
        os.kill(os.getpid(), waiting.pop(0))

    def hook(found: str, _: tuple[Any, ...]) -> None:
        if found == "test.fsync" and waiting and len(waiting) < len(numbers):
            send()

    _call_at(event, name, at, send)
    sys.addaudithook(hook)


def _jump() -> None:
    real, looks = time.time, iter(range(10**9))
    year = 365 * 86_400

    def jumped() -> float:
        return real() + (year, 0, -year)[next(looks) % 3]

    time.time, time.time_ns = jumped, lambda: int(1e9 * jumped())


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


@contextlib.contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def cases(faults: Faults) -> dict[str, Callable[[], list[str]]]:
    """By name. Those that need root say "disk"."""
    one, two = (signal.SIGINT,), (signal.SIGINT, signal.SIGINT)
    named = {
        "SIGTERM": lambda: faults.signals(signal.SIGTERM),
        "SIGHUP": lambda: faults.signals(signal.SIGHUP),
        "SIGINT": lambda: faults.signals(*one),
        "SIGINT in an evaluation": lambda: faults.signals(*one, at=4),
        "SIGINT while it saves": lambda: faults.signals(*one, event="os.mkdir", name="checkpoints", at=1),
        "SIGINT twice, the second while it saves": lambda: faults.signals(*two),
        "SIGINT, then SIGTERM while it saves": lambda: faults.signals(signal.SIGINT, signal.SIGTERM),
        "SIGSTOP for 8 s of a run of 6 s, SIGCONT": faults.suspended,
        "the clock jumps by a year": faults.jumping_clock,
        "checkpoints/ is deleted": lambda: faults.gone("checkpoints", 0),
        "the run's folder is deleted": lambda: faults.gone("", 1, "was deleted or moved"),
        "a second run of the same name": lambda: faults.second_run(*faults.train),
        "the same with --force": lambda: faults.second_run(*faults.train, "--force"),
        "a resume of a run being trained": lambda: faults.second_run(*RESUME),
        "two runs prepare the same tokens": lambda: faults.same_tokens(signal.SIGCONT),
        "the same, and one is killed": lambda: faults.same_tokens(signal.SIGKILL),
    }
    if os.geteuid() == 0:
        for size in (8, 16, 24, 40, 64, 80, 96, 112, 128, 144, 160):
            named[f"a disk of {size} kB is full"] = lambda size=size: faults.full_disk(size)
        named["a full disk for a resume"] = faults.full_disk_for_a_resume
        named["a disk becomes read-only"] = faults.read_only
        named["a disk is unplugged"] = faults.unplugged
    return named


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="*", default=[""], help="cases whose name contains one of these texts"
    )
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["GPTSCRATCH_HOME"] = str(place / "home")
        faults = Faults(place)
        for name, case in cases(faults).items():
            if any(text in name for text in given.only):
                wrong = case()
                failed += bool(wrong)
                message = [line.strip() for line in faults.ended.output.splitlines() if line.strip()][-1:]
                print(
                    f"| {name} | {faults.ended.status} | {wrong or 'as it should be'} | {message} |",
                    flush=True,
                )
                shutil.rmtree(faults.home, ignore_errors=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
