"""How large a model is and what it costs, from its config alone: parameters, FLOPs and memory.

Arithmetic without torch, so that a plan or ``info gpt2-xl`` is instant. Bytes and FLOPs are plain
integers. Shape letters in the formulas: B batch, T context, D d_model, H heads, G kv heads,
K head_dim, F d_ff, V vocab, L layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gptscratch.config import NARROWING, ModelConfig

Shape = tuple[int, ...]

MUON_AT_ONCE = 1 << 24  # numbers of one shape that Muon updates at a time, if no single matrix is larger

DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Parameters by part; a tied lm_head counts 0, for it is the token embedding."""

    token_embedding: int
    position_embedding: int
    attention: int
    mlp: int
    norms: int  # all but those inside the heads, which belong to attention
    lm_head: int

    @property
    def total(self) -> int:
        return self.non_embedding + self.token_embedding + self.position_embedding + self.lm_head

    @property
    def non_embedding(self) -> int:
        """The blocks and the final norm: what scaling laws count (Kaplan et al. 2020)."""
        return self.attention + self.mlp + self.norms


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes that training holds at its fullest. ``activations`` is an estimate, the rest is exact."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True, kw_only=True)
class SamplingMemory:
    """Bytes that sampling holds."""

    weights: int
    kv_cache: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache


def count_parameters(config: ModelConfig) -> ParameterCounts:
    """The exact number of parameters, summed over their shapes."""
    once, block = _shapes_once(config), _block_shapes(config)
    return ParameterCounts(
        token_embedding=_total(once, "token_embedding"),
        position_embedding=_total(once, "position_embedding"),
        attention=config.n_layer * _total(block, "attention"),
        mlp=config.n_layer * _total(block, "mlp"),
        norms=config.n_layer * _total(block, "norm") + _total(once, "final_norm"),
        lm_head=_total(once, "lm_head"),
    )


def linear_layers(config: ModelConfig) -> tuple[str, ...]:
    """The names of a block's linear layers, such as q."""
    return tuple(name.split(".")[-2] for name, shape in _block_shapes(config).items() if len(shape) == 2)


