"""The plan as arithmetic: what it chooses for a corpus, a machine and a time."""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any

import pytest

from gptscratch import sizing
from gptscratch.config import DataConfig, ModelConfig, TrainConfig, flattened, qualified
from gptscratch.config.setting import CHOSEN, settings_of
from gptscratch.errors import ConfigError
from gptscratch.training.planning import heuristics
from gptscratch.training.planning.heuristics import Facts
from gptscratch.training.planning.planner import Plan, make_plan

LAPTOP = Facts(
    train_tokens=1_000_000, train_bytes=1_000_000, val_tokens=112_000, val_bytes=112_000, vocab_size=67,
    device="cpu", dtype="bfloat16", flops_per_second=8e11,
)  # fmt: skip
SMALL = dataclasses.replace(LAPTOP, train_tokens=20_000, train_bytes=20_000, val_tokens=2_000)


SHAPE = {"n_layer": 4, "d_model": 192, "context_length": 256}


def plan(facts: Facts = LAPTOP, **settings: Any) -> Plan:
    return make_plan(qualified(settings), DataConfig(corpus=("a.txt",)), facts)


def blocks(found: Plan) -> int:
    return sizing.count_parameters(found.config.model).non_embedding


def test_without_a_training_length_five_minutes_are_planned() -> None:
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
    seconds = found.tokens / heuristics.tokens_per_second(found.config.model, LAPTOP)
    assert 0.85 * 600 < seconds < 600


