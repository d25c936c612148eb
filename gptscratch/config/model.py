"""The shape of a model."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

from gptscratch.config.checks import require, require_choice

POSITIONS = ("rope", "learned", "sinusoidal", "alibi", "none")
NORMS = ("rmsnorm", "layernorm")
ACTIVATIONS = ("swiglu", "gelu", "gelu-tanh", "relu", "relu2")
_MOST_LAYERS = 10_000
_LARGEST = 1 << 31  # of any other size, so that sums of them are computed at once
NARROWING = 4  # each further part of an adaptive softmax has d_model / 4, / 16 ... channels


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
    adaptive_cutoffs: tuple[int, ...] = ()  # ids where parts of an adaptive softmax begin; none: a full one
    dropout: float = 0.0  # probability, on the embedding, each residual branch and attention weight
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0  # base of the rotary wavelengths

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "d_model"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: it must be at least 1.")
        for name in ("n_kv_head", "d_ff", "head_dim"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}: it must not be negative.")
        require(
            self.n_layer <= _MOST_LAYERS, f"n_layer is {self.n_layer}: it must be at most {_MOST_LAYERS:,}."
        )
        for name in ("vocab_size", "context_length", "n_head", "n_kv_head", "d_model", "d_ff", "head_dim"):
            value = getattr(self, name)
            require(value < _LARGEST, f"{name} has {len(str(value))} digits: it must be below {_LARGEST:,}.")
        require_choice("position", self.position, POSITIONS)
        require_choice("norm", self.norm, NORMS)
        require_choice("activation", self.activation, ACTIVATIONS)
        for name in ("norm_eps", "rope_theta"):
            value = getattr(self, name)
            require(0.0 < value < math.inf, f"{name} is {value}: it must be above 0.")
        require(0.0 <= self.dropout < 1.0, f"dropout is {self.dropout}: it must be in [0, 1).")
        require(
            self.head_dim > 0 or self.d_model % self.n_head == 0,
            f"n_head = {self.n_head} does not divide d_model = {self.d_model}.",
            f"Try --d-model {_nearest_multiple(self.d_model, self.n_head)}, or another number of heads.",
        )
        require(
            self.n_kv_head == 0 or self.n_head % self.n_kv_head == 0,
            f"n_kv_head = {self.n_kv_head} does not divide n_head = {self.n_head}.",
            "Each key-value head serves the same number of query heads.",
        )
        require(
            self.position != "rope" or self.resolved_head_dim % 2 == 0,
            f"rotary positions turn pairs of numbers, so head_dim = {self.resolved_head_dim} must be even.",
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

    @property
    def resolved_head_dim(self) -> int:
        return self.head_dim or self.d_model // self.n_head

    def resolved(self) -> ModelConfig:
        """The same shape with every derived size filled in; a second call changes nothing.

        Raises:
            ConfigError: ``adaptive_cutoffs`` do not lie inside the vocabulary, which is known by now.
        """
        require(
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


def _nearest_multiple(value: int, factor: int) -> int:
    return max(1, round(value / factor)) * factor
