"""``ModelConfig`` to and from Hugging Face's config.json: Qwen3 and GPT-2."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gptscratch.config import ModelConfig
from gptscratch.errors import ConfigError

_Choices = Mapping[str, tuple[Any, ...]]

# The values of ModelConfig that a family can represent.
_WRITABLE: Mapping[str, _Choices] = MappingProxyType(
    {
        "qwen3": {
            "position": ("rope",),
            "norm": ("rmsnorm",),
            "activation": ("swiglu",),
            "qk_norm": (True,),
            "bias": (False,),
            "output_bias": (False,),
            "adaptive_cutoffs": ((),),
        },
        "gpt2": {
            "position": ("learned", "sinusoidal", "none"),
            "norm": ("layernorm",),
            "activation": ("gelu-tanh", "gelu", "relu", "relu2"),
            "qk_norm": (False,),
            "output_bias": (False,),
            "adaptive_cutoffs": ((),),
        },
    }
)
# The values of its config.json that ModelConfig can represent; a missing field has the first.
_READABLE: Mapping[str, _Choices] = MappingProxyType(
    {
        "qwen3": {
            "hidden_act": ("silu", "swish"),
            "attention_bias": (False,),
            "use_sliding_window": (False,),
            "rope_scaling": (None,),
        },
        "gpt2": {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu", "relu", "relu2"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
    }
)
_GPT2_ACTIVATIONS = {"gelu-tanh": "gelu_new", "gelu": "gelu", "relu": "relu", "relu2": "relu2"}
_FROM_GPT2_ACTIVATIONS = {hf_name: name for name, hf_name in _GPT2_ACTIVATIONS.items()}
_FROM_GPT2_ACTIVATIONS["gelu_pytorch_tanh"] = "gelu-tanh"  # another name there for the same curve


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json for Qwen3ForCausalLM or GPT2LMHeadModel, whichever has this shape.

    Raises:
        ConfigError: neither has; names the options that the closer one cannot represent.
    """
    c = config
    obstacles = {family: _obstacles(c, family) for family in _WRITABLE}
    family = min(obstacles, key=lambda name: len(obstacles[name]))
    if obstacles[family]:
        raise ConfigError(
            f"Hugging Face's {family} model cannot hold {', '.join(obstacles[family])}.",
            "The modern family has its counterpart in qwen3, the gpt2 family in gpt2.",
        )
    return (_to_gpt2 if family == "gpt2" else _to_qwen3)(c) | {
        "model_type": family,
        "vocab_size": c.vocab_size,
        "tie_word_embeddings": c.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
        "torch_dtype": "float32",  # the same, in transformers before 4.56
    }


def config_from_hf(values: Mapping[str, Any]) -> ModelConfig:
    """``ModelConfig`` for the config.json of a Qwen3 or GPT-2 model.

    Raises:
        ConfigError: another kind of model, or one with a feature that GPT does not have.
    """
    family = str(values.get("model_type"))
    if family not in _READABLE:
        raise ConfigError(f"a Hugging Face model of type {family!r} cannot be read.", "gpt2 and qwen3 can.")
    for name, accepted in _READABLE[family].items():
        if values.get(name, accepted[0]) not in accepted:
            raise ConfigError(f"{name} = {values[name]!r} of a {family} model has no counterpart here.")
    try:
        return (_from_gpt2 if family == "gpt2" else _from_qwen3)(values)
    except KeyError as error:
        raise ConfigError(f"the model's config.json lacks {error.args[0]}.") from None


def _obstacles(c: ModelConfig, family: str) -> list[str]:
    """The options of a resolved config that this family cannot represent."""
    found = [
        f"{name} = {getattr(c, name)}"
        for name, accepted in _WRITABLE[family].items()
        if getattr(c, name) not in accepted
    ]
    if family == "gpt2" and c.n_kv_head != c.n_head:
        found.append(f"n_kv_head = {c.n_kv_head}")
    if family == "gpt2" and c.n_head * c.head_dim != c.d_model:
        found.append(f"head_dim = {c.head_dim}")
    return found


def _to_qwen3(c: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "max_position_embeddings": c.context_length,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head,
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},  # the same, from 5.0 on
        "attention_bias": False,
        "attention_dropout": c.dropout,
        "use_sliding_window": False,
    }


def _from_qwen3(values: Mapping[str, Any]) -> ModelConfig:
    rope = values.get("rope_parameters") or {"rope_theta": values.get("rope_theta", 10_000.0)}
    if rope.get("rope_type", "default") != "default":
        raise ConfigError(f"rotary positions of type {rope['rope_type']!r} have no counterpart here.")
    return ModelConfig(
        vocab_size=values["vocab_size"],
        context_length=values["max_position_embeddings"],
        n_layer=values["num_hidden_layers"],
        n_head=values["num_attention_heads"],
        n_kv_head=values.get("num_key_value_heads") or values["num_attention_heads"],
        d_model=values["hidden_size"],
        d_ff=values["intermediate_size"],
        head_dim=values.get("head_dim") or 128,  # their default, whatever the width
        position="rope",
        norm="rmsnorm",
        activation="swiglu",
        qk_norm=True,
        bias=False,
        tie_embeddings=values.get("tie_word_embeddings", False),
        dropout=values.get("attention_dropout", 0.0),
        norm_eps=values.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope["rope_theta"]),
    )


def _to_gpt2(c: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "n_positions": c.context_length,
        "n_embd": c.d_model,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_inner": c.d_ff,
        "activation_function": _GPT2_ACTIVATIONS[c.activation],
        "layer_norm_epsilon": c.norm_eps,
        "embd_pdrop": c.dropout,
        "resid_pdrop": c.dropout,
        "attn_pdrop": c.dropout,
    }


def _from_gpt2(values: Mapping[str, Any]) -> ModelConfig:
    return ModelConfig(
        vocab_size=values["vocab_size"],
        context_length=values["n_positions"],
        n_layer=values["n_layer"],
        n_head=values["n_head"],
        d_model=values["n_embd"],
        d_ff=values.get("n_inner") or 4 * values["n_embd"],
        position="learned",
        norm="layernorm",
        activation=_FROM_GPT2_ACTIVATIONS[values.get("activation_function", "gelu_new")],
        qk_norm=False,
        bias=True,
        tie_embeddings=values.get("tie_word_embeddings", True),
        dropout=values.get("resid_pdrop", 0.1),
        norm_eps=values.get("layer_norm_epsilon", 1e-5),
    )