def test_a_step_that_does_not_fit_into_memory_is_made_in_even_passes() -> None:
    shape = {"n_layer": 12, "d_model": 768, "n_head": 12, "context_length": 1024, "steps": 100}
    found = plan(dataclasses.replace(LAPTOP, vocab_size=50_000), batch_size=23, **shape)
    at_once = found.config.train.micro_batch_size
    assert 1 < at_once < 23
    activations = [
        sizing.memory_to_train(found.config.model, micro_batch_size=n, dtype="bfloat16").activations
        for n in (0, at_once)
    ]
    assert activations[1] - activations[0] < 2.1 * 2**30
    passes = -(-23 // at_once)
    assert at_once * passes - 23 < passes


def test_memory_is_at_least_what_preparing_the_corpus_took() -> None:
    least = plan(minutes=1).memory_bytes
    assert plan(dataclasses.replace(LAPTOP, peak_bytes=10), minutes=1).memory_bytes == least
    assert plan(dataclasses.replace(LAPTOP, peak_bytes=3 * least), minutes=1).memory_bytes == 3 * least


def test_memory_counts_the_dropout_that_is_planned() -> None:
    planned = plan(SMALL, minutes=10)
    assert planned.config.model.dropout > 0
    assert planned.memory_bytes > plan(SMALL, minutes=10, dropout=0.0).memory_bytes


def test_a_text_that_would_be_seen_often_is_trained_with_r_drop() -> None:
    trained = dataclasses.replace(SMALL, fine_tunes=True)
    assert plan(SMALL, minutes=10).config.train.r_drop == plan(SMALL, epochs=13).config.train.r_drop == 1
    assert plan(minutes=120).config.train.r_drop == 1
    for other in (plan(minutes=3), plan(SMALL, epochs=11), plan(SMALL, minutes=10, dropout=0.0)):
        assert other.config.train.r_drop == 0
    assert plan(trained, epochs=20).config.train.r_drop == 0


def test_r_drop_without_dropout_is_off_with_one_notice() -> None:
    plain, off = plan(minutes=1), plan(minutes=1, r_drop=1.0)
    assert off.config == plain.config
    assert [notice.partition(":")[0] for notice in off.notices] == ["R-Drop is off"]
    adapters = {"lora_rank": 2, "lora_dropout": 0.1, "n_layer": 2, "steps": 10}
    tuned = plan(dataclasses.replace(LAPTOP, fine_tunes=True), r_drop=1.0, **adapters)
    assert tuned.config.train.r_drop == 1


@pytest.mark.parametrize("minutes", [1, 10, 120])
def test_r_drop_that_is_planned_is_the_plan_where_it_is_given(minutes: float) -> None:
    planned, given = plan(SMALL, minutes=minutes), plan(SMALL, minutes=minutes, r_drop=1.0)
    assert planned.config == given.config
    assert planned.given == ("train.minutes",)


def test_the_same_time_is_enough_for_half_the_tokens_with_r_drop() -> None:
    once, twice = (plan(minutes=10, dropout=0.1, r_drop=r_drop, **SHAPE) for r_drop in (0.0, 1.0))
    assert twice.tokens == pytest.approx(once.tokens / 2, rel=0.01)
    assert twice.memory_bytes > once.memory_bytes


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


@pytest.mark.parametrize("length", [{"steps": 50}, {"epochs": 0.1}, {"tokens": 100_000}])
def test_the_validation_set_of_a_small_corpus_is_scored_whole_where_no_time_is_given(
    length: dict[str, Any],
) -> None:
    assert plan(**length).config.train.final_eval_tokens == LAPTOP.val_tokens


def test_steps_on_a_large_corpus_do_not_score_all_of_the_validation_set() -> None:
    large = dataclasses.replace(LAPTOP, train_tokens=22_500_000_000, val_tokens=2_500_000_000)
    assert plan(large, steps=500).config.train.final_eval_tokens == 250_000
    long = plan(large, steps=100_000)
    assert 250_000 < long.config.train.final_eval_tokens < 0.05 * long.tokens


def test_a_small_corpus_ends_early_with_a_notice() -> None:
    found = plan(SMALL, minutes=10)
    assert found.config.train.minutes == 10
    assert found.config.train.max_steps == found.steps
    assert found.seconds < 300
    assert found.epochs == pytest.approx(30, rel=0.05)
    assert plan(SMALL, minutes=10, r_drop=0.0).epochs == pytest.approx(20, rel=0.05)
    assert any("memorize" in notice and f"{found.steps} steps" in notice for notice in found.notices)
    assert not any("memorize" in notice for notice in plan(minutes=10).notices)
    assert plan(minutes=10).config.train.max_steps is None


def test_epochs_that_are_asked_for_are_made() -> None:
    assert plan(SMALL, epochs=200).epochs == pytest.approx(200, rel=0.05)


def test_a_small_corpus_gets_a_smaller_model() -> None:
    assert blocks(plan(SMALL, minutes=10)) < 0.3 * blocks(plan(minutes=10))


def test_a_very_small_corpus_says_what_to_expect() -> None:
    few = dataclasses.replace(SMALL, train_tokens=4_000, train_bytes=4_000, val_tokens=400)
    assert any("4 kB" in notice and "very small" in notice for notice in plan(few).notices)
    assert not plan(minutes=1).notices


GPU = {"train_tokens": 5_000_000_000, "train_bytes": 20_000_000_000, "val_tokens": 5_000_000,
       "val_bytes": 20_000_000, "vocab_size": 16384, "device": "cuda"}  # fmt: skip
MACHINES = {
    "H200": Facts(**GPU, dtype="bfloat16", flops_per_second=7e14, memory_bytes=139 << 30),
    "RTX 4090": Facts(**GPU, dtype="bfloat16", flops_per_second=1.5e14, memory_bytes=23 << 30),
    "T4": Facts(**GPU, dtype="float32", flops_per_second=6e12, memory_bytes=14 << 30),
    "Apple M2": Facts(
        **GPU | {"device": "mps"}, dtype="float32", flops_per_second=3e12, memory_bytes=10 << 30
    ),
    "AVX2": Facts(**GPU | {"device": "cpu"}, dtype="float32", flops_per_second=5e10, memory_bytes=8 << 30),
}  # fmt: skip
on_every_machine = pytest.mark.parametrize("machine", MACHINES)


@on_every_machine
@pytest.mark.parametrize("minutes", [1, 10, 60, 2880])
def test_a_plan_fits_into_the_memory_of_its_machine(machine: str, minutes: float) -> None:
    facts = MACHINES[machine]
    found = plan(facts, minutes=minutes)
    assert found.memory_bytes < facts.memory_bytes


@pytest.mark.parametrize("machine", ["H200", "RTX 4090", "T4", "Apple M2"])
def test_more_time_on_a_gpu_gives_more_steps_and_larger_ones(machine: str) -> None:
    found = [plan(MACHINES[machine], minutes=minutes) for minutes in (1, 10, 100, 1000)]
    steps = [p.steps for p in found]
    batches = [p.tokens_per_step for p in found]
    assert steps == sorted(set(steps))
    assert batches == sorted(set(batches))
    assert steps[0] > 500
    assert all(p.tokens_per_step == pytest.approx(0.58 * p.tokens**0.571, rel=0.15) for p in found[1:])


@on_every_machine
def test_the_tokens_are_proportional_to_the_number_of_steps(machine: str) -> None:
    shape = {"n_layer": 12, "d_model": 768, "context_length": 1024}
    found = [plan(MACHINES[machine], steps=steps, **shape).tokens for steps in (1000, 5000, 20_000)]
    assert found == [found[0], 5 * found[0], 20 * found[0]]


def test_a_model_grows_with_the_time_as_chinchilla_says_it_should() -> None:
    ten, day = (plan(MACHINES["H200"], minutes=minutes) for minutes in (10, 2880))
    assert 15e6 < blocks(ten) < 60e6
    assert blocks(day) > 300e6
    assert 10 < day.tokens / blocks(day) < 60


def test_a_small_corpus_holds_a_gpu_to_a_small_model() -> None:
    few = dataclasses.replace(MACHINES["H200"], train_tokens=1_000_000, val_tokens=100_000)
    assert blocks(plan(few, minutes=60)) <= 10_000_000


@pytest.mark.parametrize(("tokens", "batch"), [(1.5e6, 1950), (1e9, 79_700), (1e11, 1_105_000)])
def test_the_batch_rule_is_the_published_one(tokens: float, batch: float) -> None:
    assert heuristics.batch_tokens(tokens, 16) == pytest.approx(batch, rel=0.01)


def test_tokens_for_each_parameter_rise_from_the_measured_to_the_published() -> None:
    assert heuristics.tokens_per_parameter(1_000_000) == 1.4
    assert heuristics.tokens_per_parameter(5_000_000) == pytest.approx(1.4)
    assert 8 < heuristics.tokens_per_parameter(250_000_000) < 12
    assert heuristics.tokens_per_parameter(2_000_000_000) == 20


def test_the_text_limits_the_model_however_long_the_run() -> None:
    for tokens in (20_000, 200_000, 1_000_000):
        facts = dataclasses.replace(LAPTOP, train_tokens=tokens)
        day = blocks(plan(facts, minutes=1440))
        assert 0.5 * heuristics.most_parameters(tokens) < day <= heuristics.most_parameters(tokens)


def test_each_shape_is_larger_than_the_one_before() -> None:
    found = list(itertools.islice(heuristics.shapes(), 60))
    assert {(2, 64, 64), (4, 256, 256), (12, 768, 1024)} < set(found)
    sizes = [plan(steps=1, n_layer=n, d_model=d) for n, d, _ in found]
    assert [blocks(p) for p in sizes] == sorted({blocks(p) for p in sizes})


def test_rates_know_the_batch_that_was_given() -> None:
    rates = {rows: plan(steps=1000, **SHAPE, batch_size=rows).config.train for rows in (8, 16, 512)}
    assert rates[8].learning_rate == rates[16].learning_rate == 0.03
    batch = 512 * SHAPE["context_length"]
    factor = (batch / heuristics.batch_tokens(1000 * batch, SHAPE["d_model"]) / 4) ** 0.5
    assert 1 < factor < 2
    assert rates[512].learning_rate == pytest.approx(factor * 0.03)
    assert rates[512].adamw_learning_rate == pytest.approx(factor * rates[8].adamw_learning_rate)


def test_a_short_run_has_less_momentum() -> None:
    assert [plan(steps=steps).config.train.momentum for steps in (545, 1091)] == [0.9, 0.95]


def test_parameters_are_averages_of_a_fifth_of_a_long_run_at_least() -> None:
    assert plan(minutes=1).config.train.weight_decay == 0.1
    large = dataclasses.replace(LAPTOP, train_tokens=10**10)
    long = plan(large, steps=100_000).config.train
    assert 1 / (long.learning_rate * long.weight_decay) == pytest.approx(20_000)


@pytest.mark.parametrize(
    ("tokens", "averaged"), [(20_000, 20), (60_000, 60), (2_000, heuristics.LEAST_AVERAGED)]
)
def test_the_smaller_a_text_that_repeats_the_stronger_the_decay(tokens: int, averaged: float) -> None:
    train = plan(dataclasses.replace(LAPTOP, train_tokens=tokens), epochs=40).config.train
    assert 1 / (train.learning_rate * train.weight_decay) == pytest.approx(averaged, rel=0.02)


def test_in_few_epochs_the_decay_averages_one_of_them() -> None:
    found = plan(SMALL, steps=500, batch_size=8, context_length=16)
    train = found.config.train
    assert 1 / (train.learning_rate * train.weight_decay) == pytest.approx(found.steps / found.epochs)


def test_a_decay_for_one_rate_is_not_too_strong_for_the_other() -> None:
    for rates in ({"learning_rate": 1e-4}, {"learning_rate": 0.0}, {"adamw_learning_rate": 0.1}):
        train = plan(SMALL, epochs=40, **rates).config.train
        both = train.learning_rate, train.adamw_learning_rate
        assert max(both) * train.weight_decay <= 1 / heuristics.LEAST_AVERAGED + 1e-9


def test_decay_pulls_trained_weights_no_harder_where_the_text_repeats() -> None:
    trained = dataclasses.replace(SMALL, fine_tunes=True)
    assert plan(trained, epochs=20, n_layer=2).config.train.weight_decay <= 0.1


def test_a_model_that_does_not_fit_is_refused_with_what_it_needs_and_what_there_is() -> None:
    facts = dataclasses.replace(LAPTOP, memory_bytes=24_000_000_000)
    with pytest.raises(ConfigError) as caught:
        plan(facts, n_layer=100, d_model=100_000, steps=5)
    assert re.search(r"needs about [\d.]+ TB to train, and 24 GB are free", caught.value.message)
    with pytest.raises(ConfigError, match="to train"):
        plan(facts, n_layer=10_000, d_model=1024, steps=5)
    assert plan(facts, n_layer=12, d_model=768, steps=5).steps == 5


def test_adapters_are_trained_where_the_whole_model_does_not_fit() -> None:
    facts = dataclasses.replace(LAPTOP, fine_tunes=True, memory_bytes=3_000_000_000)
    shape = {"n_layer": 24, "d_model": 1024, "context_length": 64, "steps": 5}
    with pytest.raises(ConfigError, match="to train") as caught:
        plan(facts, **shape)
    assert "--lora-rank 8" in (caught.value.hint or "")
    assert plan(facts, lora_rank=8, **shape).config.train.lora_rank == 8
    with pytest.raises(ConfigError) as caught:
        plan(dataclasses.replace(facts, memory_bytes=300_000_000), lora_rank=8, **shape)
    assert "--lora-rank" not in (caught.value.hint or "")


def test_the_optimizers_temporaries_count() -> None:
    model = plan(steps=5, n_layer=24, d_model=2048).config.model
    muon, adamw = (
        sizing.memory_to_train(model, optimizer=name, dtype="bfloat16").update for name in ("muon", "adamw")
    )
    assert adamw == 0
    assert muon == 22 * max(1 << 24, model.d_model * model.d_ff)


def test_flash_attention_keeps_no_weights() -> None:
    model = plan(steps=5, n_layer=4, d_model=256, context_length=4096).config.model
    cpu, cuda = (
        sizing.memory_to_train(model, dtype="bfloat16", device=device).activations
        for device in ("cpu", "cuda")
    )
    weights = 2 * 4096 * 4 * model.n_head * (4096 + 128) // 2
    assert cpu - cuda == weights


def test_the_start_up_that_was_measured_is_part_of_the_time() -> None:
    slow = dataclasses.replace(LAPTOP, start_up_seconds=250.0)
    found = plan(slow, minutes=5)
    assert found.tokens * blocks(found) < 0.2 * plan(minutes=5).tokens * blocks(plan(minutes=5))
    assert any("250 of the 300 seconds" in notice for notice in found.notices)
    assert not any("seconds" in notice for notice in plan(minutes=5).notices)


def test_a_small_corpus_has_its_useful_steps_also_after_a_slow_start() -> None:
    slow = dataclasses.replace(SMALL, start_up_seconds=30.0)
    assert plan(slow, minutes=10).config.train.max_steps == plan(SMALL, minutes=10).config.train.max_steps


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"context_length": 500_000}, "context length is 111,999 instead of 500,000: the validation text"),
        ({"warmup_steps": 1000, "steps": 3}, "warm-up takes 1,000 steps, and the run has 3"),
        ({"micro_batch_size": 64, "batch_size": 4}, "micro-batch has 4 sequences instead of 64"),
        ({"learning_rate": 0.0}, "learning rate is 0"),
        ({"model.vocab_size": 4096}, "model.vocab_size is 67 instead of 4,096"),
        ({"optimizer": "adamw", "muon_dtype": "float32"}, "muon_dtype has no effect with --optimizer adamw"),
        ({"optimizer": "adamw", "muon_block_rows": 8}, "muon_block_rows has no effect"),
    ],
)
def test_what_was_given_and_is_not_possible_gives_a_notice(given: dict[str, Any], said: str) -> None:
    length = {} if "steps" in given else {"minutes": 1}
    assert any(said in notice for notice in plan(**length, **given).notices)


