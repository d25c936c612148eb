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
from typing import NamedTuple

from gptscratch.config import NARROWING, ModelConfig, TrainConfig

Shape = tuple[int, ...]

MUON_AT_ONCE = 1 << 24  # numbers of one shape that Muon updates at a time, if no single matrix is larger

DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


class ParameterCounts(NamedTuple):
    total: int
    non_embedding: int  # the blocks and the final norm: what scaling laws count (Kaplan et al. 2020)


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes of each kind. ``activations`` and ``update`` are estimates, the rest is exact, except that
    ``optimizer`` is an upper bound for LoRA adapters with Muon, which has one moment and not two.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    update: int  # copies of gradients that an update makes, when the activations are gone

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + max(self.activations, self.update)


def count_parameters(config: ModelConfig) -> ParameterCounts:
    """The exact number of parameters, summed over their shapes; a tied lm_head is the token embedding."""
    blocks = config.n_layer * sum(map(math.prod, _block_shapes(config).values()))
    before, after = _embedding_shapes(config), _norm_shapes("final_norm", config)
    outside = sum(map(math.prod, (before | _head_shapes(config)).values()))
    inside = blocks + sum(map(math.prod, after.values()))
    return ParameterCounts(total=inside + outside, non_embedding=inside)


def linear_layers(config: ModelConfig) -> tuple[str, ...]:
    """The names of a block's linear layers, such as q."""
    return tuple(name.split(".")[-2] for name in _matrices(config))


def adapter_parameters(config: ModelConfig, rank: int, targets: Collection[str]) -> int:
    """Parameters of LoRA adapters for the linear layers of these names: R (N + K) for each of (N, K)."""
    shapes = [shape for name, shape in _matrices(config).items() if name.split(".")[-2] in targets]
    return config.n_layer * rank * sum(map(sum, shapes))


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every parameter's name and shape, in the order of the torch model's ``named_parameters``."""
    block, shapes = _block_shapes(config), _embedding_shapes(config)
    for layer in range(config.n_layer):
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
    return shapes | _norm_shapes("final_norm", config) | _head_shapes(config)


def forward_flops_per_token(config: ModelConfig) -> int:
    """FLOPs to compute one token's logits with a full context of T tokens: 2 N + 4 L H K T.

    N counts the weights in matrix products, lm_head among them (tied or not); a multiplication and
    an addition are two. The second term is q kᵀ and the weighted sum of v. That causality halves it
    is left out, as is usual when utilization is reported (Chowdhery et al. 2022, PaLM, appendix B).
    """
    per_position = 4 * config.n_layer * config.n_head * config.head_dim
    return 2 * (_block_weights(config) + _head_weights(config)) + per_position * config.context_length


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
    shards: int = 1,
) -> TrainingMemory:
    """Memory to train with ``micro_batch_size`` sequences of full length at a time.

    Weights, gradients and the optimizer's moments are float32; ``dtype`` is that of the activations. Muon
    keeps one moment for the blocks' matrices, AdamW two for everything else. In an update Muon holds the
    gradients that it processes at a time as a float32 stack, its look-ahead and its result, and five matrices
    of the iteration in ``dtype``; AdamW is computed in place. ``trained`` is the number of parameters of
    adapters that are trained alone; None: the whole model is. ``shards`` is the number of processes that
    divide the parameters among them (FSDP); the memory is that of each.
    """
    total, update = count_parameters(config).total, 0
    moments = 2 * (total if trained is None else trained)
    if optimizer == "muon" and trained is None:
        moments -= _block_weights(config)
        shapes = list(_matrices(config).values())
        largest = max(config.n_layer * shapes.count(shape) * math.prod(shape) for shape in shapes)
        at_once = min(largest, max(MUON_AT_ONCE, *map(math.prod, shapes)))
        update = (3 * 4 + 5 * DTYPE_BYTES[dtype]) * at_once
    return TrainingMemory(
        weights=4 * math.ceil((total + (trained or 0)) / shards),
        gradients=4 * math.ceil((total if trained is None else trained) / shards),
        optimizer=4 * math.ceil(moments / shards),
        activations=_activation_bytes(config, micro_batch_size, DTYPE_BYTES[dtype], device, shards),
        update=update,
    )


def memory_of_run(
    config: ModelConfig, train: TrainConfig, *, rows: int, dtype: str, device: str = "cpu", shards: int = 1
) -> TrainingMemory:
    """``memory_to_train`` with ``rows`` sequences of a run's micro-batch, each computed twice with R-Drop."""
    targets = train.lora_targets or linear_layers(config)
    return memory_to_train(
        config,
        micro_batch_size=rows * train.passes,
        optimizer=train.optimizer,
        dtype=dtype,
        device=device,
        trained=train.lora_rank and adapter_parameters(config, train.lora_rank, targets),
        shards=shards,
    )


def kv_cache_bytes(config: ModelConfig, *, batch_size: int = 1, dtype: str = "float32") -> int:
    """Keys and values of ``batch_size`` texts, each up to the context length."""
    per_token = 2 * config.n_layer * config.n_kv_head * config.head_dim
    return DTYPE_BYTES[dtype] * batch_size * config.context_length * per_token


