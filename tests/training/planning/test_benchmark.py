"""How long a step takes, measured: what the plan of a run by time is made from."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from gptscratch import sizing
from gptscratch.config import RunConfig
from gptscratch.device import _free_group_memory, free_memory
from gptscratch.training.planning import benchmark, heuristics, plan_run
from gptscratch.training.planning.benchmark import speed_of, timed

CPU = torch.device("cpu")
BATCH = RunConfig().with_settings(
    {
        "n_layer": 2, "d_model": 64, "n_head": 2, "context_length": 64, "model.vocab_size": 67,
        "batch_size": 32, "micro_batch_size": 16, "steps": 1,
    }
)  # fmt: skip


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_one_sequence_shows_how_long_a_whole_batch_takes(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.perf_counter", time.process_time)  # other processes may use the processor
    config = BATCH.with_settings({"optimizer": optimizer})
    whole, few = (speed_of(config, rows, CPU, torch.float32, limit=0.3) for rows in (32, 1))
    for found, wanted in zip(few, whole, strict=True):
        assert 0.15 < found / wanted < 8  # one at a time is less efficient, but it is not a whole batch


def test_the_first_call_does_not_count_and_the_limit_ends_the_rest() -> None:
    calls: list[int] = []
    assert len(timed(lambda: calls.append(1), limit=0.0)) == 1
    assert len(calls) == 2
    assert len(timed(lambda: calls.append(1), limit=60.0, most=4)) == 4


def test_a_plan_by_steps_is_measured_too(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_run, "measured_speed", lambda *_: (2.0, 1.0))
    settings = {"corpus": str(corpus), "steps": 30_000, "n_layer": 1, "tokenizer": "char", "device": "cpu"}
    plan, _ = plan_run.plan_run(settings)
    assert plan.steps == 30_000
    assert plan.seconds == pytest.approx(30_000 * 2.0, rel=0.2)


def test_a_measurement_that_changes_the_shape_is_made_again(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large.txt"
    large.write_text(100 * corpus.read_text(encoding="utf-8"), encoding="utf-8")
    measured: list[int] = []

    def seconds(config: RunConfig, *_: object) -> tuple[float, float]:
        measured.append(config.model.d_model)
        tokens = config.train.batch_size * config.model.context_length
        return sizing.training_flops_per_token(config.model) * tokens / 1e11, 0.0

    monkeypatch.setattr(plan_run, "measured_speed", seconds)
    monkeypatch.setattr(plan_run, "matmul_rate", lambda *_: 3e12)  # a first plan that is much too large
    monkeypatch.setattr(heuristics, "useful_epochs", lambda *_, **__: 1e9)
    monkeypatch.setattr(heuristics, "most_parameters", lambda _tokens: 1e12)
    settings = {"corpus": str(large), "minutes": 5.0, "tokenizer": "char", "device": "cpu"}
    plan, _ = plan_run.plan_run(settings)
    assert len(measured) > 1
    assert plan.config.model.d_model == measured[-1]
    assert plan.steps * seconds(plan.config)[0] == pytest.approx(285, rel=0.1)


def test_memory_that_runs_out_while_measuring_is_tried_with_fewer_sequences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[int] = []

    def small(_config: RunConfig, rows: int, *_: object, **__: object) -> tuple[float, float]:
        tried.append(rows)
        if rows > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return 0.01, 0.0

    monkeypatch.setattr(benchmark, "speed_of", small)
    config = BATCH.with_settings({"steps": None, "minutes": 5.0, "batch_size": 8})
    for most, found in ((2, (0.01, 0.0)), (0, None)):
        tried.clear()
        assert benchmark.measured_speed(config, 0.001, 300.0, CPU, torch.float32) == found
        assert tried == ([8, 4, 2] if most else [8, 4, 2, 1])


def test_free_memory_is_asked_for_and_a_containers_limit_holds(tmp_path: Path) -> None:
    assert 10**8 < free_memory(CPU) < 10**14
    files = {"max": "1000\n", "current": "600\n", "stat": "anon 300\ninactive_file 250\n"}
    for name, text in files.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert _free_group_memory(tmp_path) == 650
    (tmp_path / "memory.max").write_text("max\n")
    assert _free_group_memory(tmp_path) == 0
    assert _free_group_memory(tmp_path / "nowhere") == 0


def test_a_run_of_a_few_seconds_is_not_measured_before(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_run, "measured_speed", lambda *_: pytest.fail("it was measured"))
    settings = {"corpus": str(corpus), "steps": 30, "n_layer": 1, "tokenizer": "char", "device": "cpu"}
    plan, _ = plan_run.plan_run(settings)
    assert plan.seconds < plan_run.WORTH_MEASURING
