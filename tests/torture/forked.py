"""The command line in a fork of this process, which has imported everything, and what a kill may do to it.

A fork is killed with SIGKILL: after some processor time, or before a file operation (a file opened for
writing, flushed, renamed or removed, a folder made or removed). A flush that is not reached may leave half of
the file.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tokenizers import Tokenizer  # noqa: F401

from gptscratch import paths
from gptscratch.cli import app, console, progress, render  # noqa: F401
from gptscratch.generation import generator  # noqa: F401
from gptscratch.report import listeners  # noqa: F401
from gptscratch.runs.checkpoint import load_state
from gptscratch.runs.metrics import read_metrics
from gptscratch.runs.tensors import load_tensors
from gptscratch.training import trainer  # noqa: F401

OPERATIONS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "test.fsync")
TIMES = ("seconds", "tokens_per_second", "peak_memory_bytes", "closing_seconds")
POLL = 0.002  # seconds between two looks at a fork's processor time


@dataclass(frozen=True)
class Kill:
    """When a fork is killed: one of these is above 0, or it is not killed."""

    operation: int = 0
    seconds: float = 0.0  # of processor time
    half: bool = False  # of a file that was about to be flushed is left


@dataclass(frozen=True)
class Ended:
    status: int  # exit code, or minus the number of a signal
    operations: int
    seconds: float  # of processor time
    output: str

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Running:
    """A command that runs in a fork; ``before`` is called in it first."""

    def __init__(
        self, *arguments: object, kill: Kill = Kill(), before: Callable[[], object] | None = None
    ) -> None:
        self._counting, pipe = os.pipe()
        self._log = os.memfd_create("output")
        self.pid = os.fork()
        if self.pid == 0:
            _run([str(argument) for argument in arguments], self._log, pipe, kill, before)
        os.close(pipe)

    @property
    def seconds(self) -> float:
        """Processor time: clock_getcpuclockid(3)."""
        with contextlib.suppress(OSError):
            return time.clock_gettime((~self.pid << 3) | 2)
        return math.inf

    def output(self) -> str:
        return os.pread(self._log, 1 << 20, 0).decode(errors="replace")

    def has(self, event: int) -> bool:
        """Whether it has ended (``os.WEXITED``) or stopped (``os.WSTOPPED``)."""
        return os.waitid(os.P_PID, self.pid, event | os.WNOHANG | os.WNOWAIT) is not None

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> Ended:
        with os.fdopen(self._counting, "rb") as operations:
            done = len(operations.read())
        _, status, used = os.wait4(self.pid, 0)
        text = self.output()
        os.close(self._log)
        return Ended(os.waitstatus_to_exitcode(status), done, used.ru_utime + used.ru_stime, text)


def gptscratch(*arguments: object, kill: Kill = Kill(), before: Callable[[], object] | None = None) -> Ended:
    """Run a command to its end, or until it is killed."""
    running = Running(*arguments, kill=kill, before=before)
    while kill.seconds and not running.has(os.WEXITED):
        if running.seconds >= kill.seconds:
            running.send(signal.SIGKILL)
            break
        time.sleep(POLL)
    return running.end()


def _run(
    arguments: list[str], log: int, pipe: int, kill: Kill, before: Callable[[], object] | None
) -> NoReturn:
    status = 70
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        torch.set_num_threads(1)
        sys.modules["gptscratch.cli.train"].STARTED = time.perf_counter()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        _count_operations(pipe, kill)
        if before is not None:
            before()
        sys.argv = ["gptscratch", *arguments]
        app.main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException as error:  # a traceback is a defect
        print("Traceback:", repr(error), file=sys.__stderr__, flush=True)
    os._exit(status)


def _count_operations(pipe: int, kill: Kill) -> None:
    """One byte goes into the pipe for each operation."""
    done = 0
    real_sync = os.fsync

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal done
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if not writes and event not in OPERATIONS:
            return
        done += 1
        os.write(pipe, b".")
        if done == kill.operation:
            if event == "test.fsync" and kill.half:
                with contextlib.suppress(OSError):  # a folder
                    os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(descriptor: int) -> None:
        sys.audit("test.fsync", descriptor)
        real_sync(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)


def unreadable(run: Path) -> list[str]:
    """Checkpoints under their final names that are not whole, and pointers to what is not there."""
    wrong = []
    for folder in (run / "checkpoints").glob("step-*"):
        try:
            load_state(folder)
            for file in folder.glob("*.safetensors"):
                load_tensors(file)
            if len(list(folder.iterdir())) != 3:
                wrong.append(f"{folder.name} has {[file.name for file in folder.iterdir()]}")
        except Exception as error:
            wrong.append(f"{folder.name}: {error!r}")
    for name in ("best.json", "last.json"):
        if (run / name).exists() and not paths.is_checkpoint(
            run / "checkpoints" / json.loads((run / name).read_text())["checkpoint"]
        ):
            wrong.append(f"{name} names a checkpoint that is gone")
    return wrong


def differences(found: Path, wanted: Path) -> list[str]:
    """What differs between two homes with a run each, times left out; what a killed process left is named."""
    wrong = [f"left: {file.relative_to(found)}" for file in found.rglob(".*.tmp")]
    own_files, their_files = _files(found), _files(wanted)
    wrong += [f"only one has {name}" for name in sorted(own_files.keys() ^ their_files.keys())]
    for name in sorted(own_files.keys() & their_files.keys()):
        own, their = own_files[name], their_files[name]
        if own.suffix == ".safetensors":
            pairs = load_tensors(own), load_tensors(their)
            equal = pairs[0].keys() == pairs[1].keys() and all(
                torch.equal(tensor, pairs[1][key]) for key, tensor in pairs[0].items()
            )
        elif own.suffix == ".jsonl":
            equal = [_timeless(r) for r in read_metrics(own)] == [_timeless(r) for r in read_metrics(their)]
        elif own.name == "plan.json":
            equal = True  # measured speeds
        elif own.suffix == ".json":
            equal = _timeless(json.loads(own.read_text())) == _timeless(json.loads(their.read_text()))
        else:
            equal = own.name == ".lock" or own.read_bytes() == their.read_bytes()
        if not equal:
            wrong.append(f"{name} differs")
    return wrong


def _files(home: Path) -> dict[str, Path]:
    files = (file for file in home.rglob("*") if file.is_file() and file.parent.name != "tokens")
    return {str(file.relative_to(home)): file for file in files}


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in TIMES}


def words(seed: int, count: int, joined: Sequence[str] = (" ", " ", " ", ".\n")) -> str:
    """Text that has something to learn in it."""
    import random

    chance = random.Random(seed)
    pairs = (("the fox", "a dog", "my cat", "her bird"), ("runs", "sleeps", "sings", "waits"))
    return "".join(chance.choice(pairs[i % 2]) + chance.choice(joined) for i in range(count))
