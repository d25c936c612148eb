"""Models to Hugging Face's format, as Qwen3ForCausalLM, LlamaForCausalLM or GPT2LMHeadModel.

The default family has exactly the shape of Qwen3; without norms of queries and keys it is a Llama. Conversion
does not need transformers. It keeps the function that is computed: a model without biases becomes a GPT-2
whose biases are zero, and fixed or absent positions become its table.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptscratch.config import ModelConfig
from gptscratch.errors import ConfigError, require
from gptscratch.files import write_json, write_text
from gptscratch.interop.hf_names import ACTIVATIONS, FIELDS, parameter_pairs
from gptscratch.interop.model_card import model_card
from gptscratch.interop.source import Source
from gptscratch.interop.token_names import read_names
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import Layout
from gptscratch.runs.tensors import save_streamed

# The values of ModelConfig that a family can represent; the first family that has a model's shape is taken.
_LLAMA = {
    "position": ("rope",),
    "norm": ("rmsnorm",),
    "activation": ("swiglu",),
    "output_bias": (False,),
    "adaptive_cutoffs": ((),),
}
_WRITABLE: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "qwen3": {**_LLAMA, "qk_norm": (True,), "bias": (False,)},
    "llama": {**_LLAMA, "qk_norm": (False,)},
    "gpt2": {
        "position": ("learned", "sinusoidal", "none"),
        "norm": ("layernorm",),
        "activation": tuple(ACTIVATIONS),
        "qk_norm": (False,),
        "output_bias": (False,),
        "adaptive_cutoffs": ((),),
    },
}
DTYPES = ("float32", "bfloat16", "float16")
_CLASSES = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}


def architecture(source: Source) -> str:
    """The name of the class in transformers.

    Raises:
        ConfigError: as ``config_to_hf``.
    """
    return str(config_to_hf(source.config)["architectures"][0])


def write(source: Source, folder: Path, dtype: str) -> None:
    """The files that AutoModelForCausalLM and AutoTokenizer load as they are, and a model card.

    Raises:
        ConfigError: as ``config_to_hf``, or a weight is too large for the type.
        OSError: the disk is full or cannot be written to.
    """
    values, kind = config_to_hf(source.config), getattr(torch, dtype)
    state = partial(state_to_hf, source.model, values["model_type"])  # tensor by tensor, to save memory
    shapes = {name: tuple(tensor.shape) for name, tensor in state()}
    special = {"bos_token_id": source.begin_of_text, "eos_token_id": source.end_of_text}
    values |= {**special, "dtype": dtype, "torch_dtype": dtype}
    tensors = (finite(name, tensor.to(kind)) for name, tensor in state())
    save_streamed(folder / "model.safetensors", shapes, kind, tensors)
    write_json(folder / "config.json", values)
    write_json(folder / "generation_config.json", _generation_config(source))
    shutil.copyfile(source.run / "tokenizer.json", folder / "tokenizer.json")
    write_json(folder / "tokenizer_config.json", _tokenizer_config(source))
    write_text(folder / "README.md", model_card(source, values["architectures"][0], dtype))


def finite(name: str, tensor: Tensor) -> Tensor:
    """The tensor. Raises ConfigError where a number became infinite in a narrower type."""
    require(
        bool(tensor.isfinite().all()),
        f"{name} holds numbers that {str(tensor.dtype).removeprefix('torch.')} cannot represent.",
        "Take another type, such as bfloat16.",
    )
    return tensor


def to_hf(model: GPT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The model as (config.json, state dict); some tensors are the model's own memory.

    Raises:
        ConfigError: no family has this shape; names the options in the way.
    """
    values = config_to_hf(model.config)
    return values, dict(state_to_hf(model, values["model_type"]))


def state_to_hf(model: GPT, family: str) -> Iterator[tuple[str, Tensor]]:
    """Each tensor by Hugging Face's name; biases that a GPT-2 has and the model lacks are zero."""
    own = {**model.state_dict(), "position_embedding.weight": _position_table(model)}
    for names, hf_name, is_transposed in parameter_pairs(model.config, family):
        parts = [own[name] if name in own else _zero_bias(own, name) for name in names]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        yield hf_name, tensor.t() if is_transposed else tensor


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json for the first family that has this shape.

    Raises:
        ConfigError: none has; names the options that the closest one cannot represent.
    """
    obstacles = {family: _obstacles(config, family) for family in _WRITABLE}
    family = min(obstacles, key=lambda name: len(obstacles[name]))
    if obstacles[family]:
        raise ConfigError(
            f"The architecture {family} of other programs cannot represent {', '.join(obstacles[family])}.",
            "The default becomes qwen3, the gpt2 presets become gpt2; --format onnx takes every model.",
        )
    values = {hf_name: getattr(config, name) for name, hf_name in FIELDS[family].items()}
    values |= {
        "architectures": [_CLASSES[family]],
        "model_type": family,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
        "torch_dtype": "float32",  # the same, in transformers before 4.56
    }
    if family == "gpt2":
        return values | {
            "activation_function": ACTIVATIONS[config.activation],
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
        }
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling:
        factor, low, high, length = config.rope_scaling
        rope = {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high}
        rope |= {"original_max_position_embeddings": int(length)}
    return values | {
        "hidden_act": "silu",
        "rope_parameters": {"rope_theta": config.rope_theta, **rope},
        "rope_theta": config.rope_theta,  # this and rope_scaling are the same, in transformers before 5.0
        "rope_scaling": rope if config.rope_scaling else None,
        **({"mlp_bias": config.bias} if family == "llama" else {"use_sliding_window": False}),
    }


def _tokenizer_config(source: Source) -> dict[str, Any]:
    named = {"bos_token": source.begin_of_text, "eos_token": source.end_of_text, "pad_token": source.padding}
    return {
        # Without a class named, transformers takes the model's own, which rebuilds parts of the file.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": source.config.context_length,
        # Before 5.0 the default has token_type_ids, which a GPT-2 would add to its embeddings.
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",  # so that each row of a batch ends with its prompt
        "clean_up_tokenization_spaces": False,
        **{key: source.tokenizer.library.id_to_token(i) for key, i in named.items() if i is not None},
        **read_names(source.run, source.tokenizer),
    }


def _generation_config(source: Source) -> dict[str, Any]:
    stops = source.stop_ids
    return {
        "bos_token_id": source.begin_of_text,
        "eos_token_id": stops if len(stops) > 1 else source.end_of_text,
        "pad_token_id": source.padding,
        **({"suppress_tokens": source.untrained_ids} if source.untrained_ids else {}),
    }


@torch.no_grad()
def _position_table(model: GPT) -> Tensor:
    """What the model adds to the embedding at each position: (T, D), zero for rotary and no positions."""
    weight, length = model.token_embedding.weight, model.config.context_length
    positions = torch.arange(length, device=weight.device)[None]  # (1, T)
    zeros = weight.new_zeros(1, length, model.config.d_model)  # (1, T, D)
    return model.position_embedding.embed(zeros, Layout(positions, positions, None))[0]


def _zero_bias(state: Mapping[str, Tensor], name: str) -> Tensor:
    weight = state[name.removesuffix("bias") + "weight"]
    return weight.new_zeros(weight.size(0))


def _obstacles(config: ModelConfig, family: str) -> list[str]:
    """The options of a config that this family cannot represent."""
    wanted = dict(_WRITABLE[family])
    if family == "gpt2":
        wanted |= {"n_kv_head": (config.n_head,), "head_dim": (config.d_model // config.n_head,)}
    return [
        f"{n} = {getattr(config, n)}" for n, accepted in wanted.items() if getattr(config, n) not in accepted
    ]
