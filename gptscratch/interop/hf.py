"""Models to and from Hugging Face's format, as Qwen3ForCausalLM or as GPT2LMHeadModel.

The modern family has exactly the shape of the one, the gpt2 family of the other. Conversion does not need
transformers. It keeps the function that is computed: a model without biases becomes a GPT-2 whose biases are
zero, fixed or absent positions become its table. Dropout is converted where the other format has a field.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptscratch.config import read_json
from gptscratch.errors import CheckpointError, ConfigError
from gptscratch.files import new_folder, write_json
from gptscratch.interop.hf_config import config_from_hf, config_to_hf
from gptscratch.interop.hf_weights import from_gpt2, from_qwen3, to_gpt2, to_qwen3
from gptscratch.model.gpt import GPT
from gptscratch.tokenizer.train import END_OF_TEXT


def to_hf(model: GPT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The model as (config.json, state dict); some tensors are the model's own memory.

    Raises:
        ConfigError: neither Qwen3 nor GPT-2 has this shape; names the options in the way.
    """
    values = config_to_hf(model.config)
    with torch.no_grad():
        return values, (to_gpt2 if values["model_type"] == "gpt2" else to_qwen3)(model)


def from_hf(values: Mapping[str, Any], state: Mapping[str, Tensor]) -> GPT:
    """The model that a config and a state dict of Hugging Face's describe: a float32 copy in evaluation mode.

    Raises:
        ConfigError: a kind of model, or a feature of it, that GPT does not have.
        CheckpointError: a tensor is missing, or has another shape than the config says.
    """
    config = config_from_hf(values)
    try:
        weights = (from_gpt2 if values["model_type"] == "gpt2" else from_qwen3)(config, state)
    except KeyError as error:
        raise CheckpointError(f"the weights lack {error.args[0]}.") from None
    if config.tie_embeddings:
        weights["lm_head.weight"] = weights["token_embedding.weight"]
    model = GPT(config)
    for name, parameter in model.named_parameters():
        found, wanted = tuple(weights[name].shape), tuple(parameter.shape)
        if found != wanted:
            raise CheckpointError(f"{name} has the shape {found}; the config asks for {wanted}.")
    model.load_state_dict(weights)
    return model.eval()


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


def export_hf(model: GPT, tokenizer_json: str | Path, folder: str | Path) -> Path:
    """Write a new folder that transformers' AutoModelForCausalLM and AutoTokenizer load as it is.

    It is complete or absent.

    Raises:
        ConfigError: as ``to_hf``, or ``folder`` exists already.
    """
    folder = Path(folder)
    if folder.exists():
        raise ConfigError(f"{folder} exists already.", "Name a new folder.")
    values, state = to_hf(model)
    if model.config.tie_embeddings:
        state.pop("lm_head.weight", None)  # a file holds no tensor twice
    end = _end_of_text(read_json(Path(tokenizer_json)))
    values |= {"bos_token_id": end, "eos_token_id": end}

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with new_folder(folder) as temporary:
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        shutil.copyfile(tokenizer_json, temporary / "tokenizer.json")
        write_json(temporary / "config.json", values)
        write_json(temporary / "tokenizer_config.json", _tokenizer_config(end, model.config.context_length))
    return folder


def _end_of_text(tokenizer: Mapping[str, Any]) -> int | None:
    ids = {token["content"]: int(token["id"]) for token in tokenizer.get("added_tokens", [])}
    return ids.get(END_OF_TEXT)


def _tokenizer_config(end: int | None, context_length: int) -> dict[str, Any]:
    return {
        # Without a class named, transformers takes the model's own, which rebuilds parts of the file.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        **({} if end is None else {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}),
    }
