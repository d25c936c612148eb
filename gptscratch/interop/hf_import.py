"""Models from Hugging Face's format: Qwen3 and GPT-2. Conversion does not need transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gptscratch.config import ModelConfig, read_json
from gptscratch.errors import CheckpointError, ConfigError
from gptscratch.interop.hf_names import ACTIVATIONS, FIELDS, parameter_pairs
from gptscratch.model.gpt import GPT

# The values of its config.json that ModelConfig can represent; a missing field has the first.
_READABLE: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
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
# What these classes take for a field that config.json lacks.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "qwen3": {
        "head_dim": 128, "rms_norm_eps": 1e-6, "attention_dropout": 0.0, "tie_word_embeddings": False
    },
    "gpt2": {"layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1, "tie_word_embeddings": True},
}  # fmt: skip


def load_hf(folder: str | Path) -> GPT:
    """Read a folder in Hugging Face's format: config.json and model.safetensors, in one file or several.

    Raises:
        ConfigError, CheckpointError: as ``from_hf``, or a file that cannot be read.
    """
    folder = Path(folder)
    values = read_json(folder / "config.json")
    index = folder / "model.safetensors.index.json"
    names = read_json(index)["weight_map"].values() if index.is_file() else ["model.safetensors"]
    state: dict[str, Tensor] = {}
    for name in sorted(set(names)):
        try:
            state |= load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder / name} cannot be read: {error}.") from None
    return from_hf(values, state)


def from_hf(values: Mapping[str, Any], state: Mapping[str, Tensor]) -> GPT:
    """The model that a config and a state dict of Hugging Face's describe: a float32 copy in evaluation mode.

    Raises:
        ConfigError: a kind of model, or a feature of it, that GPT does not have.
        CheckpointError: a tensor is missing, or has another shape than the config says.
    """
    config = config_from_hf(values)
    # The first GPT-2 files leave out the prefix "transformer."; both are read.
    prefix = "transformer." if "wte.weight" in state else ""
    weights: dict[str, Tensor] = {}
    for names, hf_name, is_transposed in parameter_pairs(config, values["model_type"]):
        if hf_name.removeprefix(prefix) not in state:
            raise CheckpointError(f"the weights lack {hf_name.removeprefix(prefix)}.")
        tensor = state[hf_name.removeprefix(prefix)]
        parts = (tensor.t() if is_transposed else tensor).chunk(len(names))
        weights |= dict(zip(names, parts, strict=True))
    if config.tie_embeddings:
        weights["lm_head.weight"] = weights["token_embedding.weight"]
    model = GPT(config)
    for name, parameter in model.named_parameters():
        found, wanted = tuple(weights[name].shape), tuple(parameter.shape)
        if found != wanted:
            raise CheckpointError(f"{name} has the shape {found}; the config asks for {wanted}.")
    model.load_state_dict(weights)
    return model.eval()


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
        fields = {name: given[hf_name] for name, hf_name in FIELDS[family].items()}
    except KeyError as error:
        raise ConfigError(f"the model's config.json lacks {error.args[0]}.") from None
    return ModelConfig(**fields | (_gpt2_features if family == "gpt2" else _qwen3_features)(given))


def _qwen3_features(values: Mapping[str, Any]) -> dict[str, Any]:
    rope = values.get("rope_parameters") or {"rope_theta": values.get("rope_theta", 10_000.0)}
    if rope.get("rope_type", "default") != "default":
        raise ConfigError(f"rotary positions of type {rope['rope_type']!r} have no counterpart here.")
    return {"rope_theta": float(rope["rope_theta"])}


def _gpt2_features(values: Mapping[str, Any]) -> dict[str, Any]:
    names = {hf_name: name for name, hf_name in ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu-tanh"}
    activation = names[values.get("activation_function", "gelu_new")]
    shape = {"position": "learned", "norm": "layernorm", "qk_norm": False, "bias": True}
    return shape | {"activation": activation}
