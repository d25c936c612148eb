"""A computing process: when it began, and how it waits for its other threads, before torch is loaded.

By default OpenMP's threads spin while they wait, which is fastest on an idle machine. With company on
its cores each wait lasts until the scheduler turns round, and two trainings on two cores were seen to
slow one another down six to fifty times. Asleep while waiting, they share the cores as one would expect.
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


def wait_politely_in_company() -> None:
    """Let threads sleep, not spin, if other processes are computing right now (Linux; elsewhere nothing)."""
    if "OMP_WAIT_POLICY" not in os.environ and _has_company():
        os.environ["OMP_WAIT_POLICY"] = "passive"


def one_thread_for_tokenizers() -> None:
    """The tokenizers library takes all cores for itself otherwise: for a process that is one of many."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _has_company() -> bool:
    """Whether more is running than this process in most of a few looks."""
    seen = 0
    for _ in range(_LOOKS):
        try:
            running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):
            return False
        seen += running > 1
        time.sleep(_PAUSE)
    return seen > _LOOKS // 2
