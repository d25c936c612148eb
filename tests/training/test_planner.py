"""The plan as arithmetic: what it chooses for a corpus, a machine and a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gptscratch import sizing
from gptscratch.config import DataConfig
from gptscratch.training import rules
from gptscratch.training.planner import Plan, make_plan
from gptscratch.training.rules import Facts

LAPTOP = Facts(
    train_tokens=1_000_000, train_bytes=1_000_000, val_tokens=112_000, vocab_size=67,
    device="cpu", dtype="bfloat16", flops_per_second=8e11,
)  # fmt: skip
SMALL = dataclasses.replace(LAPTOP, train_tokens=20_000, train_bytes=20_000, val_tokens=2_000)


def plan(facts: Facts = LAPTOP, **settings: Any) -> Plan:
    return make_plan(settings, DataConfig(corpus=("a.txt",)), facts)


def blocks(found: Plan) -> int:
    return sizing.count_parameters(found.config.model).non_embedding


def test_without_a_horizon_five_minutes_are_planned() -> None:
    assert plan().config.train.minutes == 5
    assert plan().seconds == 300


def test_more_time_never_gives_a_smaller_model_and_much_more_a_larger() -> None:
    sizes = [blocks(plan(minutes=minutes)) for minutes in (0.1, 1, 3, 10, 60)]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 20 * sizes[0]


def test_what_is_given_is_kept_and_the_rest_planned_around_it() -> None:
    given = {"n_layer": 3, "learning_rate": 0.007, "batch_size": 6, "dropout": 0.3, "eval_interval": 17}
    found = plan(minutes=2, **given).config
    kept = {**dataclasses.asdict(found.model), **dataclasses.asdict(found.train)}
    assert {name: kept[name] for name in given} == given
    assert found.model.d_model > 0
    assert found.train.adamw_learning_rate > 0


def test_the_tokens_to_come_fit_into_the_time() -> None:
    found = plan(minutes=10)
    seconds = found.tokens / rules.tokens_per_second(found.config.model, LAPTOP)
    assert 0.85 * 600 < seconds < 600


def test_a_step_that_does_not_fit_into_memory_is_made_in_even_passes() -> None:
    wide = {"n_layer": 12, "d_model": 768, "n_head": 12, "context_length": 1024, "steps": 100}
    found = plan(dataclasses.replace(LAPTOP, vocab_size=50_000), batch_size=23, **wide)
    at_once = found.config.train.micro_batch
    assert 1 < at_once < 23
    activations = [
        sizing.memory_to_train(found.config.model, micro_batch=n, dtype="bfloat16").activations
        for n in (0, at_once)
    ]
    assert activations[1] - activations[0] < 2.1 * 2**30
    passes = -(-23 // at_once)
    assert at_once * passes - 23 < passes


def test_memory_is_at_least_what_preparing_the_corpus_took() -> None:
    least = plan(minutes=1).memory_bytes
    assert plan(dataclasses.replace(LAPTOP, peak_bytes=10), minutes=1).memory_bytes == least
    assert plan(dataclasses.replace(LAPTOP, peak_bytes=3 * least), minutes=1).memory_bytes == 3 * least


def test_a_machine_that_is_measured_as_slower_is_given_less_to_do() -> None:
    slower = plan(dataclasses.replace(LAPTOP, speed=0.1), minutes=10)
    assert blocks(slower) < blocks(plan(minutes=10))
    assert slower.tokens < plan(minutes=10).tokens


@pytest.mark.parametrize("val_tokens", [112_000, 5_000_000])
def test_scoring_takes_a_small_part_of_ten_minutes(val_tokens: int) -> None:
    found = plan(dataclasses.replace(LAPTOP, val_tokens=val_tokens), minutes=10)
    train = found.config.train
    scored = found.steps / train.eval_interval * train.eval_tokens + train.final_eval_tokens
    assert scored / 1.5 < 0.035 * found.tokens  # scoring a token costs two thirds of training on it


def test_a_run_of_so_many_steps_is_scored_on_all_that_is_held_back() -> None:
    assert plan(steps=50).config.train.final_eval_tokens == LAPTOP.val_tokens


def test_a_small_corpus_ends_early_and_says_so() -> None:
    found = plan(SMALL, minutes=10)
    assert found.config.train.minutes < 5
    assert found.seconds == pytest.approx(60 * found.config.train.minutes)
    assert found.epochs == pytest.approx(rules.useful_epochs(SMALL.train_tokens), rel=0.05)
    assert any("by heart" in notice for notice in found.notices)
    assert not any("by heart" in notice for notice in plan(minutes=10).notices)


def test_epochs_that_are_asked_for_are_made() -> None:
    assert plan(SMALL, epochs=200).epochs == pytest.approx(200, rel=0.05)


def test_a_small_corpus_gets_a_smaller_model() -> None:
    assert blocks(plan(SMALL, minutes=10)) < 0.2 * blocks(plan(minutes=10))


def test_a_very_small_corpus_says_what_to_expect() -> None:
    few = dataclasses.replace(SMALL, train_tokens=4_000, train_bytes=4_000, val_tokens=400)
    assert any("4 kB" in notice and "expect" in notice for notice in plan(few).notices)
    assert not plan(minutes=1).notices
