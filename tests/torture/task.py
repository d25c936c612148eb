"""One mutation of ``mutate.py``: a file is damaged, a command reads it, and its outcome is one line."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.torture import fixtures
from tests.torture import mutations as m
from tests.torture.kinds import READING, SLOW, Kind

SECONDS = 5  # of processor time


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
        with redirected(self.folder / "output"):
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                with guard:
                    code = app._exit_code(words)
            except BaseException as error:
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
        marks = (
            "Warning",
            "Traceback",
        )  # a panic of a library in Rust prints its own lines before it is caught
        if line := next((each for each in printed.split("\n") if any(mark in each for mark in marks)), ""):
            return f"printed {line[:60]}| {printed[-300:]!r}"
        if code and "error:" not in printed:
            return f"no message| {printed[-300:]!r}"
        return f"exit {code}"

    def requested(self, body: bytes) -> str:
        """POST a body to the server's application, in this process."""
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            with redirected(self.folder / "output"):
                self.client = self.client or fixtures.client()
                answer = self.client.post(
                    "/v1/completions", content=body, headers={"Content-Type": "application/json"}
                )
        except BaseException as error:
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
def redirected(file: Path) -> Any:
    """stdout and stderr of this process go to a file, those of libraries too; stdin is empty."""
    sys.stdout.flush()
    kept = [os.dup(number) for number in range(3)]
    with file.open("w+b") as out, Path(os.devnull).open("rb") as empty:
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
