"""Fills in what the user left open: sizes, rates and intervals that suit the corpus and the time.

What is given is kept, and only the rest is chosen. A plan is arithmetic on a few facts: it reads no
text and runs no model. The rules come from the sweeps in docs/decisions/planner.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from gptscratch import sizing
from gptscratch.config import DataConfig, ModelConfig, RunConfig, qualified
from gptscratch.errors import ConfigError
from gptscratch.training.horizon import horizon_steps

DEFAULT_MINUTES = 5.0
EVALUATIONS = 10  # along a run
EVALUATION_SHARE = 0.02  # of the run's training work, at most
START_UP_SECONDS = 3.0  # imports, reading the corpus, making the model
PROCESS_BYTES = 320_000_000  # of Python with torch and an evaluation


@dataclass(frozen=True)
class Facts:
    """What the plan is made from."""

    train_tokens: int
    val_tokens: int
    vocab_size: int
    device: str  # cpu, cuda, mps
    dtype: str  # of the matrix products
    flops_per_second: float  # of large matrix products in that type
    tokens_per_row: Callable[[int], float] = float  # of a context's length; fewer where rows are padded


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


def make_plan(settings: Mapping[str, Any], data: DataConfig, facts: Facts) -> Plan:
    """Choose every setting that ``settings`` leaves open.

    Args:
        settings: what the user gave, by name as in ``RunConfig.with_settings``.
        data: the corpus's part of the configuration, resolved.
        facts: about the corpus's tokens and this machine.

    Raises:
        ConfigError: the given settings contradict one another.
    """
    given = qualified(settings)
    if not any(f"train.{unit}" in given for unit in ("steps", "epochs", "tokens", "minutes")):
        given["train.minutes"] = DEFAULT_MINUTES
    given["model.vocab_size"] = facts.vocab_size
    notices: list[str] = []
    config = RunConfig(data=data).with_settings({k: v for k, v in given.items() if not k.startswith("data.")})
    config = config.with_settings(_open(given, _model_settings(config, given, facts)))
    config = config.with_settings(_shortened(config.model, facts, notices))
    config = config.with_settings(_open(given, _batch_settings(config, given, facts)))
    steps = _steps(config, facts)
    tokens = round(steps * _step_tokens(config, facts))
    seconds = 60 * config.train.minutes or START_UP_SECONDS + tokens / tokens_per_second(config.model, facts)
    config = config.with_settings(_open(given, _rate_settings(config, steps, facts)))
    config = config.with_settings(_open(given, _interval_settings(config, steps, facts)))
    notices += _ineffective(config, given)
    return Plan(
        config=config.with_settings({"n_kv_head": config.model.resolved().n_kv_head}),
        parameters=sizing.count_parameters(config.model).total,
        steps=steps,
        tokens=tokens,
        epochs=tokens / max(1, facts.train_tokens),
        seconds=seconds,
        memory_bytes=_memory(config, facts),
        padding=1 - facts.tokens_per_row(config.model.context_length) / config.model.context_length,
        notices=tuple(notices),
    )


def _step_tokens(config: RunConfig, facts: Facts) -> float:
    return config.train.batch_size * facts.tokens_per_row(config.model.context_length)


def tokens_per_second(model: ModelConfig, facts: Facts) -> float:
    """Training speed to expect: narrow models reach only a part of the rate of large products."""
    half = HALF_RATE_WIDTH[facts.device, facts.dtype == "float32"]
    share = 0.8 * model.d_model / (model.d_model + half)
    return share * facts.flops_per_second / sizing.training_flops_per_token(model)


# The width at which training reaches half of what it reaches at best, by device and whether in float32.
HALF_RATE_WIDTH: Mapping[tuple[str, bool], int] = MappingProxyType(
    {
        ("cpu", True): 60,
        ("cpu", False): 250,
        ("cuda", True): 1000,
        ("cuda", False): 2000,
        ("mps", True): 500,
        ("mps", False): 500,
    }
)

# Layers, width and context of what is chosen from, and how many tokens each block parameter must see
# for a larger model to end better than a smaller one.
SHAPES = (
    (2, 64, 64), (3, 96, 64), (4, 128, 128), (4, 192, 256), (6, 256, 256), (6, 384, 256),
    (8, 512, 512), (10, 640, 512), (12, 768, 1024),
)  # fmt: skip
TOKENS_PER_PARAMETER = 0.5


def _model_settings(config: RunConfig, given: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """Width, depth, heads and context that are not given; the first two for the work that is allowed."""
    layers, width, heads = (f"model.{name}" in given for name in ("n_layer", "d_model", "n_head"))
    if not (layers or width or heads):
        n_layer, d_model, context_length = _shape_for(config, given, facts)
        chosen = {"model.n_layer": n_layer, "model.d_model": d_model, "model.n_head": _heads(d_model)}
        return {**chosen, "model.context_length": context_length}
    n_layer, n_head, d_model = config.model.n_layer, config.model.n_head, config.model.d_model
    if not width:
        d_model = 32 * n_head if heads else 32 * max(2, n_layer)
    return {
        "model.d_model": d_model,
        "model.n_head": n_head if heads else _heads(d_model),
        "model.n_layer": n_layer,
    }


def _shape_for(config: RunConfig, given: Mapping[str, Any], facts: Facts) -> tuple[int, int, int]:
    """The largest of ``SHAPES`` that the horizon trains for long enough and the corpus feeds."""
    best = SHAPES[0]
    for n_layer, d_model, context in SHAPES:
        sizes = {"n_layer": n_layer, "d_model": d_model, "n_head": _heads(d_model), "context_length": context}
        open_sizes = _open(given, {f"model.{name}": size for name, size in sizes.items()})
        model = config.with_settings(open_sizes).model
        blocks = sizing.count_parameters(model).non_embedding
        trained = _horizon_tokens(config, model, facts) >= TOKENS_PER_PARAMETER * blocks
        if trained and blocks <= 10 * facts.train_tokens:
            best = (n_layer, d_model, context)
    return best


def _horizon_tokens(config: RunConfig, model: ModelConfig, facts: Facts) -> float:
    train = config.train
    if train.minutes:
        return max(1.0, 60 * train.minutes - START_UP_SECONDS) * tokens_per_second(model, facts)
    if train.tokens or train.epochs:
        return train.tokens or train.epochs * facts.train_tokens
    tokens = train.batch_size * model.context_length or 16 * model.d_model
    return float(train.steps * tokens)


def _heads(width: int) -> int:
    """As many heads as make one 64 wide (32 in a narrow model), or near to it; their width is even."""
    wanted = 32 if width <= 128 else 64
    return min(
        (n for n in range(1, width + 1) if width % n == 0 and width // n % 2 == 0),
        key=lambda n: (abs(math.log(width / n / wanted)), n),
        default=1,
    )


def _shortened(model: ModelConfig, facts: Facts, notices: list[str]) -> dict[str, Any]:
    """A context that fits into the corpus."""
    room = min(facts.train_tokens, facts.val_tokens) - 1
    if room < 1:
        raise ConfigError(
            f"The corpus is too short: {facts.train_tokens} tokens to train, {facts.val_tokens} to validate.",
            "Give more text, or hold back less with --set val_fraction=0.05.",
        )
    if model.context_length <= room:
        return {}
    notices.append(f"The corpus is short: the context is {room} tokens instead of {model.context_length}.")
    return {"model.context_length": room}


def _batch_settings(config: RunConfig, given: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """Some hundred steps at least, but not so many that the optimizer's own work counts."""
    context, width = config.model.context_length, config.model.d_model
    row = facts.tokens_per_row(context)
    tokens = _horizon_tokens(config, config.model, facts)
    wanted = min(max(tokens / 500, 8 * width), (1 << 19) if facts.device == "cuda" else 16 * width, 8192)
    micro = config.train.micro_batch
    if micro and "train.batch_size" not in given:
        return {"train.batch_size": micro * max(1, round(wanted / row / micro))}
    batch = config.train.batch_size or max(1, round(min(wanted, facts.train_tokens) / row))
    fits = max(1, _micro_tokens(config, facts) // context)
    return {
        "train.batch_size": batch,
        "train.micro_batch": next(n for n in range(min(batch, fits), 0, -1) if batch % n == 0),
    }


def _micro_tokens(config: RunConfig, facts: Facts) -> int:
    """Tokens of one forward and backward pass whose activations stay below some 2 GiB (CPU) or 16 GiB."""
    one = sizing.memory_to_train(config.model, micro_batch=1, dtype=facts.dtype).activations
    room = (16 if facts.device == "cuda" else 2) << 30
    return max(1, room // max(1, one)) * config.model.context_length


def _steps(config: RunConfig, facts: Facts) -> int:
    if not config.train.minutes:
        row = facts.tokens_per_row(config.model.context_length)
        return horizon_steps(config.train, facts.train_tokens, row)
    tokens = _horizon_tokens(config, config.model, facts)
    return max(1, round(tokens / _step_tokens(config, facts)))


def _rate_settings(config: RunConfig, steps: int, facts: Facts) -> dict[str, Any]:
    """Rates, decay and dropout; the more epochs, the more is done against learning the text by heart."""
    width = config.model.d_model
    epochs = steps * _step_tokens(config, facts) / facts.train_tokens
    common = {
        "train.weight_decay": 0.1,
        "train.warmup": min(100, steps // 20),
        "model.dropout": 0.0 if epochs < 10 else 0.1 if epochs < 25 else 0.2,
    }
    if config.train.optimizer == "adamw":
        return {**common, "train.learning_rate": min(3e-3, 3e-3 * (128 / width) ** 0.5)}
    return {
        **common,
        "train.learning_rate": 0.03,
        "train.adamw_learning_rate": min(0.02, max(0.002, 0.02 * 128 / width)),
        "train.momentum": 0.9 if steps < 500 else 0.95,
    }


def _interval_settings(config: RunConfig, steps: int, facts: Facts) -> dict[str, Any]:
    count = min(EVALUATIONS, max(2, steps / 25))  # of the steps alone: two runs of one plan are equal
    every = _nice(steps / count)
    tokens = steps * _step_tokens(config, facts)
    # Scoring a token costs about two thirds of training on it: a third of the work, but in float32.
    part = max(EVALUATION_SHARE * tokens / count * 1.5, 4 * config.model.context_length)
    return {
        "train.log_interval": _nice(steps / 200),
        "train.eval_interval": every,
        "train.save_interval": config.train.eval_interval or every,
        "train.eval_tokens": min(int(part), facts.val_tokens),
    }


def _nice(value: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 ... that is not below."""
    power = 10 ** math.floor(math.log10(max(1.0, value)))
    return int(next(n * power for n in (1, 2, 5, 10) if n * power >= value))


def _ineffective(config: RunConfig, given: Mapping[str, Any]) -> list[str]:
    """Options that do nothing together with the others."""
    model, train = config.model, config.train
    cases = (
        ("model.rope_theta", model.position != "rope", f"--position {model.position}"),
        ("train.warmup", train.schedule == "onecycle", "--schedule onecycle, which has its own rise"),
        ("train.decay_fraction", train.schedule != "wsd", f"--schedule {train.schedule}"),
        ("train.final_fraction", train.schedule in ("constant", "onecycle"), f"--schedule {train.schedule}"),
        ("train.adamw_learning_rate", train.optimizer == "adamw", "--optimizer adamw"),
        ("train.momentum", train.optimizer == "adamw", "--optimizer adamw"),
    )
    idle = [(key.partition(".")[2], why) for key, off, why in cases if off and key in given]
    return [f"{name} has no effect with {why}." for name, why in idle]


def _memory(config: RunConfig, facts: Facts) -> int:
    """At the peak: what is held, a fifth more for what comes and goes, and on a CPU Python with torch."""
    held = sizing.memory_to_train(
        config.model,
        micro_batch=config.train.micro_batch,
        optimizer=config.train.optimizer,
        dtype=facts.dtype,
    ).total
    return int(1.2 * held) + (PROCESS_BYTES if facts.device == "cpu" else 0)


def _open(given: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in chosen.items() if key not in given}
