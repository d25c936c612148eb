"""Runs a command and prints its duration and the peak memory of it and its child processes together.

    python tests/benchmarks/peak_memory.py gptscratch tokenize big.txt

Linux: proportional set sizes (what is shared is counted once) from /proc, four times a second.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    start = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:])
    peak = alone = 0
    while process.returncode is None:
        sizes = [resident(pid) for pid in family(process.pid)]
        peak, alone = max(peak, sum(sizes)), max(alone, sizes[0])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.25)
    seconds = time.perf_counter() - start
    print(f"{seconds:.1f} s, peak {peak / 1e6:,.0f} MB with children, {alone / 1e6:,.0f} MB without")
    sys.exit(process.returncode)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        threads = [path.name for path in Path(f"/proc/{pid}/task").iterdir() if path.name != str(pid)]
        for thread in threads:
            children += Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(found for child in children for found in family(int(child)))]


def resident(pid: int) -> int:
    """Bytes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