def test_a_vocabulary_as_large_as_the_tokenizers_gives_no_notice() -> None:
    assert not plan(minutes=1, **{"model.vocab_size": LAPTOP.vocab_size}).notices


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_the_config_of_a_run_gives_no_notices_about_settings_that_were_not_given(
    optimizer: str, schedule: str
) -> None:
    config = plan(steps=100, optimizer=optimizer, lr_schedule=schedule).config
    again = make_plan(qualified(flattened(config.to_dict())), config.data, LAPTOP)
    assert (again.config, again.notices) == (config, ())


def test_the_shape_of_a_model_that_is_fine_tuned_gives_no_notices() -> None:
    shape = dataclasses.asdict(ModelConfig(position="learned", vocab_size=50_257))
    trained = dataclasses.replace(LAPTOP, fine_tunes=True)
    settings = {f"model.{name}": value for name, value in shape.items()}
    assert not plan(trained, steps=100, **settings).notices


def test_each_setting_that_a_plan_changes_is_documented_as_chosen() -> None:
    of_the_machine = {"dtype", "muon_dtype"}
    for length in ({"steps": 100}, {"steps": 1000}, {"epochs": 20}):
        train = plan(SMALL, **length).config.train
        changed = {name for name, value in vars(TrainConfig()).items() if getattr(train, name) != value}
        known = settings_of(TrainConfig)
        planned = changed - of_the_machine - length.keys()
        assert {name for name in planned if known[name].default_is != CHOSEN} == set()


