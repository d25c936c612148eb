"""Every knob, once: frozen dataclasses with their units, their checks and JSON both ways.

A default stands here and nowhere else. Where a default is 0 and the comment names a rule,
0 means "not given": the model's zeros are filled by ``ModelConfig.resolved()``, all others by
the plan (``training/planner.py``), and a run's config.json holds the results.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from gptscratch.errors import ConfigError

FORMAT = 1  # of a run folder; a reader refuses a newer one

POSITIONS = ("rope", "learned", "sinusoidal", "alibi", "none")
NORMS = ("rmsnorm", "layernorm")
ACTIVATIONS = ("swiglu", "gelu", "gelu-tanh", "relu", "relu2")
OPTIMIZERS = ("muon", "adamw")
SCHEDULES = ("constant", "cosine", "linear", "wsd", "onecycle")
NARROWING = 4  # each further part of an adaptive softmax has d_model / 4, / 16 ... channels
CLEAN = ("html", "lowercase", "punctuation", "nfc", "nfkc", "whitespace", "dedup", "neardup", "min-length")
DOCUMENTS = ("packed", "masked", "padded")
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a GPT. The defaults are the modern family; ``PRESETS["gpt2"]`` is the other."""

    vocab_size: int = 256  # tokens; a run takes its tokenizer's
    context_length: int = 256  # most tokens seen at once
    n_layer: int = 4
    n_head: int = 4  # query heads
    n_kv_head: int = 0  # key-value heads; 0: n_head
    d_model: int = 128  # width of the residual stream
    d_ff: int = 0  # width of the MLP; 0: 4 d_model, or 8/3 d_model up to a multiple of 32 for swiglu
    head_dim: int = 0  # width of one head; 0: d_model / n_head
    position: str = "rope"
    norm: str = "rmsnorm"
    activation: str = "swiglu"
    qk_norm: bool = True  # RMSNorm on each query and key head, before the rotation
    bias: bool = False  # in the linear layers and in LayerNorm
    tie_embeddings: bool = False  # lm_head shares the token embedding
    output_bias: bool = False  # lm_head has one; it starts at the logarithms of the tokens' frequencies
    adaptive_cutoffs: tuple[
        int, ...
    ] = ()  # ids at which parts of an adaptive softmax begin; none: a full one
    dropout: float = 0.0  # probability, on the embedding, each residual branch and attention weight
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0  # base of the rotary wavelengths

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "d_model"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: it must be at least 1.")
        for name in ("n_kv_head", "d_ff", "head_dim"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}: it must not be negative.")
        _require_choice("position", self.position, POSITIONS)
        _require_choice("norm", self.norm, NORMS)
        _require_choice("activation", self.activation, ACTIVATIONS)
        for name in ("norm_eps", "rope_theta"):
            value = getattr(self, name)
            _require(0.0 < value < math.inf, f"{name} is {value}: it must be above 0.")
        _require(0.0 <= self.dropout < 1.0, f"dropout is {self.dropout}: it must be in [0, 1).")
        _require(
            self.head_dim > 0 or self.d_model % self.n_head == 0,
            f"n_head = {self.n_head} does not divide d_model = {self.d_model}.",
            f"Try --d-model {_nearest_multiple(self.d_model, self.n_head)}, or another number of heads.",
        )
        _require(
            self.n_kv_head == 0 or self.n_head % self.n_kv_head == 0,
            f"n_kv_head = {self.n_kv_head} does not divide n_head = {self.n_head}.",
            "Each key-value head serves the same number of query heads.",
        )
        _require(
            self.position != "rope" or self.resolved_head_dim % 2 == 0,
            f"rotary positions turn pairs of numbers, so head_dim = {self.resolved_head_dim} must be even.",
            "Change --d-model or --heads, or take --position learned.",
        )
        self._require_cutoffs()
        _require(
            self.position != "sinusoidal" or self.d_model % 2 == 0,
            f"sinusoidal positions need an even d_model, not {self.d_model}.",
        )

    def _require_cutoffs(self) -> None:
        cutoffs = self.adaptive_cutoffs
        _require(
            all(low < high for low, high in itertools.pairwise((0, *cutoffs))),
            f"adaptive_cutoffs is {list(cutoffs)}: the ids must rise, from 1.",
        )
        _require(
            NARROWING ** len(cutoffs) <= self.d_model,
            f"adaptive_cutoffs has {len(cutoffs)} parts: too many for d_model = {self.d_model}.",
        )
        _require(
            not (cutoffs and self.tie_embeddings),
            "adaptive_cutoffs and tie_embeddings exclude one another: there is no one matrix to share.",
        )
        _require(
            not (self.output_bias and self.tie_embeddings),
            "output_bias and tie_embeddings exclude one another.",
        )

    @property
    def resolved_head_dim(self) -> int:
        return self.head_dim or self.d_model // self.n_head

    def resolved(self) -> ModelConfig:
        """The same shape with every derived size filled in; a second call changes nothing.

        Raises:
            ConfigError: ``adaptive_cutoffs`` do not lie inside the vocabulary, which is known by now.
        """
        _require(
            max(self.adaptive_cutoffs, default=0) < self.vocab_size,
            f"adaptive_cutoffs is {list(self.adaptive_cutoffs)}: the vocabulary ends at {self.vocab_size}.",
        )
        gated = self.activation == "swiglu"
        d_ff = -(-8 * self.d_model // 3 // 32) * 32 if gated else 4 * self.d_model
        return dataclasses.replace(
            self,
            n_kv_head=self.n_kv_head or self.n_head,
            head_dim=self.resolved_head_dim,
            d_ff=self.d_ff or d_ff,
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the text is, what a document is, how it becomes tokens, and what is held back."""

    corpus: tuple[str, ...] = ()  # files, folders, patterns, "-"; all "file=weight"; none: Python's library
    glob: str = ""  # which files of a folder; empty: what looks like text
    column: str = ""  # of a jsonl, csv or tsv; empty: "text"
    separator: str = ""  # between documents of one file; empty: <|endoftext|> where it occurs
    encoding: str = "utf-8"  # or "auto": guessed file by file; a byte-order mark wins over it
    errors: str = "strict"  # bytes that the encoding does not know: "strict" stops, "replace" reads U+FFFD
    clean: tuple[
        str, ...
    ] = ()  # steps over each document, in this order: see CLEAN; "min-length:N" characters
    tokenizer: str = ""  # char, byte, word, bpe or a path; empty: chosen by the corpus's size
    vocab_size: int = 0  # wanted entries; 0: chosen by the tokenizer and the corpus's size
    lowercase: bool = False
    min_frequency: int = 0  # a word seen less often is unknown; 0: chosen
    val_fraction: float = 0.1  # of the corpus, held back for validation
    val_file: str = ""  # a corpus of its own for validation; nothing is held back then

    def __post_init__(self) -> None:
        _require(self.vocab_size >= 0, f"vocab_size is {self.vocab_size}: it must be at least 1.")
        _require(self.min_frequency >= 0, f"min_frequency is {self.min_frequency}: it must not be negative.")
        _require_choice("errors", self.errors, ("strict", "replace"))
        _require(0.0 < self.val_fraction < 1.0, f"val_fraction is {self.val_fraction}: it must be in (0, 1).")
        _require(
            not self.val_file or self.val_fraction == DataConfig.val_fraction,
            "val_fraction has no effect beside val_file.",
            "Give one of --val-fraction, --val-file.",
        )
        for step in self.clean:
            _require_clean_step(step)
        _require(len(set(self.clean)) == len(self.clean), "a step of clean is named twice.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how fast and where. A zero is chosen by the plan."""

    steps: int = 0  # horizon: optimizer updates
    epochs: float = 0.0  # horizon: passes over the training tokens
    tokens: int = 0  # horizon: tokens seen
    minutes: float = 0.0  # horizon: wall-clock time of the whole command
    batch_size: int = 0  # sequences per step, over all micro-batches and ranks
    micro_batch: int = 0  # sequences per forward and backward pass
    documents: str = (
        "packed"  # in a row: end to end; blind to one another (--mask-documents); one (--pad-documents)
    )
    optimizer: str = "muon"
    learning_rate: float = 0.0  # peak; of the blocks' matrices under muon, of everything under adamw
    adamw_learning_rate: float = 0.0  # peak of all else under muon: embeddings, lm_head, norms, biases
    weight_decay: float = -1.0  # decoupled, on matrices only; -1: chosen
    beta1: float = 0.9  # of AdamW
    beta2: float = 0.95  # of AdamW
    momentum: float = 0.95  # of Muon
    grad_clip: float = 1.0  # largest global gradient norm; 0: no clipping
    schedule: str = "wsd"
    warmup: int = -1  # steps of linear warm-up; -1: chosen
    decay_fraction: float = 0.5  # wsd: the share of the run, at its end, that decays
    final_fraction: float = 0.0  # of the peak rate, left at the end of a decaying schedule
    log_interval: int = 0  # steps between logged losses
    eval_interval: int = 0  # steps between evaluations
    save_interval: int = 0  # steps between checkpoints
    sample_interval: int = -1  # steps between sample texts; 0: none, -1: with each evaluation
    eval_tokens: int = 0  # of the validation split, evenly spread, in evaluations along the way; 0: chosen
    final_eval_tokens: int = 0  # of the same, in the evaluation of the best checkpoint at the end; 0: chosen
    keep: int = 2  # newest checkpoints kept, beside the best
    patience: int = 0  # evaluations without a better loss before stopping; 0: never
    seed: int = 1337
    device: str = "auto"
    dtype: str = "auto"
    compile: bool | None = None  # torch.compile; None: chosen

    def __post_init__(self) -> None:
        given = [name for name in ("steps", "epochs", "tokens", "minutes") if getattr(self, name)]
        _require(
            len(given) <= 1,
            f"more than one horizon is given: {', '.join(given)}.",
            "Give one of --steps, --epochs, --tokens, --minutes.",
        )
        for name in ("steps", "epochs", "tokens", "minutes", "batch_size", "micro_batch", "learning_rate",
                     "adamw_learning_rate", "grad_clip", "log_interval", "eval_interval", "save_interval",
                     "eval_tokens", "final_eval_tokens", "patience"):  # fmt: skip
            value = getattr(self, name)
            _require(value >= 0, f"{name} is {value}: it must not be negative.")
            _require(value < math.inf, f"{name} is {value}: it must be finite.")
        for name in ("weight_decay", "warmup", "sample_interval"):
            value = getattr(self, name)
            _require(value == -1 or 0 <= value < math.inf, f"{name} is {value}: it must not be negative.")
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            _require(0.0 <= value < 1.0, f"{name} is {value}: it must be in [0, 1).")
        for name in ("decay_fraction", "final_fraction"):
            value = getattr(self, name)
            _require(0.0 <= value <= 1.0, f"{name} is {value}: it must be in [0, 1].")
        _require_seed(self.seed)
        _require(self.keep >= 1, f"keep is {self.keep}: at least one checkpoint must be kept.")
        _require_choice("documents", self.documents, DOCUMENTS)
        _require_choice("optimizer", self.optimizer, OPTIMIZERS)
        _require_choice("schedule", self.schedule, SCHEDULES)
        _require_choice("device", self.device, DEVICES)
        _require_choice("dtype", self.dtype, DTYPES)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How the next token is drawn from the model's logits, and when to stop."""

    max_tokens: int = 256  # new tokens
    temperature: float = 0.8  # 0: greedy
    top_k: int | None = None  # keep the k likeliest
    top_p: float | None = None  # keep the likeliest that together reach this probability
    min_p: float | None = None  # keep those at least this likely, relative to the likeliest
    repetition_penalty: float = 1.0  # above 1: tokens already seen become less likely
    frequency_penalty: float = 0.0  # taken from a logit for each time that its token was drawn
    presence_penalty: float = 0.0  # taken from a logit once its token was drawn
    no_repeat: int = 0  # so many tokens in a row never come twice; 0: they may
    no_copy: int = 0  # so many tokens in a row never come from the training tokens; 0: they may
    stop: tuple[str, ...] = ()  # texts that end the sample; not part of it
    num_samples: int = 1
    seed: int | None = None  # None: another one each time

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, f"max_tokens is {self.max_tokens}: it must be at least 1.")
        _require(
            self.temperature >= 0.0,
            f"temperature is {self.temperature}: it must not be negative.",
            "0 is greedy, 1 the model's own distribution.",
        )
        _require(
            self.top_k is None or self.top_k >= 1,
            f"top_k is {self.top_k}: it must be at least 1.",
            "Leave it out to keep every token.",
        )
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            _require(
                value is None or 0.0 < value <= 1.0,
                f"{name} is {value}: it must be in (0, 1].",
                "Leave it out to keep every token.",
            )
        _require(
            self.repetition_penalty > 0.0,
            f"repetition_penalty is {self.repetition_penalty}: it must be above 0.",
            "1 changes nothing, 1.1 is mild.",
        )
        for name in ("frequency_penalty", "presence_penalty"):
            value = getattr(self, name)
            _require(-math.inf < value < math.inf, f"{name} is {value}: it must be finite.")
        for name in ("no_repeat", "no_copy"):
            value = getattr(self, name)
            _require(value >= 0, f"{name} is {value}: it must not be negative.")
        _require(self.no_copy <= 64, f"no_copy is {self.no_copy}: it must be at most 64.")
        _require(self.num_samples >= 1, f"num_samples is {self.num_samples}: it must be at least 1.")
        _require(all(self.stop), "a stop text is empty.")
        _require_seed(self.seed or 0)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All of a run: what its config.json records."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    name: str = ""  # of the run; empty: made from the corpus's name and the date

    def with_settings(self, settings: Mapping[str, Any]) -> RunConfig:
        """A copy with fields changed by name: ``{"n_layer": 6, "data.vocab_size": 4096}``.

        Raises:
            ConfigError: as ``qualified``, or a value that is out of range.
        """
        sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        for key, value in qualified(settings).items():
            section, _, name = key.rpartition(".")
            sections.setdefault(section, {})[name] = value
        own = sections.pop("", {})
        changed = {s: dataclasses.replace(getattr(self, s), **part) for s, part in sections.items() if part}
        return dataclasses.replace(self, **changed, **own)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Build from nested sections, as ``to_dict`` writes them, with any part left out."""
        return cls().with_settings(flattened(values))


SECTIONS: Mapping[str, type] = MappingProxyType(
    {"model": ModelConfig, "data": DataConfig, "train": TrainConfig}
)


def qualified(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by full name, their values in the type of the field: ``{"model.n_layer": 6}``.

    A bare name may belong to one section only; ``section.name`` is always clear.
    Strings are read as JSON where the field is not itself a string (the ``--set`` flag).

    Raises:
        ConfigError: an unknown or ambiguous name, or a value of the wrong kind.
    """
    found = {}
    for key, value in settings.items():
        section, name = _locate(key)
        cls = SECTIONS[section] if section else RunConfig
        found[f"{section}.{name}" if section else name] = _converted(cls, name, value)
    return found


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"model": {"n_layer": 6}, "name": "x"}`` -> ``{"model.n_layer": 6, "name": "x"}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in SECTIONS:
            _require(isinstance(value, Mapping), f'"{key}" of a config must be an object.')
            flat.update({f"{key}.{name}": part for name, part in value.items()})
        else:
            flat[key] = value
    return flat


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object written by a user or by us.

    Raises:
        ConfigError: the file is missing, not JSON, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}.") from None
    _require(isinstance(values, dict), f"{path} must hold a JSON object.")
    return dict(values)


