"""The plans of the table in tests/benchmarks/plan_table.py are possible and plausible."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from gptscratch.training.planning.planner import Plan

TABLE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "plan_table.py"))
CORPORA, MINUTES = list(TABLE["CORPORA"]), TABLE["MINUTES"]


@pytest.fixture(scope="module", params=TABLE["MACHINES"])
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def plans(machine: str) -> dict[tuple[str, float], Plan]:
    return {(c, m): TABLE["planned"](machine, c, minutes=m)[0] for c in CORPORA for m in MINUTES}


def test_each_parameter_sees_enough_tokens_and_not_too_many(plans: dict[tuple[str, float], Plan]) -> None:
    for found in plans.values():
        assert 0.5 < found.tokens / TABLE["blocks"](found) < 60


def test_a_run_has_a_thousand_steps_where_the_budget_allows(plans: dict[tuple[str, float], Plan]) -> None:
    for found in plans.values():
        best_batch = found.tokens_per_step < 0.65 * found.tokens**0.571  # more with several processes
        assert found.steps >= (1000 if found.tokens > 4e6 and best_batch else 250)


def test_a_run_is_evaluated_six_to_sixteen_times_and_a_long_one_about_once_in_a_thousand_steps(
    plans: dict[tuple[str, float], Plan],
) -> None:
    for found in plans.values():
        count = found.steps / found.config.train.eval_interval
        assert 6 <= count <= max(16, found.steps / 600)


def test_a_plan_fits_into_the_memory(machine: str, plans: dict[tuple[str, float], Plan]) -> None:
    free = TABLE["MACHINES"][machine][3] << 30
    assert all(found.memory_bytes < free for found in plans.values())


def test_more_time_and_more_text_never_give_less(plans: dict[tuple[str, float], Plan]) -> None:
    sizes = {key: TABLE["blocks"](found) for key, found in plans.items()}
    flops = {key: sizes[key] * found.tokens for key, found in plans.items()}
    for corpus in CORPORA:
        for values in (sizes, flops):
            by_time = [values[corpus, minutes] for minutes in MINUTES]
            assert by_time == sorted(by_time)
    for minutes in MINUTES:  # among texts with the same vocabulary
        assert sizes["20kB", minutes] <= sizes["200kB", minutes]
        assert sizes["2GB", minutes] <= sizes["200GB", minutes]


def test_a_large_run_agrees_with_published_laws_within_a_factor_of_three(
    plans: dict[tuple[str, float], Plan],
) -> None:
    for minutes in MINUTES:
        found = plans["200GB", minutes]
        size = TABLE["blocks"](found)
        flops = 6 * size * found.tokens
        if flops > 1e17:
            assert 1 / 3 < size / TABLE["optimal_parameters"](flops) < 3
            rate = found.config.train.adamw_learning_rate
            assert 0.0005 < rate < 0.006
