"""A computing process: when it began, and how it waits for its other threads, before torch is loaded.

By default OpenMP's threads spin while they wait, which is fastest on an idle machine. Where other processes
need the same cores, each wait lasts until the scheduler turns round, and two trainings on two cores were seen
to slow one another down six to fifty times. Asleep while waiting, they share the cores as one would expect.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_LOOKS = 5
_PAUSE = 0.004  # seconds between looks


def age() -> float:
    """Seconds since this process began, its interpreter's start among them (Linux; elsewhere 0)."""
    try:
        began = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def sleep_while_waiting_on_busy_machines() -> None:
    """Let threads sleep, not spin, if other processes need their cores now (Linux; elsewhere nothing)."""
    if "OMP_WAIT_POLICY" not in os.environ and _threads() > 1 and _is_busy():
        os.environ["OMP_WAIT_POLICY"] = "passive"


def one_thread_for_tokenizers() -> None:
    """The tokenizers library takes all cores for itself otherwise: for a process that is one of many."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _is_busy() -> bool:
    """Whether in most of a few looks more threads were running than the cores have room for with ours."""
    free = _cores() - _threads()
    looks = []
    for _ in range(_LOOKS):
        looks.append(_running() - 1 > free)  # one of them is this process
        time.sleep(_PAUSE)
    return sum(looks) > _LOOKS // 2


def _running() -> int:
    """How many threads of all processes are computing, or wait for a core to do so; 0 where nobody tells."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return 0


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads() -> int:
    """How many OpenMP will use."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(given) if given.isdecimal() and int(given) else _cores()
