"""The shape of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gptscratch.config.setting import ADVANCED, MODEL, check_settings, planned, setting
from gptscratch.errors import require

POSITIONS = ("rope", "learned", "sinusoidal", "alibi", "none")
NORMS = ("rmsnorm", "layernorm")
ACTIVATIONS = ("swiglu", "gelu", "gelu-tanh", "relu", "relu2")
_SIZE = {"at_least": 1, "below": 1 << 31}  # so that sums of sizes are computed at once
NARROWING = 4  # each further part of an adaptive softmax has d_model / 4, / 16 ... channels


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a GPT. The defaults are the modern family; ``PRESETS["gpt2"]`` is the other."""

    vocab_size: int = setting(256, None, "Number of tokens; a run takes its tokenizer's.", **_SIZE)
    context_length: int = planned(
        256, MODEL, "Maximum number of tokens that the model can attend to.", **_SIZE
    )
    n_layer: int = planned(
        4, MODEL, "Number of transformer blocks.", flag="--layers", at_least=1, at_most=10_000
    )
    n_head: int = planned(4, MODEL, "Attention heads.", flag="--heads", **_SIZE)
    n_kv_head: int = setting(
        None, ADVANCED, "Key-value heads; fewer than --heads gives grouped-query attention.",
        flag="--kv-heads", default_is="--heads", **_SIZE,
    )  # fmt: skip
    d_model: int = planned(128, MODEL, "Width of the residual stream (embedding size).", **_SIZE)
    d_ff: int = setting(
        None, ADVANCED, "Width of the MLP's hidden layer.",
        default_is="8/3 of --d-model for swiglu, else 4 times", **_SIZE,
    )  # fmt: skip
    head_dim: int = setting(None, None, "Width of one head.", default_is="d_model / n_head", **_SIZE)
    position: str = setting("rope", MODEL, "Position encoding.", choices=POSITIONS)
    norm: str = setting("rmsnorm", MODEL, "Normalization layer.", choices=NORMS)
    activation: str = setting("swiglu", MODEL, "Activation function of the MLP.", choices=ACTIVATIONS)
    qk_norm: bool = setting(True, ADVANCED, "Normalize queries and keys (RMSNorm).")
    bias: bool = setting(False, ADVANCED, "Use biases in linear layers and LayerNorm.")
    tie_embeddings: bool = setting(False, ADVANCED, "Share the token embedding with the output layer.")
    output_bias: bool = setting(
        False, ADVANCED, "Bias of the output layer, initialized from token frequencies."
    )
    adaptive_cutoffs: tuple[int, ...] = setting(
        (), ADVANCED, "First token id of each further cluster of an adaptive softmax, as in 2000,10000.",
        metavar="IDS", at_least=1,
    )  # fmt: skip
    dropout: float = planned(
        0.0, MODEL, "Dropout probability (embedding, residual branches, attention weights).",
        at_least=0, below=1,
    )  # fmt: skip
    norm_eps: float = setting(1e-6, None, "Epsilon of the normalization layers.", above=0)
    rope_theta: float = setting(10_000.0, None, "Base of the rotary wavelengths.", above=0)
    rope_scaling: tuple[float, ...] = setting(
        (), None, "Scaling of the rotary frequencies as in Llama 3: factor, low and high frequency factor, "
        "original context length.", above=0,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_settings(self)
        factor = self.n_head * (2 if self.position in ("rope", "sinusoidal") else 1)
        require(
            self.head_dim is not None or self.d_model % self.n_head == 0,
            f"n_head = {self.n_head} (--heads) does not divide d_model = {self.d_model} (--d-model).",
            f"Try --d-model {_nearest_multiple(self.d_model, factor)}, or another number of heads.",
        )
        for name, size in self._derived().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, size)
        require(
            self.n_head % self.n_kv_head == 0,
            f"n_kv_head = {self.n_kv_head} (--kv-heads) does not divide n_head = {self.n_head} (--heads).",
            "Each key-value head serves the same number of query heads.",
        )
        require(
            self.position != "rope" or self.head_dim % 2 == 0,
            f"rotary positions turn pairs of numbers, so head_dim = {self.head_dim} must be even.",
            "Change --d-model or --heads, or take --position learned.",
        )
        scaling = self.rope_scaling
        require(
            not scaling or (len(scaling) == 4 and scaling[1] < scaling[2]),
            f"rope_scaling is {list(scaling)}: it must have four numbers, the third above the second.",
            "The factor, the low and the high frequency factor, and the original context length.",
        )
        require(
            self.position != "sinusoidal" or self.d_model % 2 == 0,
            f"sinusoidal positions need an even d_model (--d-model), not {self.d_model}.",
        )
        self._check_output()

    def _check_output(self) -> None:
        cutoffs, name = self.adaptive_cutoffs, "adaptive_cutoffs (--adaptive-cutoffs)"
        rising = list(cutoffs) == sorted(set(cutoffs))
        require(rising, f"{name} is {_listed(cutoffs)}: the ids must increase.")
        many = NARROWING ** len(cutoffs) > self.d_model
        require(not many, f"{name} has {len(cutoffs)} parts: too many for d_model = {self.d_model}.")
        matrix = "(--tie-embeddings): there is not one matrix to share."
        require(
            not (self.tie_embeddings and cutoffs), f"{name} cannot be combined with tie_embeddings {matrix}"
        )
        require(
            not (self.tie_embeddings and self.output_bias),
            "output_bias (--output-bias) and tie_embeddings (--tie-embeddings) cannot be combined.",
        )

    def _derived(self) -> dict[str, int]:
        """The sizes that follow from other sizes."""
        d_ff = -(-8 * self.d_model // 3 // 32) * 32 if self.activation == "swiglu" else 4 * self.d_model
        return {"n_kv_head": self.n_head, "head_dim": self.d_model // self.n_head, "d_ff": d_ff}

    def chosen(self) -> dict[str, Any]:
        """The fields without the sizes that follow from others."""
        derived = self._derived()
        return {name: value for name, value in vars(self).items() if derived.get(name) != value}

    def changed(self, **fields: Any) -> ModelConfig:
        """A copy with other values. Sizes that follow from others are computed again."""
        return ModelConfig(**{**self.chosen(), **fields})


def require_cutoffs(cutoffs: tuple[int, ...], vocab_size: int) -> None:
    """Raises ConfigError where the vocabulary does not hold ``adaptive_cutoffs``."""
    require(
        max(cutoffs, default=0) < vocab_size,
        f"adaptive_cutoffs (--adaptive-cutoffs) is {_listed(cutoffs)}: the vocabulary ends at {vocab_size}.",
    )


def _listed(cutoffs: tuple[int, ...]) -> str:
    return ",".join(map(str, cutoffs))


def _nearest_multiple(value: int, factor: int) -> int:
    return max(1, round(value / factor)) * factor