@pytest.mark.parametrize("minutes", [1, 60])
def test_the_shortest_of_corpora_with_weights_decides_the_context(minutes: float) -> None:
    found = plan(dataclasses.replace(LAPTOP, least_tokens=61), minutes=minutes)
    assert found.config.model.context_length == 60
    assert any("the shortest training text has only 61 tokens" in notice for notice in found.notices)


def test_a_learning_rate_of_0_is_kept() -> None:
    assert plan(steps=100, learning_rate=0.0).config.train.learning_rate == 0


def test_a_number_of_heads_alone_gives_a_width_that_it_divides() -> None:
    found = plan(steps=100, n_head=6).config.model
    assert (found.n_head, found.d_model) == (6, 192)


@pytest.mark.parametrize("layers", [{}, {"n_layer": 6}])
@pytest.mark.parametrize("n_kv_head", [2, 3, 5])
def test_a_number_of_key_value_heads_alone_gives_a_number_of_heads_that_it_divides(
    n_kv_head: int, layers: dict[str, Any]
) -> None:
    found = plan(minutes=1, n_kv_head=n_kv_head, **layers).config.model
    assert found.n_head % n_kv_head == 0
    assert found.head_dim % 2 == 0
    assert found.d_model <= 256


@pytest.mark.parametrize("layers", [{}, {"n_layer": 2}])
def test_the_parts_of_an_adaptive_softmax_alone_give_a_width_that_is_enough(layers: dict[str, Any]) -> None:
    found = plan(minutes=1, adaptive_cutoffs=(5, 10, 20, 40), **layers).config.model
    assert found.d_model == 4**4


