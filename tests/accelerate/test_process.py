"""The age of a process, and its thread settings before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gptscratch.accelerate import process as threads

POLICY = "OMP_WAIT_POLICY"
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc/loadavg")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(POLICY, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_cores", lambda: 4)
    monkeypatch.setattr(threads, "_PAUSE", 0.0)


@pytest.mark.parametrize(
    ("running", "given", "is_busy"),
    [(1, "", False), (2, "", True), (3, "2", False), (4, "2", True), (4, "2,1", True), (9, "1", False)],
)
def test_threads_sleep_where_others_need_their_cores(
    running: int, given: str, is_busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_running", lambda: running)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    threads.passive_openmp_if_busy()
    assert os.environ.get(POLICY) == ("passive" if is_busy else None)


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_running", lambda: 50)
    monkeypatch.setenv(POLICY, "active")
    threads.passive_openmp_if_busy()
    assert os.environ[POLICY] == "active"


@linux
def test_threads_of_other_processes_are_counted() -> None:
    with busy_processes(3):
        assert max(threads._running() for _ in range(50)) >= 3


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # it computes from here on
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the age is not known")
def test_the_age_of_a_process_counts_from_its_start_and_grows() -> None:
    before = time.monotonic()
    code = "from gptscratch.accelerate.process import age; print(age())"
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert 0 < age < time.monotonic() - before + 0.02
    first = threads.age()
    assert first <= threads.age() < first + 60
