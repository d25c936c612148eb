"""What a process knows of itself before torch is loaded."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from gptscratch import threads


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the age is not known")
def test_the_age_of_a_process_counts_from_its_start_and_grows() -> None:
    before = time.monotonic()
    code = "from gptscratch.threads import age; print(age())"
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert 0 < age < time.monotonic() - before + 0.02
    first = threads.age()
    assert first <= threads.age() < first + 60
