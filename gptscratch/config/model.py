"""The shape of a model."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from gptscratch.config.checks import require
from gptscratch.config.setting import ADVANCED, CHOSEN, MODEL, check_settings, setting

POSITIONS = ("rope", "learned", "sinusoidal", "alibi", "none")
NORMS = ("rmsnorm", "layernorm")
ACTIVATIONS = ("swiglu", "gelu", "gelu-tanh", "relu", "relu2")
_LARGEST = 1 << 31  # of any size, so that sums of them are computed at once
NARROWING = 4  # each further part of an adaptive softmax has d_model / 4, / 16 ... channels


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a GPT. The defaults are the modern family; ``PRESETS["gpt2"]`` is the other."""

    vocab_size: int = setting(
        256,
        None,
        "Number of tokens; a run takes its tokenizer's.",
        at_least=1,
        below=_LARGEST,
    )
    context_length: int = setting(
        256,
        MODEL,
        "Maximum number of tokens that the model can attend to.",
        at_least=1,
        below=_LARGEST,
        default_is=CHOSEN,
    )
    n_layer: int = setting(
        4,
        MODEL,
        "Number of transformer blocks.",
        flag="--layers",
        at_least=1,
        at_most=10_000,
        default_is=CHOSEN,
    )
    n_head: int = setting(
        4, MODEL, "Attention heads.", flag="--heads", at_least=1, below=_LARGEST, default_is=CHOSEN
    )
    n_kv_head: int = setting(
        None,
        ADVANCED,
        "Key-value heads; fewer than --heads gives grouped-query attention.",
        flag="--kv-heads",
        at_least=1,
        below=_LARGEST,
        default_is="--heads",
    )
    d_model: int = setting(
        128,
        MODEL,
        "Width of the residual stream (embedding size).",
        at_least=1,
        below=_LARGEST,
        default_is=CHOSEN,
    )
    d_ff: int = setting(
        None,
        ADVANCED,
        "Width of the MLP's hidden layer.",
        at_least=1,
        below=_LARGEST,
        default_is="8/3 of --d-model for swiglu, else 4 times",
    )
    head_dim: int = setting(
        None, None, "Width of one head.", at_least=1, below=_LARGEST, default_is="d_model / n_head"
    )
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
        (),
        ADVANCED,
        "First token id of each further cluster of an adaptive softmax (repeatable).",
        metavar="ID",
        at_least=1,
    )
    dropout: float = setting(
        0.0,
        MODEL,
        "Dropout probability, on the embedding, each residual branch and the attention weights.",
        at_least=0,
        below=1,
        default_is=CHOSEN,
    )
    norm_eps: float = setting(1e-6, None, "Epsilon of the normalization layers.", above=0)
    rope_theta: float = setting(10_000.0, None, "Base of the rotary wavelengths.", above=0)

    def __post_init__(self) -> None:
        check_settings(self)
        require(
            self.head_dim is not None or self.d_model % self.n_head == 0,
            f"n_head = {self.n_head} (--heads) does not divide d_model = {self.d_model} (--d-model).",
            f"Try --d-model {_nearest_multiple(self.d_model, self.n_head)}, or another number of heads.",
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
        self._require_cutoffs()
        require(
            self.position != "sinusoidal" or self.d_model % 2 == 0,
            f"sinusoidal positions need an even d_model, not {self.d_model}.",
        )

    def _require_cutoffs(self) -> None:
        cutoffs = self.adaptive_cutoffs
        require(
            all(low < high for low, high in itertools.pairwise((0, *cutoffs))),
            f"adaptive_cutoffs is {list(cutoffs)}: the ids must rise, from 1.",
        )
        require(
            NARROWING ** len(cutoffs) <= self.d_model,
            f"adaptive_cutoffs has {len(cutoffs)} parts: too many for d_model = {self.d_model}.",
        )
        require(
            not (cutoffs and self.tie_embeddings),
            "adaptive_cutoffs and tie_embeddings exclude one another: there is no one matrix to share.",
        )
        require(
            not (self.output_bias and self.tie_embeddings),
            "output_bias and tie_embeddings exclude one another.",
        )

    def _derived(self) -> dict[str, int]:
        """What the sizes are that follow from others."""
        d_ff = -(-8 * self.d_model // 3 // 32) * 32 if self.activation == "swiglu" else 4 * self.d_model
        return {"n_kv_head": self.n_head, "head_dim": self.d_model // self.n_head, "d_ff": d_ff}

    def chosen(self) -> dict[str, Any]:
        """The fields without the sizes that follow from others."""
        derived = self._derived()
        return {name: value for name, value in vars(self).items() if derived.get(name) != value}

    def changed(self, **fields: Any) -> ModelConfig:
        """A copy with other values. Sizes that follow from others are computed again."""
        return ModelConfig(**{**self.chosen(), **fields})

    def resolved(self) -> ModelConfig:
        """Raises ConfigError where the vocabulary, known by now, does not hold ``adaptive_cutoffs``."""
        require(
            max(self.adaptive_cutoffs, default=0) < self.vocab_size,
            f"adaptive_cutoffs is {list(self.adaptive_cutoffs)}: the vocabulary ends at {self.vocab_size}.",
        )
        return self


def _nearest_multiple(value: int, factor: int) -> int:
    return max(1, round(value / factor)) * factor
