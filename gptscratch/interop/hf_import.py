"""Models from a folder in Hugging Face's format: GPT-2, Llama, Mistral and Qwen3, without transformers.

What config.json asks for and GPT does not have is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from gptscratch.config import ModelConfig, read_json
from gptscratch.config.setting import settings_of
from gptscratch.errors import CheckpointError, ConfigError, require
from gptscratch.interop.foreign import SUPPORTED, ForeignModel, foreign_model, safetensors
from gptscratch.interop.hf_names import ACTIVATIONS, FIELDS, parameter_pairs
from gptscratch.model.gpt import GPT

# Mistral has the parameters of a Llama.
_FAMILIES = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama", "qwen3": "qwen3"}
_LLAMA: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "partial_rotary_factor": (1.0,),
    "quantization_config": (None,),
}
# The values of its config.json that GPT can represent; the first is that of a missing field.
_READABLE: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "llama": {**_LLAMA, "attention_bias": (False, True), "mlp_bias": (False, True)},
    "mistral": _LLAMA,
    "qwen3": {**_LLAMA, "use_sliding_window": (False,)},
    "gpt2": {
        "activation_function": ("gelu_new", *ACTIVATIONS.values(), "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "quantization_config": (None,),
    },
}
# What the classes of transformers take for a field that config.json lacks.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "attention_dropout": 0.0},
    "mistral": {
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "attention_dropout": 0.0,
        "num_key_value_heads": 8, "sliding_window": 4096,
    },
    "qwen3": {
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "attention_dropout": 0.0,
        "num_key_value_heads": 32, "head_dim": 128,
    },
    "gpt2": {"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "resid_pdrop": 0.1},
}  # fmt: skip
_SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def read_hf(folder: str | Path) -> ForeignModel:
    """Read a folder's config.json, and the names and shapes in its safetensors files.

    Raises:
        ConfigError: config.json is missing, or describes a model that GPT cannot represent.
        CheckpointError: the weights are missing, damaged, or not those that config.json describes.
    """
    folder = Path(folder)
    values = read_json(folder / "config.json")
    config_from_hf(values)  # what is not supported is reported before a missing file
    return _model(values, safetensors(_weight_files(folder)), stop_ids=_stop_ids(folder, values))


def load_hf(folder: str | Path) -> GPT:
    """The model of a folder, in float32 and evaluation mode; errors as ``read_hf``."""
    return read_hf(folder).to_gpt()


def from_hf(values: Mapping[str, Any], state: Mapping[str, Tensor]) -> GPT:
    """The model that a config and a state dict of Hugging Face's describe; it may use the same memory.

    Raises:
        ConfigError, CheckpointError: as ``read_hf``.
    """
    return _model(values, {name: partial(state.__getitem__, name) for name in state}).to_gpt()


def config_from_hf(values: Mapping[str, Any]) -> ModelConfig:
    """``ModelConfig`` for a config.json.

    Raises:
        ConfigError: another kind of model, or one with a feature that GPT does not have.
    """
    kind = values.get("model_type")
    known = isinstance(kind, str) and kind in _FAMILIES
    require(known, f"Models of type {kind!r} cannot be imported.", SUPPORTED)
    family = _FAMILIES[str(kind)]
    for name, accepted in _READABLE[str(kind)].items():
        value = values.get(name, accepted[0])
        _require(value in accepted, f"{name} = {_shown(value)}")
    layers = values.get("layer_types") or ["full_attention"]
    other = [each for each in (layers if isinstance(layers, list) else [layers]) if each != "full_attention"]
    _require(not other, f"layers of type {other[:1]}")
    given = {**_DEFAULTS[str(kind)], **values}
    if family == "gpt2":
        width = given.get("n_embd", 768)
        given["n_inner"] = given.get("n_inner") or (4 * width if isinstance(width, int) else width)
        features = _gpt2_features(given)
    else:
        features = _llama_features(given)
    fields = {}
    for name, hf_name in FIELDS[family].items():
        value = given.get(hf_name)
        if name in ("n_kv_head", "head_dim", "bias") and value is None:
            continue  # follows from other sizes
        require(value is not None, f"The model's config.json lacks {hf_name}.")
        fields[name] = settings_of(ModelConfig)[name].parse(value, f"{hf_name} in config.json")
    return ModelConfig(**fields | features)


def _model(
    values: Mapping[str, Any],
    tensors: Mapping[str, Callable[[], Tensor]],
    *,
    stop_ids: tuple[int, ...] = (),
) -> ForeignModel:
    config = config_from_hf(values)
    if "wte.weight" in tensors:  # the first GPT-2 files leave out the prefix
        tensors = {n if n == "lm_head.weight" else f"transformer.{n}": read for n, read in tensors.items()}
    pairs = parameter_pairs(config, _FAMILIES[values["model_type"]])
    ids = [i for i in stop_ids if 0 <= i < config.vocab_size]
    return foreign_model(values["model_type"], config, pairs, tensors, stop_ids=ids)


def _llama_features(values: Mapping[str, Any]) -> dict[str, Any]:
    has_bias = bool(values.get("attention_bias"))
    if values["model_type"] == "llama":
        _require(has_bias == bool(values.get("mlp_bias")), "attention_bias without mlp_bias, or the reverse")
    window, context = values.get("sliding_window"), values.get("max_position_embeddings")
    if values["model_type"] == "mistral" and isinstance(window, int) and isinstance(context, int):
        _require(window >= context, f"sliding_window = {window}, shorter than the context of {context}")
    return {
        "qk_norm": values["model_type"] == "qwen3",
        "rope_theta": _rope(values)[0],
        "rope_scaling": _rope(values)[1],
    }


def _rope(values: Mapping[str, Any]) -> tuple[float, tuple[float, ...]]:
    """The base of the wavelengths and the scaling: one object in transformers 5, two fields in 4."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    require(isinstance(rope, dict), f"The rotary positions in config.json are {_shown(rope)}.")
    kind = rope.get("rope_type", rope.get("type", "default"))
    _require(kind in ("default", "llama3"), f"rotary positions of type {kind!r}")
    _require(rope.get("partial_rotary_factor", 1.0) == 1.0, "partial_rotary_factor in its rotary positions")
    theta = rope.get("rope_theta", values.get("rope_theta", 10_000.0))
    numbers = [rope.get(name) for name in _SCALING] if kind == "llama3" else []
    if numbers and numbers[-1] is None:
        numbers[-1] = values.get("max_position_embeddings")
    missing = [name for name, number in zip(_SCALING, numbers, strict=False) if number is None]
    require(not missing, f"The rotary positions of type llama3 in config.json lack {', '.join(missing)}.")
    settings = settings_of(ModelConfig)
    return (
        settings["rope_theta"].parse(theta, "rope_theta in config.json"),
        settings["rope_scaling"].parse(numbers, "the rotary scaling in config.json"),
    )


