"""FSDP2: the results of one process, on any number of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gptscratch.config import TrainConfig
from gptscratch.errors import ConfigError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the processes are forked")
SCRIPT = Path(__file__).with_name("sharded_cases.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "corpus.txt").write_text("the cat sat on the mat, and the dog ran. " * 80, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, SCRIPT, folder], capture_output=True, text=True, timeout=300,
        env=os.environ | {"GPTSCRATCH_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


@pytest.mark.parametrize("processes", [2, 4])
def test_sharded_training_starts_and_continues_as_one_process_does(
    found: dict[str, Any], processes: int
) -> None:
    start, *cases = found[str(processes)].values()
    assert start["equal"]
    assert 1 / processes <= start["share"] < 1.2 / processes  # uneven rows
    for differences in cases:
        assert differences["loss"] < 1e-5
        assert differences["parameters"] < 1e-4
        assert differences["state"] < 1e-5


def test_a_sharded_run_continues_with_other_numbers_of_processes(found: dict[str, Any]) -> None:
    assert found["model"] < 1e-5
    assert found["optimizer"] < 1e-5


def test_adapters_are_not_sharded() -> None:
    with pytest.raises(ConfigError, match="LoRA"):
        TrainConfig(parallel="fsdp", lora_rank=4)
