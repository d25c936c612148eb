"""Some of the faults that the script injects; those of disks need root, and are injected by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CASES = ("SIGINT twice", "SIGINT, then SIGTERM", "clock", "a resume of", "one is killed", "folder is deleted")


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and Linux clocks")
def test_a_run_survives_faults_or_reports_them() -> None:
    command = [sys.executable, str(Path(__file__).with_name("faults.py")), "--only", *CASES]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as it should be") == len(CASES)
