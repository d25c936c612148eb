"""Under the real torchrun: a rank that is killed, and what its agent keeps for the processes."""

from __future__ import annotations

import importlib.util
import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from gptscratch.distributed import World

RANKS = Path(__file__).parents[1] / "torture" / "ranks.py"


@pytest.fixture
def ranks() -> Any:
    spec = importlib.util.spec_from_file_location("ranks", RANKS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store, as torchrun's agent has one."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    return store


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes by /proc")
def test_a_run_whose_rank_is_killed_ends_as_if_nothing_had_happened(
    ranks: Any, corpus: Path, home: Path
) -> None:
    run, straight = (ranks.killed(corpus, f"kills-{n}", 2, n, random.Random(0)) for n in (1, 0))
    assert sorted(folder.name for folder in (home / "runs").iterdir()) == ["kills-0", "kills-1"]
    assert json.loads((run / "last.json").read_text())["finished"]
    ranks.require_equal(run, straight)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes by /proc")
def test_after_a_signal_to_a_rank_the_run_is_saved_and_not_started_again(ranks: Any, corpus: Path) -> None:
    run = ranks.killed(corpus, "stopped", 2, 1, random.Random(0), signal.SIGTERM)
    last = json.loads((run / "last.json").read_text())
    assert 0 < last["step"] < ranks.STEPS
    assert "finished" not in last


@pytest.mark.usefixtures("agent")
def test_of_several_processes_with_an_error_one_reports_it() -> None:
    assert [World(rank, 3).is_first_to_report() for rank in (1, 0, 2)] == [True, False, False]
    assert World(2, 3, restarts=1).is_first_to_report()  # the agent started them again


@pytest.mark.usefixtures("agent")
def test_the_run_of_a_call_is_remembered_until_torchrun_ends() -> None:
    World(0, 2).remember("train a.txt", "runs/a")
    assert World(0, 2).recall("train a.txt") is None  # another call that begins in the same process
    assert World(0, 2, restarts=1).recall("train a.txt") == "runs/a"
    assert World(0, 2, restarts=1).recall("train b.txt") is None


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    world = World()
    assert world.is_first
    assert world.is_first_to_report()
    world.remember("train", "runs/a")
    assert world.recall("train") is None
    assert world.broadcast("a") == "a"
    assert world.agree([1.0, 2.0], True) == ([1.0, 2.0], True)
