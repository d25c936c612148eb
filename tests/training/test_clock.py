"""Time in which the process was suspended is not training time."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from gptscratch.training import clock

SUSPENDED = """
import json, sys, time
from gptscratch.training import clock

with clock.watching():
    before = clock.now(), time.perf_counter()
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps([clock.now() - before[0], time.perf_counter() - before[1]]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="Windows has no SIGSTOP")
def test_a_stopped_process_counts_no_time() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SUSPENDED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        assert select.select([child.stdout], [], [], 1.3)[0] == []
        child.send_signal(signal.SIGCONT)
        child.stdin.write("\n")
        child.stdin.flush()
        counted, passed = json.loads(child.stdout.readline())
    assert passed > 1.3
    assert counted < passed - 1.2


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """What the machine's clocks show: ``at`` in all, ``computed`` by this process."""
    shown = {"at": 100.0, "computed": 5.0}
    monkeypatch.setattr(time, "perf_counter", lambda: shown["at"])
    monkeypatch.setattr(time, "process_time", lambda: shown["computed"])
    with clock.watching():
        yield shown


@pytest.mark.parametrize(
    ("gap", "computed", "counted"),
    [
        (60.0, 0.2, 0.0),  # suspended
        (60.0, 60.0, 60.0),  # one thread computed, and the watching one had to wait
        (0.9, 0.0, 0.9),  # a busy machine
    ],
)
def test_a_gap_counts_where_the_process_computed_or_where_it_is_short(
    readings: dict[str, float], gap: float, computed: float, counted: float
) -> None:
    before = clock.now()
    readings["at"] += gap
    readings["computed"] += computed
    assert clock.now() - before == pytest.approx(counted)
    readings["at"] += 0.5
    assert clock.now() - before == pytest.approx(counted + 0.5)
