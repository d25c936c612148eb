"""The examples run as they are, with their own switch for small numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def output_of(command: list[str], home: Path) -> str:
    """What it prints; the scripts of this Python's environment come first."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    env = os.environ | {"GPTSCRATCH_HOME": str(home), "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=home.parent
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_the_shell_example_trains_and_writes(corpus: Path, home: Path) -> None:
    printed = output_of(["bash", str(EXAMPLES / "shakespeare.sh"), "--small", str(corpus)], home)
    assert corpus.stem in printed
    assert len(printed) > 500


def test_the_python_example_trains_and_writes(corpus: Path, home: Path) -> None:
    printed = output_of([sys.executable, str(EXAMPLES / "python_api.py"), "--small", str(corpus)], home)
    assert "validation loss" in printed
    assert "logits (1, 3, 256)" in printed
    assert "step 9: loss" in printed


def test_an_example_without_a_text_says_what_it_wants() -> None:
    for command in (["bash", "shakespeare.sh"], [sys.executable, "python_api.py"]):
        done = subprocess.run([command[0], EXAMPLES / command[1]], capture_output=True, text=True)
        assert done.returncode != 0
        assert "usage" in done.stderr