def _gpt2_features(values: Mapping[str, Any]) -> dict[str, Any]:
    names = {hf_name: name for name, hf_name in ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu-tanh"}
    activation = names[values.get("activation_function", "gelu_new")]
    shape = {"position": "learned", "norm": "layernorm", "qk_norm": False, "bias": True}
    return shape | {"activation": activation}


def _require(condition: bool, feature: str) -> None:
    require(condition, f"The model has something that gptscratch does not have: {feature}.", SUPPORTED)


def _shown(value: Any) -> str:
    return "an object" if isinstance(value, dict | list) else repr(value)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files: one, or those of an index.

    Raises:
        CheckpointError: there are none, or the index names a file outside the folder.
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        other = "; its .bin files are pickles, which are not read" if any(folder.glob("*.bin")) else ""
        raise CheckpointError(
            f"{folder} has no weights: model.safetensors is missing{other}.",
            "A folder needs config.json, model.safetensors (or its parts with their index), tokenizer.json.",
        )
    places = read_json(index).get("weight_map")
    names = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise CheckpointError(f"{index} is damaged: its weight_map must name files in the same folder.")
    return [folder / name for name in names]


def _stop_ids(folder: Path, values: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids that end a text: generation_config.json has them, or config.json."""
    try:
        found = read_json(folder / "generation_config.json").get("eos_token_id")
    except ConfigError:
        found = None
    found = values.get("eos_token_id") if found is None else found
    ids = found if isinstance(found, list) else [found]
    return tuple(i for i in ids if type(i) is int)
