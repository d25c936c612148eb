"""Chooses what the user did not give: sizes, rates and intervals that suit the corpus and the time.

What is given is kept. A plan is arithmetic on a few facts: it reads no text and runs no model. The rules come
from the sweeps in docs/decisions/planner.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gptscratch import sizing
from gptscratch.config import UNITS, DataConfig, ModelConfig, RunConfig, TrainConfig, require_cutoffs
from gptscratch.errors import ConfigError
from gptscratch.training.budget import make_budget
from gptscratch.training.planning import heuristics
from gptscratch.training.planning.costs import Costs
from gptscratch.training.planning.heuristics import Facts
from gptscratch.training.planning.notices import notices_about
from gptscratch.units import size

DEFAULT_MINUTES = 5.0
LEAST_VAL_TOKENS = 16  # where the training text has a hundred times as many


@dataclass(frozen=True)
class Plan:
    """A whole configuration and what it is expected to take; by time, the steps are an expectation too."""

    config: RunConfig
    given: tuple[str, ...]  # names of the settings that were given; the others were planned
    parameters: int
    steps: int
    tokens: int
    epochs: float
    seconds: float
    memory_bytes: int  # at the peak
    padding: float  # the share of a batch's positions that are padding
    notices: tuple[str, ...]
    device: str
    flops_per_second: float  # of large matrix products there, as measured

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
    plan = _Planner({**given, "train.r_drop": 0.0}, facts).plan(data)
    dropout = plan.config.model.dropout
    suits = dropout > 0 and not facts.fine_tunes
    r_drop = heuristics.r_drop(plan.epochs, facts.train_tokens) if suits else 0.0
    r_drop = given.get("train.r_drop", r_drop)
    if r_drop and (dropout or plan.config.train.lora_dropout):  # another plan: a token costs twice as much
        plan = _Planner({**given, "model.dropout": dropout, "train.r_drop": r_drop}, facts).plan(data)
    notices = notices_about(plan.config, given, plan.steps, facts)
    return replace(plan, given=tuple(given), notices=(*plan.notices, *notices))


class _Planner:
    """A plan in the making: each method chooses some settings, from those that were chosen before."""

    def __init__(self, given: Mapping[str, Any], facts: Facts) -> None:
        self.given, self.facts = given, facts
        self.notices: list[str] = []
        train = {**self._section("train"), "dtype": facts.dtype}
        if not train.keys() & set(UNITS):
            train["minutes"] = DEFAULT_MINUTES
        self.train = TrainConfig(**train)
        if self.train.optimizer == "muon":
            self.train = replace(self.train, muon_dtype=facts.muon_dtype)
        if self.train.minutes:
            self._choose_compile(60 * self.train.minutes)
        useful_epochs = heuristics.useful_epochs(facts.train_tokens, r_drop=self.train.r_drop > 0)
        self.useful_tokens = useful_epochs * facts.train_tokens
        self.model = self._choose_model()
        if rank := self.train.lora_rank:
            self._choose(lora_alpha=2.0 * rank, lora_targets=sizing.linear_layers(self.model))
        self._require_memory()

    @property
    def costs(self) -> Costs:
        return Costs(self.train, self.facts)

    def plan(self, data: DataConfig) -> Plan:
        model, facts = self.model, self.facts
        self.row_tokens = facts.tokens_per_row(model.context_length)
        self._choose_batch()
        step_tokens = self.train.batch_size * self.row_tokens
        if self.train.minutes:
            steps = max(1, round(self._run_tokens(model) / step_tokens))
        else:
            steps = int(make_budget(self.train, facts.train_tokens, self.row_tokens).steps)
        tokens = round(steps * step_tokens)
        by_time = self.train.minutes is not None
        self._choose(**heuristics.evaluations(steps, tokens, model, facts, by_time=by_time))
        self._choose(save_interval=self.train.eval_interval)
        if not by_time:
            self._choose_compile(self.costs.seconds(model, tokens, step_tokens))
        seconds = self.costs.seconds(model, tokens, step_tokens)
        given = 60 * (self.train.minutes or 0)
        useful = self.useful_tokens
        if by_time and "train.max_steps" not in self.given and self.costs.tokens_in_time(model) > useful:
            self._choose(max_steps=steps)
            self.notices.append(
                f"More than {useful / facts.train_tokens:.0f} epochs would only memorize this corpus: "
                f"training ends after {steps:,} steps, about {seconds:.0f} of the {given:.0f} seconds. "
                "More text helps; --epochs trains longer."
            )
        if by_time and not self.train.max_steps:
            seconds = given
        self._choose_rates(steps, tokens)
        config = RunConfig(model=self.model, data=data, train=self.train, name=self.given.get("name"))
        return Plan(
            config=config,
            given=tuple(self.given),
            parameters=sizing.count_parameters(model).total,
            steps=steps,
            tokens=tokens,
            epochs=tokens / max(1, facts.train_tokens),
            seconds=seconds,
            memory_bytes=self.costs.peak_bytes(model),
            padding=1 - self.row_tokens / model.context_length,
            notices=tuple(self.notices),
            device=facts.device,
            flops_per_second=facts.flops_per_second,
        )

    def _section(self, name: str) -> dict[str, Any]:
        """The given settings of a section, by bare names."""
        start = f"{name}."
        return {key.removeprefix(start): value for key, value in self.given.items() if key.startswith(start)}

    def _choose(self, **values: Any) -> None:
        open_values = {name: value for name, value in values.items() if f"train.{name}" not in self.given}
        self.train = replace(self.train, **open_values)

    def _choose_model(self) -> ModelConfig:
        given = self._section("model")
        if not self.facts.fine_tunes:  # else the embedding may have more rows than the tokenizer has tokens
            given["vocab_size"] = self.facts.vocab_size
        require_cutoffs(given.get("adaptive_cutoffs", ()), self.facts.vocab_size)
        layers, width, heads = (given.get(name) for name in ("n_layer", "d_model", "n_head"))
        if layers or width or heads:
            layers = layers or ModelConfig.n_layer
            width = width or 32 * (heads or max(2, layers))
            model = heuristics.model_with(given, layers, width, ModelConfig.context_length)
        else:
            candidates = (heuristics.model_with(given, *shape) for shape in heuristics.shapes())
            model = next(candidates)
            for larger in itertools.takewhile(self._suits, candidates):
                model = larger
        model = self._shortened(model)
        if "dropout" not in given:
            epochs = self._run_tokens(model) / self.facts.train_tokens
            model = replace(model, dropout=heuristics.dropout(epochs, self.facts.train_tokens))
        return model

    def _require_memory(self) -> None:
        needed, free = self.costs.training_bytes(self.model), self.facts.memory_bytes
        if not free or needed <= free:
            return
        advice = "Take fewer --layers, a smaller --d-model or a shorter --context-length."
        if self.facts.fine_tunes:
            advice = "Take a shorter --context-length."
            if not self.train.lora_rank:
                advice = "Train adapters alone, with --lora-rank 8, or take a shorter --context-length."
        raise ConfigError(
            f"This model needs about {size(needed)} to train, and "
            f"{size(free)} are free on this {self.facts.device} device.",
            advice,
        )

    def _suits(self, model: ModelConfig) -> bool:
        """Whether the run is long enough for the model, with enough text and memory."""
        blocks = sizing.count_parameters(model).non_embedding
        tokens = self.costs.tokens_in_time(model) if self.train.minutes else self._run_tokens(model)
        is_trained = tokens >= heuristics.tokens_per_parameter(blocks) * blocks
        has_text = blocks <= heuristics.most_parameters(self.facts.train_tokens)
        return is_trained and has_text and self.costs.fits(model)

    def _shortened(self, model: ModelConfig) -> ModelConfig:
        """The model with a context that fits into the corpus, or into each of several with weights."""
        facts, side, train_tokens = self.facts, "training", self.facts.train_tokens
        if facts.least_tokens is not None:
            side, train_tokens = "shortest training", facts.least_tokens
        longest = min(train_tokens, facts.val_tokens) - 1
        if longest < 1 or facts.val_tokens < LEAST_VAL_TOKENS <= facts.train_tokens / 100:
            raise ConfigError(
                f"The corpus is too short: {train_tokens:,} tokens to train on, "
                f"{facts.val_tokens:,} for validation.",
                "Give more text, or another share of it for validation with --val-fraction.",
            )
        if model.context_length <= longest:
            return model
        side = side if train_tokens < facts.val_tokens else "validation"
        self.notices.append(
            f"The context length is {longest:,} instead of {model.context_length:,}: "
            f"the {side} text has only {longest + 1:,} tokens."
        )
        return replace(model, context_length=longest)

    def _run_tokens(self, model: ModelConfig) -> float:
        train = self.train
        if train.minutes:
            return min(self.useful_tokens, self.costs.tokens_in_time(model))
        if train.steps:
            batch_size = self.given.get("train.batch_size", 0)
            tokens = batch_size * model.context_length or heuristics.STEP_TOKENS * model.d_model
            return float(train.steps * tokens)
        return float(train.tokens or (train.epochs or 0) * self.facts.train_tokens)

    def _choose_batch(self) -> None:
        """Sequences of a step, and in a micro-batch as many of those of one process as its memory holds."""
        micro = self.given.get("train.micro_batch_size", 1)
        at_once = micro * self.facts.world_size
        wanted = self._planned_batch() / self.row_tokens
        self._choose(batch_size=at_once * max(1, round(wanted / at_once)))
        rows = math.ceil(self.train.batch_size / self.facts.world_size)
        if micro > rows:
            text = f"The micro-batch has {rows} sequences instead of {micro}: a step has no more."
            self.notices.append(text)
            self.train = replace(self.train, micro_batch_size=rows)
        parts = math.ceil(rows / self.costs.rows_at_once(self.model))
        self._choose(micro_batch_size=math.ceil(rows / parts))

    def _planned_batch(self) -> float:
        """Tokens of a step; where the user gives the number of steps, not more of them for more steps."""
        width = self.model.d_model
        if self.train.steps:
            tokens = float(heuristics.STEP_TOKENS * width)
        else:
            tokens = heuristics.batch_tokens(self._run_tokens(self.model), width)
        return min(tokens, self.facts.train_tokens)

    def _choose_compile(self, seconds: float) -> None:
        self._choose(compile=heuristics.compiling_pays(self.facts, self.train.documents, seconds))

    def _choose_rates(self, steps: int, tokens: int) -> None:
        width = self.model.d_model
        factor = heuristics.batch_rate_factor(tokens / steps, heuristics.batch_tokens(tokens, width))
        rates = heuristics.rates(self.train.optimizer, width, steps, factor)
        if self.facts.fine_tunes:
            is_lora = self.train.lora_rank is not None
            rates = heuristics.fine_tuning_rates(rates, self.train.optimizer, adapters=is_lora)
        self._choose(**rates)
        if self.train.lr_schedule != "onecycle":  # which has a warm-up of its own
            self._choose(warmup_steps=heuristics.warmup_steps(steps, fine_tunes=self.facts.fine_tunes))
        # Weight decay moves weights toward 0, not toward their pretrained values. With Muon it is for both.
        epochs = 0.0 if self.facts.fine_tunes else tokens / self.facts.train_tokens
        adamw_rate = self.train.adamw_learning_rate if self.train.optimizer == "muon" else 0.0
        rate = max(self.train.learning_rate, adamw_rate)
        self._choose(weight_decay=heuristics.weight_decay(rate, steps, epochs, self.facts.train_tokens))
