"""``ModelConfig`` to and from Hugging Face's config.json: Qwen3 and GPT-2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptscratch.config import ModelConfig
from gptscratch.errors import ConfigError

_Choices = Mapping[str, tuple[Any, ...]]

# The values of ModelConfig that a family can represent.
_WRITABLE: Mapping[str, _Choices] = {
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
# The values of its config.json that ModelConfig can represent; a missing field has the first.
_READABLE: Mapping[str, _Choices] = {
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
# The fields that differ in nothing but their names.
_NAMES: Mapping[str, Mapping[str, str]] = {
    "qwen3": {
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
    },
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
# What these classes take for a field that config.json lacks.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "qwen3": {
        "head_dim": 128, "rms_norm_eps": 1e-6, "attention_dropout": 0.0, "tie_word_embeddings": False
    },
    "gpt2": {"layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1, "tie_word_embeddings": True},
}  # fmt: skip
_ACTIVATIONS = {"gelu-tanh": "gelu_new", "gelu": "gelu", "relu": "relu", "relu2": "relu2"}


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json for Qwen3ForCausalLM or GPT2LMHeadModel, whichever has this shape.

    Raises:
        ConfigError: neither has; names the options that the closer one cannot represent.
    """
    obstacles = {family: _obstacles(config, family) for family in _WRITABLE}
    family = min(obstacles, key=lambda name: len(obstacles[name]))
    if obstacles[family]:
        raise ConfigError(
            f"Hugging Face's {family} model cannot hold {', '.join(obstacles[family])}.",
            "The modern family has its counterpart in qwen3, the gpt2 family in gpt2.",
        )
    values = {hf_name: getattr(config, name) for name, hf_name in _NAMES[family].items()}
    values |= {
        "model_type": family,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
        "torch_dtype": "float32",  # the same, in transformers before 4.56
    }
    if family == "gpt2":
        return values | {
            "architectures": ["GPT2LMHeadModel"],
            "activation_function": _ACTIVATIONS[config.activation],
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
        }
    return values | {
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},  # the same, from 5.0 on
        "attention_bias": False,
        "use_sliding_window": False,
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
    given = {name: value for name, value in values.items() if value is not None}
    given = {**_DEFAULTS[family], **given}
    if family == "gpt2":
        given.setdefault("n_inner", 4 * given.get("n_embd", 0))
    else:
        given.setdefault("num_key_value_heads", given.get("num_attention_heads"))
    try:
        fields = {name: given[hf_name] for name, hf_name in _NAMES[family].items()}
    except KeyError as error:
        raise ConfigError(f"the model's config.json lacks {error.args[0]}.") from None
    fixed = {name: accepted[0] for name, accepted in _WRITABLE[family].items()}
    return ModelConfig(**fields | fixed | (_gpt2_features if family == "gpt2" else _qwen3_features)(given))


def _qwen3_features(values: Mapping[str, Any]) -> dict[str, Any]:
    rope = values.get("rope_parameters") or {"rope_theta": values.get("rope_theta", 10_000.0)}
    if rope.get("rope_type", "default") != "default":
        raise ConfigError(f"rotary positions of type {rope['rope_type']!r} have no counterpart here.")
    return {"rope_theta": float(rope["rope_theta"])}


def _gpt2_features(values: Mapping[str, Any]) -> dict[str, Any]:
    names = {hf_name: name for name, hf_name in _ACTIVATIONS.items()}
    names["gelu_pytorch_tanh"] = "gelu-tanh"  # another name for the same function
    return {"bias": True, "activation": names[values.get("activation_function", "gelu_new")]}


def _obstacles(config: ModelConfig, family: str) -> list[str]:
    """The options of a config that this family cannot represent."""
    wanted = dict(_WRITABLE[family])
    if family == "gpt2":
        wanted |= {"n_kv_head": (config.n_head,), "head_dim": (config.d_model // config.n_head,)}
    return [
        f"{n} = {getattr(config, n)}" for n, accepted in wanted.items() if getattr(config, n) not in accepted
    ]
