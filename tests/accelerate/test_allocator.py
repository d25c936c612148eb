"""What ``device.set_up`` asks of the C library."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has the setting")
def test_memory_that_was_freed_is_not_asked_for_again() -> None:
    code = (
        "import resource, torch; from gptscratch.device import set_up; set_up(torch.device('cpu'))\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): torch.ones(5_000_000)\n"
        "before = faults()\n"
        "for _ in range(10): torch.ones(5_000_000)\n"
        "print(faults() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # of the 50,000 pages in ten times 20 MB
