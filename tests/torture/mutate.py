"""Runs commands on damaged and hostile files: each must succeed or end with one message and exit code 1 or 2.

    python tests/torture/mutate.py --kind config --count 10000 --seed 1

For each mutation a file of a real run, corpus, tokenizer or model is changed and one command reads it, in a
forked process that has 5 s of processor time and 1 GB of memory. A failure is a traceback, a Python warning,
a crash, a run over the time or the memory, a file written or read outside the run, or a started program.
``--only N`` repeats the mutation of that number and shows what it printed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import os
import pkgutil
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.torture import fixtures, mutations as m  # noqa: E402

SECONDS, WAITING, MEMORY, BATCH = 5, 40, 1 << 30, 25
SLOW = ("train", "report")  # taken less often
READING = ("info", "runs", "compare", "score", "doctor", "http")  # these change no file of the fixtures


@dataclass(frozen=True)
class Kind:
    """Files (patterns below the folder of the fixtures), how they are damaged, and the commands that read them."""

    files: Sequence[str]
    damage: m.Mutation
    commands: Sequence[str]


LIGHT = (
    "info tale",
    "info",
    "runs",
    "info tale --json",
    "compare tale tuned",
    "report tale --no-copies --html r.html --force",
)
LOADING = (
    "sample tale --max-tokens 3 --prompt the", "score in.txt --with tale", "doctor tale --no-copies", "export tale --out hf",
    "export tale --format gguf --out g", "train --resume tale --steps 26", "cache", "train in.txt --init-from tale --steps 1 --name n",
    "sample tale --max-tokens 3 --no-copy-ngram 3",
)  # fmt: skip
TUNED = (
    "info tuned",
    "sample tuned --max-tokens 3",
    "train --resume tuned --steps 10",
    "export tuned --format peft --out p",
)
TRAIN = "train in.txt --steps 1 --device cpu"
KINDS = {
    "config": Kind(["home/runs/tale/config.json"], m.any_of(*[m.damaged_json] * 4, m.damaged_bytes), (*LIGHT, *LOADING)),
    "state": Kind(
        [f"home/runs/tale/{name}" for name in ("checkpoints/*/state.json", "best.json", "last.json", "plan.json")]
        + ["home/runs/tuned/fine_tuning.json"],
        m.any_of(*[m.damaged_json] * 4, m.damaged_bytes), (*LIGHT, *LOADING[:7], "info tuned", "train --resume tuned --steps 10"),
    ),
    "logs": Kind(
        ["home/runs/tale/metrics.jsonl", "home/runs/tale/samples.jsonl"], m.any_of(*[m.damaged_lines] * 4, m.damaged_bytes),
        ("report tale --no-copies --html r.html --force", "train --resume tale --steps 26", "doctor tale --no-copies", "info tale", "compare tale tuned"),
    ),
    "weights": Kind(["home/runs/*/checkpoints/*/*.safetensors", "home/runs/tuned/base.safetensors"],
                    m.any_of(m.damaged_header, m.damaged_header, m.damaged_bytes), (*LOADING, *TUNED)),
    "tokenizer": Kind(
        ["home/runs/tale/tokenizer.json", "tokenizers/*.json"], m.any_of(*[m.damaged_tokenizer] * 3, m.damaged_json, m.damaged_bytes),
        ("tokenize in.txt --tokenizer FILE --out t", "tokenize --text abc --with FILE", "tokenize in.txt --stats --with FILE",
         "sample tale --max-tokens 3 --prompt the", "score in.txt --with tale", "train --resume tale --steps 26", "export tale --out hf",
         "export tale --format gguf --out g", f"{TRAIN} --tokenizer FILE", "import foreign/ckpt.pt --tokenizer FILE"),
    ),
    "tokens": Kind(["home/tokens/*/*"], m.any_of(m.damaged_json, m.damaged_bytes),
                   ("info home/tokens/HASH", "cache", "cache clear --yes", "train --resume tale --steps 26", "tokenize tale.txt --tokenizer char", *LIGHT[-1:], LOADING[2], LOADING[-1])),
    "corpus": Kind(["corpora/*"], m.damaged_bytes,
                   ("tokenize FILE --out t", "tokenize FILE --stats", "score FILE --with tale", "tokenize corpora --out t", "tokenize FILE --encoding auto --out t",
                    "tokenize FILE --encoding-errors replace --tokenizer byte --out t", "sample tale --max-tokens 3 --prompt-file FILE",
                    "tokenize FILE --clean dedup --clean html --out t", "tokenize in.txt --val-file FILE --out t", "sample tale --max-tokens 2 --prompts FILE --out o.jsonl")),
    "settings": Kind(["settings/*.json"], m.any_of(*[m.damaged_json] * 5, m.damaged_bytes), (f"{TRAIN} --config FILE", "train tale.txt --config FILE --steps 1")),
    "import": Kind(["foreign/*/*.json", "foreign/*/*.safetensors"], m.any_of(m.damaged_json, m.damaged_json, m.damaged_bytes),
                   ("import FOLDER --name new", "train in.txt --init-from FOLDER --steps 1 --name n")),
    "pickle": Kind(["foreign/ckpt.pt"], m.any_of(m.damaged_archive, m.damaged_archive, m.damaged_bytes), ("import foreign/ckpt.pt --tokenizer tokenizers/char.json",)),
    "files": Kind(["home/runs/tale/*", "home/runs/tale/checkpoints", "home/runs/tale/checkpoints/*", "home/runs/tale/checkpoints/*/*", "home/tokens/*", "home/tokens/*/*", "foreign/llama/*", "corpora/*"],
                  m.damaged_bytes, (*LIGHT, *LOADING, "import foreign/llama", "tokenize corpora --out t", "info home/tokens/HASH", "cache clear --yes", "runs rm tale --yes", "train tale.txt --name tale --force --steps 1")),
    "http": Kind(["requests/*.json"], m.any_of(*[m.damaged_json] * 4, m.damaged_bytes), ("http",)),
}  # fmt: skip


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
    os.environ.update(GPTSCRATCH_HOME=str(folder / "work/home"), TMPDIR=str(folder / "work"), TOKENIZERS_PARALLELISM="false",
                      MALLOC_ARENA_MAX="1", RAYON_NUM_THREADS="1", COLUMNS="100", HF_HUB_OFFLINE="1")  # fmt: skip
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


class Task:
    """The mutations of one kind: number -> file, bytes, command."""

    is_changed = True  # the folder of the commands

    def __init__(self, folder: Path, kind: Kind, name: str, seed: int) -> None:
        self.folder, self.kind, self.name, self.seed = folder, kind, name, seed
        self.files = sorted(f for pattern in kind.files for f in (folder / "pristine").glob(pattern))
        assert self.files
        self.hash = next((folder / "pristine/home/tokens").iterdir()).name
        self.outside = self.snapshot()
        self.client: Any = None
        self.found: collections.Counter[str] = collections.Counter()

    def chance(self, number: int) -> random.Random:
        return random.Random(f"{self.name} {self.seed} {number}")

    def choice(self, chance: random.Random) -> tuple[Path, list[str]]:
        file = chance.choice(self.files)
        weights = [1 if command.startswith(SLOW) else 4 for command in self.kind.commands]
        (command,) = chance.choices(self.kind.commands, weights)
        names = {
            "FILE": str(file.relative_to(self.folder / "pristine")),
            "FOLDER": str(file.parent.relative_to(self.folder / "pristine")),
        }
        words = [names.get(word, word.replace("HASH", self.hash)) for word in command.split()]
        return file, words

    def what(self, number: int) -> str:
        file, words = self.choice(self.chance(number))
        return f"{file.relative_to(self.folder / 'pristine')}, {' '.join(words)}"

    def one(self, number: int) -> str:
        """The outcome of a mutation, in one line."""
        chance = self.chance(number)
        file, words = self.choice(chance)
        work = self.folder / "work"
        if self.is_changed:
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(self.folder / "pristine", work)
        self.is_changed = self.name == "files" or words[0] not in READING
        target = work / file.relative_to(self.folder / "pristine")
        os.chdir(work)
        if self.name == "files":
            replaced(chance, target, self.folder / "outside")
        elif self.name == "pickle" and chance.random() < 0.1:
            target.write_bytes(m.malicious_pickle(self.folder / "outside/executed"))
        elif target.suffix == ".safetensors" and self.name == "import":
            target.write_bytes(m.any_of(m.damaged_header, m.damaged_bytes)(chance, target.read_bytes()))
        else:
            target.write_bytes(self.kind.damage(chance, target.read_bytes()))
        outcome = self.requested(target.read_bytes()) if words == ["http"] else self.called(words)
        if not self.is_changed:
            shutil.copyfile(file, target)
        if self.snapshot() != self.outside:
            outcome = "wrote outside"
        return outcome.replace("\n", " ")

    def snapshot(self) -> dict[str, Any]:
        files = sorted((self.folder / "outside").rglob("*"))
        return {str(f): (f.stat().st_size, f.stat().st_mtime_ns) for f in files}

    def called(self, words: Sequence[str]) -> str:
        """Run a command as the program does; its output goes to a file."""
        from gptscratch.cli import app

        guard = Guard(self.folder)
        with redirected(self.folder / "output", echo=False):
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                with guard:
                    code = app._exit_code(words)
            except BaseException as error:  # noqa: BLE001
                frames = [f for f in traceback.extract_tb(error.__traceback__) if "gptscratch" in f.filename][
                    -2:
                ]
                where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
                traceback.print_exc()
                return f"traceback {type(error).__name__} {where}| {str(error)[:200]}"
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        printed = (self.folder / "output").read_text(errors="replace")
        if guard.found:
            return f"escape: {guard.found[0]}"
        if code not in (0, 1, 2):
            return f"exit code {code}"
        if "Warning" in printed or "Traceback" in printed or "panicked" in printed:
            line = next(
                each
                for each in printed.split("\n")
                if any(w in each for w in ("Warning", "Traceback", "panicked"))
            )
            return f"printed {line[:60]}| {printed[-300:]!r}"
        if code and "error:" not in printed:
            return f"no message| {printed[-300:]!r}"
        return f"exit {code}"

    def requested(self, body: bytes) -> str:
        """POST a body to the server's application, in this process."""
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            with redirected(self.folder / "output", echo=False):
                self.client = self.client or fixtures.client()
                answer = self.client.post(
                    "/v1/completions", content=body, headers={"Content-Type": "application/json"}
                )
        except BaseException as error:  # noqa: BLE001
            return f"traceback {type(error).__name__}| {error}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if answer.status_code not in (200, 400, 404, 413):
            return f"status {answer.status_code}| {answer.text[:200]}"
        return "exit 0" if answer.status_code == 200 else "exit 2"