def _activation_bytes(c: ModelConfig, micro_batch_size: int, size: int, device: str, shards: int) -> int:
    """Memory that a forward pass keeps for the backward pass, without checkpointing.

    Per token and layer: what each norm keeps and gives; q and k before their norms; attention; the MLP's wide
    tensors. With dropout also the masks of the embedding and the residual branches; in half precision the
    replica of all parameters but the embeddings, with its gradients. A sharded model has the gathered
    parameters instead, of two blocks and outside of blocks, and their gradients, which are cast to float32
    where they are summed.
    """
    queries, keys = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
    head_norms = int(c.qk_norm) * (queries + keys)
    wide = (4 if c.activation == "swiglu" else 2) * c.d_ff
    per_layer = size * (4 * c.d_model + head_norms + wide) + _attention_bytes(c, size, device)
    dropped = (1 + 2 * c.n_layer) * c.d_model if c.dropout else 0
    per_token = c.n_layer * per_layer + 3 * size * c.d_model + (1 if device == "cuda" else size) * dropped
    head = sum(map(math.prod, _head_shapes(c).values())) or c.vocab_size * c.d_model
    copies = 2 * size * (count_parameters(c).non_embedding + head) if size < 4 else 0
    if shards > 1:
        block = sum(map(math.prod, _block_shapes(c).values()))
        outside = count_parameters(c).total - c.n_layer * block
        copies = 2 * size * (outside + 2 * block) + 4 * max(outside, block)
    head_gradient = 4 * head
    return micro_batch_size * c.context_length * per_token + head_gradient + copies


def _attention_bytes(c: ModelConfig, size: int, device: str) -> int:
    """For a token in a layer: q, k, v and the output; the weights where they are kept.

    They are with dropout and in half precision (``accelerate.kernels``), where keys and values are repeated
    for all heads; with dropout a byte more for each of them. On CUDA flash attention makes them twice.
    Dropout with ALiBi has no fast kernel on a CPU: q, k and v and three times all weights, in float32.
    """
    queries, keys = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
    if device == "cuda" or (size == 4 and not c.dropout):
        return size * (2 * queries + 2 * keys)
    if c.dropout and c.position == "alibi":
        return size * queries + 4 * 3 * (queries + c.n_head * c.context_length)
    weights = c.n_head * min(c.context_length, (c.context_length + 128) // 2)
    return size * (4 * queries + weights) + (weights if c.dropout else 0)


def _matrices(c: ModelConfig) -> dict[str, Shape]:
    """Those of a block."""
    return {name: shape for name, shape in _block_shapes(c).items() if len(shape) == 2}


def _block_weights(c: ModelConfig) -> int:
    return c.n_layer * sum(map(math.prod, _matrices(c).values()))


def _head_weights(c: ModelConfig) -> int:
    """Weights in the matrix product of the head, tied or not."""
    if not c.adaptive_cutoffs:
        return c.vocab_size * c.d_model
    # A part is computed where the token is in it: for a share of ln(end / start) / ln V by Zipf's law.
    weights = c.d_model * (c.adaptive_cutoffs[0] + len(c.adaptive_cutoffs))
    for width, low, high in _tails(c):
        weights += int(math.log(high / low) / math.log(c.vocab_size) * width * (c.d_model + high - low))
    return weights


def _tails(c: ModelConfig) -> list[tuple[int, int, int]]:
    """(width, first id, end) of each part of an adaptive softmax after the frequent tokens."""
    bounds = itertools.pairwise((*c.adaptive_cutoffs, c.vocab_size))
    return [(c.d_model // NARROWING ** (part + 1), low, high) for part, (low, high) in enumerate(bounds)]


def _embedding_shapes(c: ModelConfig) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"token_embedding.weight": (c.vocab_size, c.d_model)}
    if c.position == "learned":
        shapes["position_embedding.weight"] = (c.context_length, c.d_model)
    return shapes


def _block_shapes(c: ModelConfig) -> dict[str, Shape]:
    heads, kv_heads = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
    shapes = _norm_shapes("norm_attention", c)
    for name, width in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        shapes |= _linear_shapes(f"attention.{name}", (width, c.d_model), c.bias)
    if c.qk_norm:
        shapes |= {f"attention.norm_{name}.weight": (c.head_dim,) for name in "qk"}
    shapes |= _linear_shapes("attention.out", (c.d_model, heads), c.bias) | _norm_shapes("norm_mlp", c)
    for name in ("up", "gate") if c.activation == "swiglu" else ("up",):
        shapes |= _linear_shapes(f"mlp.{name}", (c.d_ff, c.d_model), c.bias)
    return shapes | _linear_shapes("mlp.down", (c.d_model, c.d_ff), c.bias)


def _head_shapes(c: ModelConfig) -> dict[str, Shape]:
    """Empty for a tied head."""
    if c.tie_embeddings:
        return {}
    if not c.adaptive_cutoffs:
        return _linear_shapes("lm_head", (c.vocab_size, c.d_model), c.output_bias)
    first = c.adaptive_cutoffs[0] + len(c.adaptive_cutoffs)
    shapes = _linear_shapes("lm_head.head", (first, c.d_model), c.output_bias)
    for part, (width, low, high) in enumerate(_tails(c)):
        shapes[f"lm_head.tail.{part}.0.weight"] = (width, c.d_model)
        shapes[f"lm_head.tail.{part}.1.weight"] = (high - low, width)
    return shapes


def _norm_shapes(name: str, c: ModelConfig) -> dict[str, Shape]:
    parts = ("weight", "bias") if c.norm == "layernorm" and c.bias else ("weight",)
    return {f"{name}.{part}": (c.d_model,) for part in parts}


def _linear_shapes(name: str, shape: Shape, bias: bool) -> dict[str, Shape]:
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})