def adapter_parameters(config: ModelConfig, rank: int, targets: Collection[str]) -> int:
    """Parameters of LoRA adapters for the linear layers of these names: R (N + K) for each of (N, K)."""
    shapes = [shape for name, shape in _block_shapes(config).items() if len(shape) == 2
              and name.split(".")[-2] in targets]  # fmt: skip
    return config.n_layer * rank * sum(map(sum, shapes))


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every parameter's name and shape, in the order of the torch model's ``named_parameters``."""
    once, block = _shapes_once(config), _block_shapes(config)
    first = {name: shape for name, shape in once.items() if "embedding" in name}
    layers = [_prefixed(f"blocks.{layer}", block) for layer in range(config.n_layer)]
    return first | {name: shape for layer in layers for name, shape in layer.items()} | once


def forward_flops_per_token(config: ModelConfig) -> int:
    """FLOPs to compute one token's logits with a full context of T tokens: 2 N + 4 L H K T.

    N counts the weights in matrix products, lm_head among them (tied or not); a multiplication and
    an addition are two. The second term is q kᵀ and the weighted sum of v. That causality halves it
    is left out, as is usual when utilisation is reported (Chowdhery et al. 2022, PaLM, appendix B).
    """
    per_position = 4 * config.n_layer * config.n_head * config.head_dim
    return 2 * _product_weights(config) + per_position * config.context_length


def training_flops_per_token(config: ModelConfig) -> int:
    """Forward and backward: 6 N + 12 L H K T. The backward pass makes two products for each one."""
    return 3 * forward_flops_per_token(config)


def memory_to_train(
    config: ModelConfig,
    *,
    micro_batch_size: int = 1,
    optimizer: str = "muon",
    dtype: str = "float32",
    device: str = "cpu",
    trained: int | None = None,
) -> TrainingMemory:
    """Memory to train with ``micro_batch_size`` sequences of full length at a time.

    Weights, gradients and the optimizer's moments are float32; ``dtype`` is that of the
    activations. Muon keeps one moment for the blocks' matrices, AdamW two for everything else. ``trained``
    is the number of parameters that are trained; None: all.
    """
    total = count_parameters(config).total
    moments = 2 * total - (_matrix_parameters(config) if optimizer == "muon" else 0)
    if trained is not None:
        moments = 2 * trained
    return TrainingMemory(
        weights=4 * (total + (trained or 0)),
        gradients=4 * (total if trained is None else trained),
        optimizer=4 * moments,
        activations=_activation_bytes(config, micro_batch_size, DTYPE_BYTES[dtype], device),
    )


def update_bytes(config: ModelConfig, *, optimizer: str, dtype: str) -> int:
    """Additional memory of an update: Muon's copies of the gradients that it processes at a time.

    These are the float32 stack, its look ahead and the update, and five matrices of the iteration in
    ``dtype``. AdamW is computed in place.
    """
    if optimizer != "muon":
        return 0
    shapes = [shape for shape in _block_shapes(config).values() if len(shape) == 2]
    largest = max(config.n_layer * shapes.count(shape) * math.prod(shape) for shape in shapes)
    at_once = min(largest, max(MUON_AT_ONCE, *map(math.prod, shapes)))
    return (3 * 4 + 5 * DTYPE_BYTES[dtype]) * at_once


def training_peak(
    config: ModelConfig,
    *,
    micro_batch_size: int = 1,
    optimizer: str,
    dtype: str,
    device: str,
    trained: int | None = None,
) -> int:
    """Bytes at the peak of a step, without what is held for a moment, and without the process itself."""
    memory = memory_to_train(
        config,
        micro_batch_size=micro_batch_size,
        optimizer=optimizer,
        dtype=dtype,
        device=device,
        trained=trained,
    )
    update = update_bytes(config, optimizer=optimizer, dtype=dtype) if trained is None else 0
    return memory.total - memory.activations + max(memory.activations, update)


def memory_to_sample(config: ModelConfig, *, batch_size: int = 1, dtype: str = "float32") -> SamplingMemory:
    """Memory to sample ``batch_size`` texts at once, each up to the context length."""
    size = DTYPE_BYTES[dtype]
    per_token = 2 * config.n_layer * config.n_kv_head * config.head_dim
    return SamplingMemory(
        weights=size * count_parameters(config).total,
        kv_cache=size * batch_size * config.context_length * per_token,
    )


def _activation_bytes(c: ModelConfig, micro_batch_size: int, size: int, device: str) -> int:
    """Memory that a forward pass keeps for the backward pass, without checkpointing.

    Per token and layer: what each norm keeps and gives; q and k before their norms; q, k, v and
    attention's output; the MLP's wide tensors. In half precision and with dropout also attention's
    weights (``model.kernels``), but not on CUDA, whose flash attention makes them twice; with dropout a byte
    for each of what may be dropped; in half precision the worker's copy of all parameters but the embeddings,
    with its gradients.
    """
    queries, keys = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
    head_norms = int(c.qk_norm) * (queries + keys)
    wide = (4 if c.activation == "swiglu" else 2) * c.d_ff
    per_layer = 4 * c.d_model + head_norms + 2 * queries + 2 * keys + wide
    weights = c.n_head * min(c.context_length, (c.context_length + 128) // 2)
    if device == "cuda":
        weights = 0
    if size < 4 or c.dropout:
        per_layer += weights
    tokens = micro_batch_size * c.context_length
    masks = tokens * c.n_layer * (weights + 2 * c.d_model) if c.dropout else 0
    counts = count_parameters(c)
    head = counts.lm_head or c.vocab_size * c.d_model
    copies = 2 * size * (counts.non_embedding + head) if size < 4 else 0
    head_gradient = 4 * head
    return size * tokens * (c.n_layer * per_layer + 3 * c.d_model) + masks + head_gradient + copies


def _product_weights(c: ModelConfig) -> int:
    """Weights in matrix products: of the blocks and of the head, tied or not."""
    if not c.adaptive_cutoffs:
        return _matrix_parameters(c) + c.vocab_size * c.d_model
    # A part is computed where the token is in it: for a share of ln(end / start) / ln V by Zipf's law.
    head = c.d_model * (c.adaptive_cutoffs[0] + len(c.adaptive_cutoffs))
    for part, (low, high) in enumerate(itertools.pairwise((*c.adaptive_cutoffs, c.vocab_size))):
        width = c.d_model // NARROWING ** (part + 1)
        head += int(math.log(high / low) / math.log(c.vocab_size) * width * (c.d_model + high - low))
    return _matrix_parameters(c) + head


def _matrix_parameters(c: ModelConfig) -> int:
    return c.n_layer * sum(math.prod(shape) for shape in _block_shapes(c).values() if len(shape) == 2)


def _total(shapes: Mapping[str, Shape], prefix: str) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))


def _shapes_once(c: ModelConfig) -> dict[str, Shape]:
    """The shapes of everything but the blocks."""
    shapes: dict[str, Shape] = {"token_embedding.weight": (c.vocab_size, c.d_model)}
    if c.position == "learned":
        shapes["position_embedding.weight"] = (c.context_length, c.d_model)
    shapes |= _prefixed("final_norm", _norm_shapes(c))
    return shapes if c.tie_embeddings else shapes | _prefixed("lm_head", _head_shapes(c))


def _block_shapes(c: ModelConfig) -> dict[str, Shape]:
    heads, kv_heads = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
    head_norms = ("norm_q.weight", "norm_k.weight") if c.qk_norm else ()
    attention = (
        _linear_shapes("q", (heads, c.d_model), c.bias)
        | _linear_shapes("k", (kv_heads, c.d_model), c.bias)
        | _linear_shapes("v", (kv_heads, c.d_model), c.bias)
        | dict.fromkeys(head_norms, (c.head_dim,))
        | _linear_shapes("out", (c.d_model, heads), c.bias)
    )
    mlp = _linear_shapes("up", (c.d_ff, c.d_model), c.bias)
    if c.activation == "swiglu":
        mlp |= _linear_shapes("gate", (c.d_ff, c.d_model), c.bias)
    mlp |= _linear_shapes("down", (c.d_model, c.d_ff), c.bias)
    parts = {
        "norm_attention": _norm_shapes(c),
        "attention": attention,
        "norm_mlp": _norm_shapes(c),
        "mlp": mlp,
    }
    return {f"{part}.{name}": shape for part, shapes in parts.items() for name, shape in shapes.items()}


def _head_shapes(c: ModelConfig) -> dict[str, Shape]:
    if not c.adaptive_cutoffs:
        return _linear_shapes("", (c.vocab_size, c.d_model), c.output_bias)
    first = c.adaptive_cutoffs[0] + len(c.adaptive_cutoffs)
    shapes = _linear_shapes("head", (first, c.d_model), c.output_bias)
    for part, (low, high) in enumerate(itertools.pairwise((*c.adaptive_cutoffs, c.vocab_size))):
        width = c.d_model // NARROWING ** (part + 1)
        shapes |= {f"tail.{part}.0.weight": (width, c.d_model), f"tail.{part}.1.weight": (high - low, width)}
    return shapes


def _norm_shapes(c: ModelConfig) -> dict[str, Shape]:
    names = ("weight", "bias") if c.norm == "layernorm" and c.bias else ("weight",)
    return dict.fromkeys(names, (c.d_model,))


def _linear_shapes(name: str, shape: Shape, bias: bool) -> dict[str, Shape]:
    shapes = {"weight": shape} | ({"bias": shape[:1]} if bias else {})
    return _prefixed(name, shapes) if name else shapes


def _prefixed(prefix: str, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}
