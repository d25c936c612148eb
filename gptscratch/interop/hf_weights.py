"""Parameters to and from Hugging Face's names and shapes: Qwen3 and GPT-2.

Shapes: D d_model, T context.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gptscratch.config import ModelConfig
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import Layout

State = dict[str, Tensor]

_QWEN3 = {
    "token_embedding": "model.embed_tokens",
    "final_norm": "model.norm",
    "lm_head": "lm_head",
}
_QWEN3_BLOCK = {
    "norm_attention": "input_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.norm_q": "self_attn.q_norm",
    "attention.norm_k": "self_attn.k_norm",
    "attention.out": "self_attn.o_proj",
    "norm_mlp": "post_attention_layernorm",
    "mlp.up": "mlp.up_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.down": "mlp.down_proj",
}
_GPT2_NORMS = {"norm_attention": "ln_1", "norm_mlp": "ln_2"}
_GPT2_LINEARS = {"attention.out": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
_QKV = ("attention.q", "attention.k", "attention.v")  # one matrix there: attn.c_attn


def to_qwen3(model: GPT) -> State:
    state_dict = model.state_dict()
    return {hf_name: state_dict[name] for name, hf_name in _qwen3_names(model.config).items()}


def from_qwen3(config: ModelConfig, state: Mapping[str, Tensor]) -> State:
    return {name: state[hf_name] for name, hf_name in _qwen3_names(config).items()}


def to_gpt2(model: GPT) -> State:
    """GPT-2 stores a linear layer as (in, out), and has biases and positions whether or not we do."""
    config, state_dict = model.config, model.state_dict()

    def norm(name: str, hf_name: str) -> State:
        weight = state_dict[f"{name}.weight"]
        bias = state_dict.get(f"{name}.bias", torch.zeros_like(weight))
        return {f"{hf_name}.weight": weight, f"{hf_name}.bias": bias}

    def linear(names: tuple[str, ...], hf_name: str) -> State:
        weight = torch.cat([state_dict[f"{name}.weight"] for name in names])  # (out, in)
        zeros = weight.new_zeros(weight.size(0))
        bias = torch.cat([state_dict[f"{name}.bias"] for name in names]) if config.bias else zeros
        return {f"{hf_name}.weight": weight.T, f"{hf_name}.bias": bias}

    embedding = state_dict["token_embedding.weight"]
    positions = torch.arange(config.context_length, device=embedding.device)[None]  # (1, T)
    table = embedding.new_zeros(config.context_length, config.d_model)  # (T, D)
    layout = Layout(positions, positions, None)
    table = model.position_embedding.embed(table[None], layout)[0]
    state = {"transformer.wte.weight": embedding, "transformer.wpe.weight": table}
    for layer in range(config.n_layer):
        block, hf_block = f"blocks.{layer}", f"transformer.h.{layer}"
        for name, hf_name in _GPT2_NORMS.items():
            state |= norm(f"{block}.{name}", f"{hf_block}.{hf_name}")
        for name, hf_name in _GPT2_LINEARS.items():
            state |= linear((f"{block}.{name}",), f"{hf_block}.{hf_name}")
        state |= linear(tuple(f"{block}.{name}" for name in _QKV), f"{hf_block}.attn.c_attn")
    return state | norm("final_norm", "transformer.ln_f") | {"lm_head.weight": state_dict["lm_head.weight"]}


def from_gpt2(config: ModelConfig, state: Mapping[str, Tensor]) -> State:
    """The first GPT-2 files leave out the prefix "transformer."; both are read.

    ``t()`` turns their (in, out) matrices and leaves biases as they are.
    """
    prefix = "transformer." if "transformer.wte.weight" in state else ""
    state_dict = {
        "token_embedding.weight": state[f"{prefix}wte.weight"],
        "position_embedding.weight": state[f"{prefix}wpe.weight"],
    }
    for kind in ("weight", "bias"):
        state_dict[f"final_norm.{kind}"] = state[f"{prefix}ln_f.{kind}"]
        for layer in range(config.n_layer):
            block, hf_block = f"blocks.{layer}", f"{prefix}h.{layer}"
            for name, hf_name in _GPT2_NORMS.items():
                state_dict[f"{block}.{name}.{kind}"] = state[f"{hf_block}.{hf_name}.{kind}"]
            for name, hf_name in _GPT2_LINEARS.items():
                state_dict[f"{block}.{name}.{kind}"] = state[f"{hf_block}.{hf_name}.{kind}"].t()
            fused = state[f"{hf_block}.attn.c_attn.{kind}"].t().chunk(3)  # (D, D) or (D,) each
            state_dict |= {f"{block}.{name}.{kind}": part for name, part in zip(_QKV, fused, strict=True)}
    if not config.tie_embeddings:
        state_dict["lm_head.weight"] = state["lm_head.weight"]
    return state_dict


def _qwen3_names(config: ModelConfig) -> dict[str, str]:
    """Hugging Face's name for each parameter."""
    modules = dict(_QWEN3)
    for layer in range(config.n_layer):
        modules |= {
            f"blocks.{layer}.{name}": f"model.layers.{layer}.{hf_name}"
            for name, hf_name in _QWEN3_BLOCK.items()
        }
    if config.tie_embeddings:
        del modules["lm_head"]
    return {f"{name}.weight": f"{hf_name}.weight" for name, hf_name in modules.items()}
