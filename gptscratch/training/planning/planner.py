"""Fills in what the user left open: sizes, rates and intervals that suit the corpus and the time.

What is given is kept, and only the rest is chosen. A plan is arithmetic on a few facts: it reads no
text and runs no model. The rules come from the sweeps in docs/decisions/planner.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gptscratch import sizing
from gptscratch.config import DataConfig, ModelConfig, RunConfig, qualified
from gptscratch.errors import ConfigError
from gptscratch.training.budget import UNITS, horizon_steps, require_length
from gptscratch.training.planning import heuristics as rules
from gptscratch.training.planning.heuristics import Facts
from gptscratch.training.planning.notices import expectation, held_back, ineffective, late_start, unreachable

DEFAULT_MINUTES = 5.0
EVALUATIONS = 10  # along a run
EVALUATION_SHARE = 0.015  # of the run's work, for those along it, and once more for the one at its end
LEAST_FINAL_TOKENS = 50_000  # scored at the end, however short the time
ALL_FINAL_TOKENS = 250_000  # the same where no time is given
TRAINING_SHARE = 0.95  # of the time, beside evaluations, checkpoints and samples
LEAST_VAL_TOKENS = 16  # where the training text has a hundred times as many
CPU_ACTIVATIONS = 2 << 30  # bytes, at most, for those of a micro-batch on a CPU
GPU_ACTIVATIONS = 16 << 30  # on a GPU that does not tell how much memory it has
MEMORY_SHARE = 0.75  # of what is free, that a plan fills: what comes and goes is not counted
GPU_RESERVE = 1 << 30  # bytes of a GPU's memory for logits, kernels and fragments
# Settings that the plan chooses where they have this value, given or not.
_OPEN = {
    "train.batch_size": 0, "train.micro_batch_size": 0, "train.log_interval": 0, "train.eval_interval": 0,
    "train.save_interval": 0, "train.eval_tokens": 0, "train.final_eval_tokens": 0,
    "train.weight_decay": -1, "train.warmup_steps": -1,
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A whole configuration and what it will come to; steps are an expectation if the horizon is a time."""

    config: RunConfig
    parameters: int
    steps: int
    tokens: int
    epochs: float
    seconds: float
    memory_bytes: int  # at the peak
    padding: float  # the share of the rows' places that hold no token
    notices: tuple[str, ...]

    @property
    def tokens_per_step(self) -> int:
        places = self.config.train.batch_size * self.config.model.context_length
        return round(places * (1 - self.padding))

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "config": self.config.to_dict()}

    def record(self) -> dict[str, Any]:
        """What plan.json keeps of it: all but the configuration, which config.json holds."""
        return {key: value for key, value in asdict(self).items() if key != "config"}