@pytest.mark.parametrize("unit", ["minutes", "steps", "epochs", "tokens"])
def test_a_training_length_of_0_is_refused(unit: str) -> None:
    with pytest.raises(ConfigError, match=f"{unit} is 0"):
        plan(**{unit: 0})


def test_a_validation_text_of_three_tokens_does_not_decide_the_context() -> None:
    with pytest.raises(ConfigError, match="3 for validation"):
        plan(dataclasses.replace(LAPTOP, val_tokens=3))


def test_less_than_a_tenth_for_validation_gives_a_notice() -> None:
    large = dataclasses.replace(LAPTOP, train_bytes=10**9, val_bytes=20_000_000)
    assert any("20 MB of the 1,020 MB" in notice for notice in plan(large).notices)


def test_a_gpu_compiles_from_a_few_minutes_on_and_a_cpu_only_when_asked() -> None:
    gpu = dataclasses.replace(
        LAPTOP, device="cuda", flops_per_second=3e13, train_tokens=10**9, train_bytes=10**9, can_compile=True
    )
    assert plan(gpu).config.train.compile is True
    assert plan(gpu, minutes=2).config.train.compile is False
    assert plan(gpu, minutes=10, compile=False).config.train.compile is False
    assert plan(gpu, minutes=10, documents="padded").config.train.compile is False
    assert plan(gpu, steps=20).config.train.compile is False
    assert plan(dataclasses.replace(gpu, can_compile=False)).config.train.compile is False
    assert plan(minutes=60).config.train.compile is False
    assert plan(minutes=60, compile=True).config.train.compile is True


def test_the_time_to_compile_is_part_of_the_run() -> None:
    plain, compiled = (plan(steps=1000, compile=compiles) for compiles in (False, True))
    assert compiled.seconds - plain.seconds == heuristics.COMPILE_SECONDS["cpu"]
    assert plan(minutes=1, compile=True, **SHAPE).tokens < 0.75 * plan(minutes=1, **SHAPE).tokens


def test_several_processes_share_the_batch_and_train_more_tokens_in_the_time() -> None:
    one, eight = (plan(dataclasses.replace(MACHINES["H200"], world_size=n), minutes=60) for n in (1, 8))
    assert eight.tokens * blocks(eight) > 6 * one.tokens * blocks(one)
    assert eight.config.train.batch_size % 8 == 0
    assert 8 * eight.config.train.micro_batch_size <= eight.config.train.batch_size
    assert (
        plan(dataclasses.replace(LAPTOP, world_size=3), steps=10, batch_size=8).config.train.micro_batch_size
        == 3
    )