class Guard:
    """Notes files that are opened outside of the folder, started programs and connections."""

    active: Guard | None = None
    installed = False

    def __init__(self, folder: Path) -> None:
        self.work, self.outside, self.found = str(folder / "work"), str(folder / "outside"), list[str]()

    def __enter__(self) -> None:
        if not Guard.installed:
            sys.addaudithook(
                lambda event, arguments: Guard.active.saw(event, arguments) if Guard.active else None
            )
        Guard.active, Guard.installed = self, True

    def __exit__(self, *_: object) -> None:
        Guard.active = None

    def saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in (
            "os.system",
            "subprocess.Popen",
            "os.exec",
            "os.posix_spawn",
            "socket.connect",
            "pickle.find_class",
        ):
            self.found.append(f"{event} {str(arguments)[:100]}")
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path, flags = os.fsdecode(arguments[0]), arguments[2]
            is_writing = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if is_writing or "outside" in path or "shm" in path:
                real = os.path.realpath(path)
                if real.startswith(self.outside) or (
                    is_writing and not real.startswith((self.work, "/dev/null"))
                ):
                    self.found.append(f"{'writes' if is_writing else 'reads'} {real}")


def replaced(chance: random.Random, target: Path, outside: Path) -> None:
    """Something else in place of a file or folder: a link, a pipe, a device, nothing."""
    is_dir = target.is_dir()
    twin = outside / target.name
    shutil.rmtree(target) if is_dir else target.unlink()
    what = chance.randrange(9)
    if what == 0:
        os.mkfifo(target)
    elif what in (1, 2, 3):
        target.symlink_to(next(iter(outside.rglob(target.name)), twin))
    elif what == 4:
        target.symlink_to(
            chance.choice(("/dev/zero", "/dev/random", "/proc/self/mem", "/dev/full", "/dev/null"))
        )
    elif what == 5:
        target.symlink_to(target.name)
    elif what == 6:
        target.write_bytes(b"{}") if is_dir else target.mkdir()
    elif what == 7:
        with target.open("wb") as file:
            file.truncate(3 << 30)  # sparse
        if chance.random() < 0.5:
            os.truncate(target, 1 << 27)


@contextlib.contextmanager
def redirected(file: Path, *, echo: bool) -> Any:
    """stdout and stderr of this process go to a file, those of libraries too; stdin is empty."""
    sys.stdout.flush()
    kept = [os.dup(number) for number in range(3)]
    with file.open("w+b") as out, open(os.devnull, "rb") as empty:
        for source, number in ((empty, 0), (out, 1), (out, 2)):
            os.dup2(source.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in enumerate(kept):
            os.dup2(copy, number)
            os.close(copy)


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
        except BaseException:  # noqa: BLE001
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