def make_plan(settings: Mapping[str, Any], data: DataConfig, facts: Facts) -> Plan:
    """Choose every setting that ``settings`` leaves open.

    Args:
        settings: what the user gave, by name as in ``RunConfig.with_settings``.
        data: the corpus's part of the configuration, resolved.
        facts: about the corpus's tokens and this machine.

    Raises:
        ConfigError: the given settings contradict one another, or the model does not fit into the memory.
    """
    given = {key: value for key, value in qualified(settings).items() if _OPEN.get(key) != value}
    require_length(given)
    if not any(f"train.{unit}" in given for unit in UNITS):
        given["train.minutes"] = DEFAULT_MINUTES
    given["model.vocab_size"] = facts.vocab_size
    notices: list[str] = []
    config = RunConfig(data=data).with_settings({k: v for k, v in given.items() if not k.startswith("data.")})
    config = config.with_settings(_open(given, _model_settings(config, given, facts)))
    config = config.with_settings(_shortened(config.model, facts, notices))
    _require_fit(config, facts)
    config = config.with_settings(_batch_settings(config, given, facts, notices))
    steps = _steps(config, facts)
    if config.train.minutes and "train.max_steps" not in given:
        config = config.with_settings({"max_steps": _max_steps(config, steps, facts, notices)})
    tokens = round(steps * _step_tokens(config, facts))
    seconds = _seconds_for(tokens, config.model, facts)
    if config.train.minutes:
        seconds = seconds if config.train.max_steps else 60 * config.train.minutes
        notices += late_start(config.train.minutes, facts)
    compiles = rules.compiling_pays(facts, config.train.documents, seconds)
    config = config.with_settings(_open(given, {"train.compile": compiles}))
    notices += expectation(facts) + held_back(config, facts)
    config = config.with_settings(_open(given, _rate_settings(config, steps, facts)))
    config = config.with_settings(_open(given, _interval_settings(config, steps, facts)))
    notices += ineffective(config, given) + unreachable(config, given, steps)
    return Plan(
        config=config.with_settings({"n_kv_head": config.model.resolved().n_kv_head}),
        parameters=sizing.count_parameters(config.model).total,
        steps=steps,
        tokens=tokens,
        epochs=tokens / max(1, facts.train_tokens),
        seconds=seconds,
        memory_bytes=max(facts.peak_bytes, _training_peak(config, facts)),
        padding=1 - facts.tokens_per_row(config.model.context_length) / config.model.context_length,
        notices=tuple(notices),
    )


def _training_peak(config: RunConfig, facts: Facts) -> int:
    return sizing.training_peak(
        config.model,
        micro_batch_size=config.train.micro_batch_size,
        optimizer=config.train.optimizer,
        dtype=facts.dtype,
        device=facts.device,
    )


def gigabytes(size: float) -> str:
    return f"{size / 1e9:,.0f} GB" if size >= 1e10 else f"{size / 1e9:.2g} GB"


def _step_tokens(config: RunConfig, facts: Facts) -> float:
    return config.train.batch_size * facts.tokens_per_row(config.model.context_length)


