"""The names that gptscratch and three model families of Hugging Face give to the same things.

Export and import share these tables. Llama and Qwen3 differ in the norms of queries and keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gptscratch.config import ModelConfig

_LLAMA_FIELDS = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "d_model": "hidden_size",
    "d_ff": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "head_dim": "head_dim",
    "norm_eps": "rms_norm_eps",
    "dropout": "attention_dropout",
    "tie_embeddings": "tie_word_embeddings",
}
# The settings of ModelConfig that differ from config.json in nothing but their names.
FIELDS: Mapping[str, Mapping[str, str]] = {
    "qwen3": _LLAMA_FIELDS,
    "llama": {**_LLAMA_FIELDS, "bias": "attention_bias"},
    "gpt2": {
        "vocab_size": "vocab_size",
        "context_length": "n_positions",
        "d_model": "n_embd",
        "d_ff": "n_inner",
        "n_layer": "n_layer",
        "n_head": "n_head",
        "norm_eps": "layer_norm_epsilon",
        "dropout": "resid_pdrop",
        "tie_embeddings": "tie_word_embeddings",
    },
}
# Activation functions of a GPT-2; gelu_pytorch_tanh is another name for gelu_new.
ACTIVATIONS = {"gelu-tanh": "gelu_new", "gelu": "gelu", "relu": "relu", "relu2": "relu2"}

_LLAMA = {"token_embedding": "model.embed_tokens", "final_norm": "model.norm"}
_LLAMA_BLOCK = {
    "norm_attention": "input_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "norm_mlp": "post_attention_layernorm",
    "mlp.up": "mlp.up_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.down": "mlp.down_proj",
}
_QWEN3_BLOCK = _LLAMA_BLOCK | {
    "attention.norm_q": "self_attn.q_norm",
    "attention.norm_k": "self_attn.k_norm",
}
_GPT2 = {
    "token_embedding": "transformer.wte",
    "position_embedding": "transformer.wpe",
    "final_norm": "transformer.ln_f",
}
_GPT2_BLOCK = {
    "norm_attention": "ln_1",
    "attention.q attention.k attention.v": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "norm_mlp": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
_MODULES = {
    "qwen3": (_LLAMA, "model.layers", _QWEN3_BLOCK),
    "llama": (_LLAMA, "model.layers", _LLAMA_BLOCK),
    "gpt2": (_GPT2, "transformer.h", _GPT2_BLOCK),
}


class ParameterPair(NamedTuple):
    """One tensor of Hugging Face's and the parameters of gptscratch's that it consists of."""

    names: tuple[str, ...]  # concatenated along their outputs, the first dimension
    hf_name: str
    is_transposed: bool = False  # GPT-2 stores the weight of a linear layer as (in, out)


def parameter_pairs(config: ModelConfig, family: str) -> list[ParameterPair]:
    """Every tensor of a model of one of these families."""
    once, prefix, block = _MODULES[family]
    modules: list[tuple[tuple[str, ...], str]] = [((name,), hf_name) for name, hf_name in once.items()]
    for layer in range(config.n_layer):
        for joined, hf_name in block.items():
            names = tuple(f"blocks.{layer}.{name}" for name in joined.split())
            modules.append((names, f"{prefix}.{layer}.{hf_name}"))
    if not config.tie_embeddings:
        modules.append((("lm_head",), "lm_head"))
    pairs = []
    for names, hf_name in modules:
        is_norm = "norm" in names[0]
        is_linear = names[0].startswith("blocks.") and not is_norm
        weights = tuple(f"{name}.weight" for name in names)
        pairs.append(ParameterPair(weights, f"{hf_name}.weight", is_linear and family == "gpt2"))
        if (is_linear and config.bias) or (family == "gpt2" and (is_linear or is_norm)):
            pairs.append(ParameterPair(tuple(f"{name}.bias" for name in names), f"{hf_name}.bias"))
    return pairs
