"""Chooses what the user did not give: sizes, rates and intervals that suit the corpus and the time.

What is given is kept. A plan is arithmetic on a few facts: it reads no text and runs no model. The rules come
from the sweeps in docs/decisions/planner.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gptscratch import sizing
from gptscratch.config import UNITS, DataConfig, ModelConfig, RunConfig, TrainConfig, require_cutoffs
from gptscratch.errors import ConfigError
from gptscratch.training.budget import make_budget
from gptscratch.training.planning import heuristics
from gptscratch.training.planning.heuristics import Facts
from gptscratch.training.planning.notices import notices_about

DEFAULT_MINUTES = 5.0
EVALUATIONS = 10  # along a run
EVALUATION_SHARE = 0.015  # of the run's work, for those along it, and once more for the one at its end
LEAST_FINAL_TOKENS = 50_000  # evaluated at the end, however short the time
ALL_FINAL_TOKENS = 250_000  # the same where no time is given
TRAINING_SHARE = 0.95  # of the time; the rest is for evaluations, checkpoints and samples
LEAST_VAL_TOKENS = 16  # where the training text has a hundred times as many
CPU_ACTIVATIONS = 2 << 30  # bytes, at most, for those of a micro-batch on a CPU
GPU_ACTIVATIONS = 16 << 30  # the same on a GPU whose memory is not known
MEMORY_SHARE = 0.75  # of what is free: what is held for a moment is not counted
PROCESS_BYTES = 370_000_000  # of Python with torch and an evaluation
GPU_RESERVE = 1 << 30  # bytes of a GPU's memory for logits, kernels and fragments


@dataclass(frozen=True)
class Plan:
    """A whole configuration and what it is expected to take; by time, the steps are an expectation too."""

    config: RunConfig
    parameters: int
    steps: int
    tokens: int
    epochs: float
    seconds: float
    memory_bytes: int  # at the peak
    padding: float  # the share of a batch's positions that are padding
    notices: tuple[str, ...]

    @property
    def tokens_per_step(self) -> int:
        positions = self.config.train.batch_size * self.config.model.context_length
        return round(positions * (1 - self.padding))

    def record(self) -> dict[str, Any]:
        """The content of plan.json: everything except the configuration, which is in config.json."""
        return {key: value for key, value in asdict(self).items() if key != "config"}


def make_plan(given: Mapping[str, Any], data: DataConfig, facts: Facts) -> Plan:
    """Choose every setting that was not given.

    Args:
        given: settings by full name, such as ``{"model.n_layer": 6}``.
        data: the corpus's part of the configuration.
        facts: about the corpus's tokens and this machine.

    Raises:
        ConfigError: the given settings contradict one another, or the model does not fit into the memory.
    """
    return _Planner(given, data, facts).plan()


class _Planner:
    """A plan in the making: each method chooses some settings, from those that were chosen before."""

    def __init__(self, given: Mapping[str, Any], data: DataConfig, facts: Facts) -> None:
        self.given = dict(given)
        if not any(f"train.{unit}" in given for unit in UNITS):
            self.given["train.minutes"] = DEFAULT_MINUTES
        self.data = data
        self.facts = facts
        self.useful_tokens = heuristics.useful_epochs(facts.train_tokens) * facts.train_tokens
        self.notices: list[str] = []
        self.train = TrainConfig(**self._section("train"))
        self.memory: dict[str, Any] = {
            "optimizer": self.train.optimizer,
            "dtype": facts.dtype,
            "device": facts.device,
        }
        self.model = self._choose_model()
        if rank := self.train.lora_rank:
            self._choose(lora_alpha=2.0 * rank, lora_targets=sizing.linear_layers(self.model))
            self.memory["trained"] = sizing.adapter_parameters(self.model, rank, self.train.lora_targets)

    def plan(self) -> Plan:
        self._require_fit()
        self._choose_batch()
        steps = self._steps()
        if self.train.minutes:
            self._choose(max_steps=self._max_steps(steps))
        tokens = round(steps * self._step_tokens())
        seconds = self._seconds_for(tokens)
        if self.train.minutes and not self.train.max_steps:
            seconds = 60 * self.train.minutes
        self._choose_rates(steps, seconds)
        self._choose_intervals(steps)
        context_length = self.model.context_length
        config = RunConfig(model=self.model, data=self.data, train=self.train, name=self.given.get("name"))
        peak = 1.2 * sizing.training_peak(
            self.model, micro_batch_size=self.train.micro_batch_size, **self.memory
        )
        if self.facts.device == "cpu":
            peak += PROCESS_BYTES
        return Plan(
            config=config,
            parameters=sizing.count_parameters(self.model).total,
            steps=steps,
            tokens=tokens,
            epochs=tokens / max(1, self.facts.train_tokens),
            seconds=seconds,
            memory_bytes=max(self.facts.peak_bytes, int(peak)),
            padding=1 - self.facts.tokens_per_row(context_length) / context_length,
            notices=(*self.notices, *notices_about(config, self.given, steps, self.facts)),
        )

    def _section(self, name: str) -> dict[str, Any]:
        """The given settings of a section, by bare names."""
        return {
            key.partition(".")[2]: value for key, value in self.given.items() if key.startswith(f"{name}.")
        }

    def _choose(self, **values: Any) -> None:
        open_values = {name: value for name, value in values.items() if f"train.{name}" not in self.given}
        self.train = replace(self.train, **open_values)

    # The model

    def _choose_model(self) -> ModelConfig:
        given = self._section("model")
        if not self.facts.fine_tunes:  # else the embedding may have more rows than the tokenizer has tokens
            given["vocab_size"] = self.facts.vocab_size
        require_cutoffs(given.get("adaptive_cutoffs", ()), self.facts.vocab_size)
        layers, width, heads = (given.get(name) for name in ("n_layer", "d_model", "n_head"))
        if layers or width or heads:
            depth = layers or ModelConfig.n_layer
            d_model = width or 32 * (heads or max(2, depth))
            sizes = {"n_layer": depth, "d_model": d_model, "n_head": heuristics.heads(d_model)}
            return self._shortened(ModelConfig(**{**sizes, **given}))
        candidates = []
        for n_layer, d_model, context_length in heuristics.SHAPES:
            sizes = {"n_layer": n_layer, "d_model": d_model, "n_head": heuristics.heads(d_model)}
            candidates.append(ModelConfig(**{**sizes, "context_length": context_length, **given}))
        suitable = [model for model in candidates if self._suits(model)]
        return self._shortened((suitable or candidates[:1])[-1])

    def _suits(self, model: ModelConfig) -> bool:
        """Whether the run is long enough for the model, and the corpus and the memory are large enough."""
        blocks = sizing.count_parameters(model).non_embedding
        is_trained = self._run_tokens(model) >= heuristics.tokens_per_parameter(blocks) * blocks
        memory = MEMORY_SHARE * (self.facts.memory_bytes or math.inf)
        fits = sizing.training_peak(model, **self.memory) <= memory
        return is_trained and fits and blocks <= 10 * self.facts.train_tokens

    def _shortened(self, model: ModelConfig) -> ModelConfig:
        """The model with a context that fits into the corpus."""
        facts = self.facts
        longest = min(facts.train_tokens, facts.val_tokens) - 1
        if longest < 1 or facts.val_tokens < LEAST_VAL_TOKENS <= facts.train_tokens / 100:
            raise ConfigError(
                f"The corpus is too short: {facts.train_tokens:,} tokens to train on, "
                f"{facts.val_tokens:,} for validation.",
                "Give more text, or another share of it for validation with --val-fraction.",
            )
        if model.context_length <= longest:
            return model
        side = "training" if facts.train_tokens < facts.val_tokens else "validation"
        self.notices.append(
            f"The context length is {longest:,} instead of {model.context_length:,}: "
            f"the {side} text has only {longest + 1:,} tokens."
        )
        return replace(model, context_length=longest)

    def _require_fit(self) -> None:
        """Refuse a model that cannot be trained here, before anything of it is allocated."""
        needed = sizing.training_peak(self.model, **self.memory)
        if self.facts.memory_bytes and needed > self.facts.memory_bytes:
            raise ConfigError(
                f"This model needs about {_gigabytes(needed)} to train, and "
                f"{_gigabytes(self.facts.memory_bytes)} are free on this {self.facts.device} device.",
                "Take fewer --layers, a smaller --d-model or a shorter --context-length.",
            )

    # The length of the run, in tokens, seconds and steps

    def _run_tokens(self, model: ModelConfig) -> float:
        train = self.train
        if train.minutes:
            return min(self.useful_tokens, self._tokens_in_time(model))
        if train.tokens or train.epochs:
            return float(train.tokens or (train.epochs or 0) * self.facts.train_tokens)
        batch_size = self.given.get("train.batch_size", 0)
        return float((train.steps or 0) * (batch_size * model.context_length or 16 * model.d_model))

    def _tokens_in_time(self, model: ModelConfig) -> float:
        seconds = max(1.0, 60 * (self.train.minutes or 0) - self.facts.start_up_seconds) * TRAINING_SHARE
        return seconds * heuristics.tokens_per_second(model, self.facts)

    def _seconds_for(self, tokens: float) -> float:
        speed = heuristics.tokens_per_second(self.model, self.facts)
        return self.facts.start_up_seconds + tokens / speed / TRAINING_SHARE

    def _step_tokens(self) -> float:
        return self.train.batch_size * self.facts.tokens_per_row(self.model.context_length)

    def _steps(self) -> int:
        if self.train.minutes:
            return max(1, round(self._run_tokens(self.model) / self._step_tokens()))
        per_row = self.facts.tokens_per_row(self.model.context_length)
        return int(make_budget(self.train, self.facts.train_tokens, per_row).steps)

    def _max_steps(self, steps: int) -> int | None:
        """The steps after which the corpus would only be memorized; None where the time ends before."""
        useful = self.useful_tokens
        if self._tokens_in_time(self.model) <= useful or "train.max_steps" in self.given:
            return None
        self.notices.append(
            f"More than {useful / self.facts.train_tokens:.0f} epochs would only memorize this corpus: "
            f"training ends after {steps:,} steps, about {self._seconds_for(useful):.0f} of the "
            f"{60 * (self.train.minutes or 0):.0f} seconds. More text helps; --epochs trains longer."
        )
        return steps

    # The settings of training

    def _choose_batch(self) -> None:
        """Sequences of a step, and in a micro-batch as many of them as the memory holds."""
        per_row = self.facts.tokens_per_row(self.model.context_length)
        wanted = min(self._planned_batch(), self.facts.train_tokens) / per_row
        micro = self.given.get("train.micro_batch_size", 1)
        self._choose(batch_size=micro * max(1, round(wanted / micro)))
        batch = self.train.batch_size
        if micro > batch:
            self.notices.append(
                f"The micro-batch has {batch} sequences instead of {micro}: a step has no more."
            )
            self.train = replace(self.train, micro_batch_size=batch)
        parts = math.ceil(batch / self._rows_at_once())
        self._choose(micro_batch_size=math.ceil(batch / parts))

    def _planned_batch(self) -> float:
        """Tokens of a step; where the user gives the number of steps, not more of them for more steps."""
        width, device, steps = self.model.d_model, self.facts.device, self.train.steps
        tokens = self._run_tokens(self.model)
        if steps:
            tokens = 16 * width * steps if device == "cpu" else 0
        return heuristics.batch_tokens(tokens, width, device)

    def _rows_at_once(self) -> int:
        """Sequences of one forward and backward pass whose activations the memory holds."""
        device, free = self.facts.device, self.facts.memory_bytes
        one, two = (
            sizing.memory_to_train(self.model, micro_batch_size=rows, **self.memory) for rows in (1, 2)
        )
        each = two.activations - one.activations
        most = CPU_ACTIVATIONS // each if device == "cpu" else math.inf if free else GPU_ACTIVATIONS // each
        if free:
            reserve = 0 if device == "cpu" else GPU_RESERVE
            most = min(most, (MEMORY_SHARE * free - reserve - one.total) // each + 1)
        return int(max(1, most))

    def _choose_rates(self, steps: int, seconds: float) -> None:
        epochs = steps * self._step_tokens() / self.facts.train_tokens
        planned = min(self._planned_batch(), self.facts.train_tokens)
        factor = heuristics.batch_rate_factor(self._step_tokens(), planned)
        rates, warmup = heuristics.rates(self.train.optimizer, self.model.d_model, steps, factor), steps // 20
        if self.facts.fine_tunes:
            rates = heuristics.fine_tuning_rates(rates, adapters=self.train.lora_rank is not None)
            warmup = steps // 10
        self._choose(
            **rates,
            warmup_steps=min(100, warmup),
            compile=heuristics.compiling_pays(self.facts, self.train.documents, seconds),
        )
        self._choose(weight_decay=heuristics.weight_decay(self.train.learning_rate, steps))
        if "model.dropout" not in self.given:
            self.model = replace(self.model, dropout=heuristics.dropout(epochs, self.facts.train_tokens))

    def _choose_intervals(self, steps: int) -> None:
        count = min(EVALUATIONS, max(2, steps / 25))  # of the steps alone: two runs of one plan are equal
        # Evaluating a token costs about two thirds of training on it: a third of the work, but in float32.
        share = 1.5 * EVALUATION_SHARE * steps * self._step_tokens()
        final = int(max(share, LEAST_FINAL_TOKENS if self.train.minutes else ALL_FINAL_TOKENS))
        along = int(max(share / count, 4 * self.model.context_length))
        self._choose(log_interval=_round_number(steps / 200), eval_interval=_round_number(steps / count))
        self._choose(
            save_interval=self.train.eval_interval,
            eval_tokens=min(along, self.facts.val_tokens),
            final_eval_tokens=min(final, self.facts.val_tokens),
        )


def _round_number(value: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 ... that is not below."""
    power = 10 ** math.floor(math.log10(max(1.0, value)))
    return int(next(n * power for n in (1, 2, 5, 10) if n * power >= value))


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.0f} GB" if size >= 1e10 else f"{size / 1e9:.2g} GB"