def is_setting(key: str) -> bool:
    """Whether some section has a field of this name, bare or with its section."""
    section, _, name = key.rpartition(".")
    return key == "name" or any(name in _field_names(c) and section in ("", s) for s, c in SECTIONS.items())


_KINDS: Mapping[Any, str] = MappingProxyType(
    {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        tuple[str, ...]: "texts",
        tuple[int, ...]: "whole numbers",
    }
)


def _locate(key: str) -> tuple[str, str]:
    """``"n_layer"`` or ``"model.n_layer"`` -> ``("model", "n_layer")``; the run's own name has no section."""
    if key == "name":
        return "", key
    section, _, name = key.rpartition(".")
    homes = [s for s, c in SECTIONS.items() if name in _field_names(c) and section in ("", s)]
    if len(homes) == 1:
        return homes[0], name
    _require(not homes, f"{key} is ambiguous.", f"Write {' or '.join(f'{s}.{name}' for s in homes)}.")
    known = sorted({n for c in SECTIONS.values() for n in _field_names(c)})
    raise ConfigError(f"no setting is named {key}.", f"The settings: {', '.join(known)}.")


def _converted(cls: type, name: str, value: Any) -> Any:
    """A value from JSON or from ``--set`` as the type that the field declares."""
    hint = get_type_hints(cls)[name]
    if isinstance(value, str) and hint is not str:
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint == tuple[str, ...]:
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts):
            return tuple(texts)
    elif hint == tuple[int, ...]:
        numbers = [value] if type(value) is int else value
        if isinstance(numbers, list | tuple) and all(type(number) is int for number in numbers):
            return tuple(numbers)
    elif hint in (int, float, str, bool):
        if type(value) is hint:
            return value
    elif value is None or type(value) is bool:  # bool | None
        return value
    raise ConfigError(f"{name} is {value!r}: it must be {_KINDS.get(hint, 'true or false')}.")


def _require_clean_step(step: str) -> None:
    name, _, least = step.partition(":")
    _require_choice("clean", name, CLEAN)
    if name == "min-length":
        _require(least.isdecimal(), f"clean is {step!r}: a number is missing.", "For example: min-length:100")
    else:
        _require(step == name, f"clean is {step!r}: {name} takes no number.")


def _field_names(cls: type) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(cls))


def _nearest_multiple(value: int, factor: int) -> int:
    return max(1, round(value / factor)) * factor


def _require(condition: bool, message: str, hint: str = "") -> None:
    if not condition:
        raise ConfigError(message, hint)


def _require_seed(seed: int) -> None:
    _require(0 <= seed < 2**63, f"seed is {seed}: it must be from 0 to 2^63 - 1.")


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{name} is {value!r}: it must be one of {', '.join(choices)}.")
