"""Runs commands on damaged and hostile files: each must succeed or end with one message and exit code 1 or 2.

    python tests/torture/mutate.py --kind config --count 10000 --seed 1

For each mutation a file of a real run, corpus, tokenizer or model is changed and one command reads it, in a
forked process that has 5 s of processor time and 1 GB of memory. A failure is a traceback, a Python warning,
a crash, a run over the time or the memory, a file written or read outside the run, or a started program.
``--only N`` repeats the mutation of that number and shows what it printed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import pkgutil
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.torture import fixtures
from tests.torture.kinds import KINDS
from tests.torture.task import SECONDS, Task

WAITING, MEMORY, BATCH = 40, 1 << 30, 25


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS, action="append", help="repeatable (default: all)")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--folder", help="keeps the fixtures for the next time")
    options = parser.parse_args()
    options.kind = options.kind or list(KINDS)
    if options.folder:
        return run(Path(options.folder).resolve(), options)
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        return run(Path(folder).resolve(), options)


def run(folder: Path, options: Any) -> int:
    begin = time.monotonic()
    os.environ |= {
        "GPTSCRATCH_HOME": str(folder / "work/home"), "TMPDIR": str(folder / "work"), "COLUMNS": "100",
        "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
        "HF_HUB_OFFLINE": "1", "RUST_BACKTRACE": "0",
    }  # fmt: skip
    if not (folder / "pristine").exists():
        if in_child(lambda: fixtures.make(folder / "work")) != 0:
            raise SystemExit("the fixtures cannot be made")
        shutil.move(folder / "work/outside", folder / "outside")
        shutil.copytree(folder / "work", folder / "pristine", symlinks=True)
    import_everything()
    tasks = [Task(folder, KINDS[name], name, options.seed) for name in options.kind]
    if options.only is not None:
        print(tasks[0].what(options.only), tasks[0].one(options.only), sep="\n")
        print((folder / "output").read_text(errors="replace")[-4000:])
        return 0
    failures, end = 0, options.first + options.count
    for number in range(options.first, end, BATCH):  # a few of each kind in turn
        if time.monotonic() - begin > 60 * options.minutes:
            break
        for task in tasks:
            following = number
            while following < min(number + BATCH, end):
                following = batch(task, following, min(number + BATCH, end))
        print(f"{min(number + BATCH, end) - options.first} of each kind", file=sys.stderr, flush=True)
    for task in tasks:
        done = task.found.total()
        failed = sum(n for outcome, n in task.found.items() if not outcome.startswith("exit "))
        print(
            f"{task.name}: {done} mutations with seed {options.seed}, {failed} failures, {dict(task.found)}"
        )
        failures += failed
    return failures


def batch(task: Task, first: int, end: int) -> int:
    """Run some mutations in one forked process; returns the number of the next one."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        limit_memory()
        for number in range(first, end):
            os.write(writing, f"{number}\t{task.one(number)}\n".encode())
        os._exit(0)
    os.close(writing)
    done, text = first, ""
    while True:
        ready, _, _ = select.select([reading], [], [], WAITING)
        if not ready and is_running(child):  # on a machine that has more to do
            continue
        part = os.read(reading, 1 << 16).decode() if ready else ""
        if not part:
            break
        text += part
        *lines, text = text.split("\n")
        for line in lines:
            number, outcome = line.split("\t", 1)
            done = int(number) + 1
            note(task, int(number), outcome)
    os.close(reading)
    if done < end:
        os.kill(child, signal.SIGKILL) if not ready else None
    _, status = os.waitpid(child, 0)
    if done < end:
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        what = (
            f"waits longer than {WAITING} s"
            if not ready
            else f"over {SECONDS} s"
            if code == -signal.SIGPROF
            else f"ended by {code}"
        )
        output = task.folder / "output"
        last = output.read_text(errors="replace").strip().split("\n")[-1][:150] if output.exists() else ""
        note(task, done, f"{what}: {last}")
        done += 1
    return done


def is_running(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "RD"


def note(task: Task, number: int, outcome: str) -> None:
    task.found[outcome.split("|")[0]] += 1
    if not outcome.startswith("exit "):
        print(f"{task.name} {number}: {task.what(number)}: {outcome}", flush=True)


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 30,) * 2)


def in_child(function: Callable[[], Any]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def import_everything() -> None:
    """So that a forked process only runs the command."""
    import gptscratch

    for module in pkgutil.walk_packages(gptscratch.__path__, "gptscratch."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(Exception):
                importlib.import_module(module.name)
    for name in (
        "pyarrow.parquet",
        "gguf",
        "charset_normalizer",
        "datasketch",
        "backports.zstd",
        "plotly",
        "jinja2",
        "httpx",
        "starlette.testclient",
        "unicodedata",
        "encodings.idna",
    ):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