def _model_settings(config: RunConfig, given: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """Width, depth, heads and context that are not given; the first two for the work that is allowed."""
    layers, width, heads = (f"model.{name}" in given for name in ("n_layer", "d_model", "n_head"))
    if not (layers or width or heads):
        n_layer, d_model, context_length = _shape_for(config, given, facts)
        chosen = {"model.n_layer": n_layer, "model.d_model": d_model, "model.n_head": rules.heads(d_model)}
        return {**chosen, "model.context_length": context_length}
    n_layer, n_head, d_model = config.model.n_layer, config.model.n_head, config.model.d_model
    if not width:
        d_model = 32 * n_head if heads else 32 * max(2, n_layer)
    return {
        "model.d_model": d_model,
        "model.n_head": n_head if heads else rules.heads(d_model),
        "model.n_layer": n_layer,
    }


def _shape_for(config: RunConfig, given: Mapping[str, Any], facts: Facts) -> tuple[int, int, int]:
    """The largest of ``rules.SHAPES`` that the horizon trains for long enough and the corpus feeds."""
    best = rules.SHAPES[0]
    for n_layer, d_model, context in rules.SHAPES:
        sizes = {
            "n_layer": n_layer,
            "d_model": d_model,
            "n_head": rules.heads(d_model),
            "context_length": context,
        }
        open_sizes = _open(given, {f"model.{name}": size for name, size in sizes.items()})
        model = config.with_settings(open_sizes).model
        blocks = sizing.count_parameters(model).non_embedding
        wanted = rules.tokens_per_parameter(blocks) * blocks
        trained = _horizon_tokens(config, model, facts) >= wanted
        fits = _least_memory(model, config, facts) <= MEMORY_SHARE * (facts.memory_bytes or math.inf)
        if trained and fits and blocks <= 10 * facts.train_tokens:
            best = (n_layer, d_model, context)
    return best


def _horizon_tokens(config: RunConfig, model: ModelConfig, facts: Facts) -> float:
    train = config.train
    if train.minutes:
        return min(_useful_tokens(facts), _tokens_in_time(train.minutes, model, facts))
    if train.tokens or train.epochs:
        return train.tokens or train.epochs * facts.train_tokens
    tokens = train.batch_size * model.context_length or 16 * model.d_model
    return float(train.steps * tokens)


def _shortened(model: ModelConfig, facts: Facts, notices: list[str]) -> dict[str, Any]:
    """A context that fits into the corpus."""
    room = min(facts.train_tokens, facts.val_tokens) - 1
    if room < 1 or facts.val_tokens < LEAST_VAL_TOKENS <= facts.train_tokens / 100:
        raise ConfigError(
            f"The corpus is too short: {facts.train_tokens:,} tokens to train on, "
            f"{facts.val_tokens:,} for validation.",
            "Give more text, or another share of it for validation with --val-fraction.",
        )
    if model.context_length <= room:
        return {}
    side = "training" if facts.train_tokens < facts.val_tokens else "validation"
    notices.append(
        f"The context length is {room:,} instead of {model.context_length:,}: "
        f"the {side} text has only {room + 1:,} tokens."
    )
    return {"model.context_length": room}


def _useful_tokens(facts: Facts) -> float:
    return rules.useful_epochs(facts.train_tokens) * facts.train_tokens


def _tokens_in_time(minutes: float, model: ModelConfig, facts: Facts) -> float:
    seconds = max(1.0, 60 * minutes - facts.start_up_seconds) * TRAINING_SHARE
    return seconds * rules.tokens_per_second(model, facts)


def _seconds_for(tokens: float, model: ModelConfig, facts: Facts) -> float:
    return facts.start_up_seconds + tokens / rules.tokens_per_second(model, facts) / TRAINING_SHARE


def _batch_settings(
    config: RunConfig, given: Mapping[str, Any], facts: Facts, notices: list[str]
) -> dict[str, Any]:
    """Sequences of a step by ``rules.batch_tokens``, and of a micro-batch as many as the memory holds."""
    row = facts.tokens_per_row(config.model.context_length)
    wanted = _planned_batch(config, facts)
    micro = config.train.micro_batch_size
    if micro and "train.batch_size" not in given:
        return {"train.batch_size": micro * max(1, round(wanted / row / micro))}
    batch = config.train.batch_size or max(1, round(min(wanted, facts.train_tokens) / row))
    if micro > batch:
        notices.append(f"The micro-batch has {batch} sequences instead of {micro}: a step has no more.")
        micro = batch
    passes = math.ceil(batch / _rows_at_once(config, facts))
    return {"train.batch_size": batch, "train.micro_batch_size": micro or math.ceil(batch / passes)}


def _planned_batch(config: RunConfig, facts: Facts) -> float:
    """Tokens of a step; where the user gives the number of steps, not more of them for more steps."""
    width = config.model.d_model
    if config.train.steps and facts.device != "cpu":
        return rules.batch_tokens(0, width, facts.device)
    unbatched = config.with_settings({"batch_size": 0})
    return rules.batch_tokens(_horizon_tokens(unbatched, config.model, facts), width, facts.device)


def _rows_at_once(config: RunConfig, facts: Facts) -> int:
    """Sequences of one forward and backward pass whose activations the memory holds."""
    model, device = config.model, facts.device
    one, two = (
        sizing.memory_to_train(
            model, micro_batch_size=rows, optimizer=config.train.optimizer, dtype=facts.dtype, device=device
        )
        for rows in (1, 2)
    )
    each = two.activations - one.activations
    most = math.inf
    if device == "cpu" or not facts.memory_bytes:
        most = (CPU_ACTIVATIONS if device == "cpu" else GPU_ACTIVATIONS) // each
    if facts.memory_bytes:
        reserve = 0 if device == "cpu" else GPU_RESERVE
        most = min(most, (MEMORY_SHARE * facts.memory_bytes - reserve - one.total) // each + 1)
    return int(max(1, most))


def _least_memory(model: ModelConfig, config: RunConfig, facts: Facts) -> int:
    return sizing.least_memory(
        model, optimizer=config.train.optimizer, dtype=facts.dtype, device=facts.device
    )


def _require_fit(config: RunConfig, facts: Facts) -> None:
    """Refuse a model that cannot be trained here, before anything of it is allocated.

    Raises:
        ConfigError: not even one sequence at a time fits into the memory.
    """
    needed = _least_memory(config.model, config, facts)
    if facts.memory_bytes and needed > facts.memory_bytes:
        raise ConfigError(
            f"This model needs about {gigabytes(needed)} to train, and {gigabytes(facts.memory_bytes)} "
            f"are free on this {facts.device} device.",
            "Take fewer --layers, a smaller --d-model or a shorter --context-length.",
        )


def _steps(config: RunConfig, facts: Facts) -> int:
    if not config.train.minutes:
        row = facts.tokens_per_row(config.model.context_length)
        return horizon_steps(config.train, facts.train_tokens, row)
    tokens = _horizon_tokens(config, config.model, facts)
    return max(1, round(tokens / _step_tokens(config, facts)))


def _max_steps(config: RunConfig, steps: int, facts: Facts, notices: list[str]) -> int:
    """0, or where the corpus would be memorized in the time that is given, the steps before that."""
    given, model = 60 * config.train.minutes, config.model
    useful = _useful_tokens(facts)
    if _tokens_in_time(config.train.minutes, model, facts) <= useful:
        return 0
    seconds = _seconds_for(useful, model, facts)
    notices.append(
        f"More than {useful / facts.train_tokens:.0f} epochs would only memorize this corpus: training ends "
        f"after {steps:,} steps, about {seconds:.0f} of the {given:.0f} seconds. "
        "More text helps; --epochs trains longer."
    )
    return steps


def _rate_settings(config: RunConfig, steps: int, facts: Facts) -> dict[str, Any]:
    step_tokens = _step_tokens(config, facts)
    factor = rules.batch_rate_factor(step_tokens, min(_planned_batch(config, facts), facts.train_tokens))
    rates = rules.rates(config.train.optimizer, config.model.d_model, steps)
    rates |= {name: factor * rate for name, rate in rates.items() if name.endswith("rate")}
    rate = config.train.learning_rate or rates["train.learning_rate"]
    return {
        "train.warmup_steps": min(100, steps // 20),
        "train.weight_decay": rules.weight_decay(rate, steps),
        **rates,
        **rules.regularisation(steps * step_tokens / facts.train_tokens, facts.train_tokens),
    }


def _interval_settings(config: RunConfig, steps: int, facts: Facts) -> dict[str, Any]:
    count = min(EVALUATIONS, max(2, steps / 25))  # of the steps alone: two runs of one plan are equal
    every = _nice(steps / count)
    tokens = steps * _step_tokens(config, facts)
    # Scoring a token costs about two thirds of training on it: a third of the work, but in float32.
    share = 1.5 * EVALUATION_SHARE * tokens
    final = int(max(share, LEAST_FINAL_TOKENS if config.train.minutes else ALL_FINAL_TOKENS))
    return {
        "train.log_interval": _nice(steps / 200),
        "train.eval_interval": every,
        "train.save_interval": config.train.eval_interval or every,
        "train.eval_tokens": min(int(max(share / count, 4 * config.model.context_length)), facts.val_tokens),
        "train.final_eval_tokens": min(final, facts.val_tokens),
    }


def _nice(value: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 ... that is not below."""
    power = 10 ** math.floor(math.log10(max(1.0, value)))
    return int(next(n * power for n in (1, 2, 5, 10) if n * power >= value))


def _open(given: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in chosen.items() if key not in given}
