"""Settings of a process that come before torch is loaded: how its threads wait, and when it began."""

from __future__ import annotations

import os
import time
from pathlib import Path

_LOAD_SAMPLES = 5
_PAUSE = 0.004  # seconds between samples


def age() -> float:
    """Seconds since this process began, its interpreter's start included (Linux; elsewhere 0)."""
    try:
        began = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def passive_openmp_if_busy() -> None:
    """Let threads sleep instead of spin while they wait, if other processes need their cores (Linux).

    Spinning, OpenMP's default, is fastest on an idle machine. On contended cores each wait lasts a whole time
    slice: two trainings on two cores slowed each other down six to fifty times.
    """
    if "OMP_WAIT_POLICY" not in os.environ and _threads() > 1 and _is_busy():
        os.environ["OMP_WAIT_POLICY"] = "passive"


def stay_offline() -> None:
    """Let the libraries of Hugging Face open no connection; they read this when they are imported."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def _is_busy() -> bool:
    """Whether most samples show more running threads than there are cores for them and for this process."""
    free = _cores() - _threads()
    samples = []
    for _ in range(_LOAD_SAMPLES):
        samples.append(_running() - 1 > free)  # one of them is this process
        time.sleep(_PAUSE)
    return sum(samples) > _LOAD_SAMPLES // 2


def _running() -> int:
    """How many threads of all processes are computing, or wait for a core to do so; 0 where it is unknown."""
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
