"""Runs that are killed at random moments; the scripts of this folder do it as often as wanted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(
    sys.platform != "linux", reason="the processor time of another process is read as Linux does"
)
def test_a_run_killed_at_random_moments_equals_one_never_killed() -> None:
    script = Path(__file__).with_name("kill.py")
    command = [sys.executable, str(script), "--kills", "4", "--times", "2", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["kills"] >= 4, done.stderr
    assert counts["equal"] == counts["runs"], done.stdout
