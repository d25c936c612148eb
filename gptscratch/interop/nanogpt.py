"""Models that nanoGPT saved as ckpt.pt: a pickle, of which only tensors and plain values are read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gptscratch.config import ModelConfig
from gptscratch.config.setting import settings_of
from gptscratch.errors import CheckpointError, listed, require
from gptscratch.interop.foreign import ForeignModel, foreign_model
from gptscratch.interop.hf_names import parameter_pairs

_FIELDS = {
    "vocab_size": "vocab_size",
    "context_length": "block_size",
    "d_model": "n_embd",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "bias": "bias",
    "dropout": "dropout",
}


def read_nanogpt(path: str | Path) -> ForeignModel:
    """Read the sizes, names and shapes in a ckpt.pt; nothing in it is executed.

    The activation function is the exact GELU, as in nanoGPT since June 2023.

    Raises:
        CheckpointError: the file is damaged, or is not nanoGPT's.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what a damaged pickle holds
            saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # a damaged pickle can end in any of them
        reason = str(error).strip().split("\n")[0][:200] or "its pickle is damaged"
        raise CheckpointError(
            f"{path} cannot be read: {reason}.", "Expected is a ckpt.pt that nanoGPT's train.py saved."
        ) from None
    parts: Any = saved if isinstance(saved, dict) else {}
    if not all(isinstance(parts.get(name), dict) for name in ("model_args", "model")):
        raise CheckpointError(f"{path} is not a checkpoint of nanoGPT: it has no model_args or no model.")
    config = _config(parts["model_args"])
    state = {name.removeprefix("_orig_mod."): tensor for name, tensor in parts["model"].items()}  # compiled
    pairs = [
        pair._replace(is_transposed=False)
        for pair in parameter_pairs(config, "gpt2")
        if config.bias or not pair.hf_name.endswith(".bias")
    ]
    return foreign_model("nanogpt", config, pairs, {name: partial(state.__getitem__, name) for name in state})


def _config(model_args: Mapping[str, Any]) -> ModelConfig:
    given = {"bias": True, "dropout": 0.0, **model_args}
    missing = [hf_name for hf_name in _FIELDS.values() if given.get(hf_name) is None]
    require(not missing, f"The checkpoint's model_args lack {', '.join(missing)}.")
    unknown = given.keys() - _FIELDS.values()
    require(not unknown, f"The checkpoint's model_args have {listed(sorted(unknown))}: it is not nanoGPT's.")
    settings = settings_of(ModelConfig)
    return ModelConfig(
        **{
            name: settings[name].parse(given[other], f"{other} in ckpt.pt") for name, other in _FIELDS.items()
        },
        position="learned",
        norm="layernorm",
        activation="gelu",
        qk_norm=False,
        tie_embeddings=True,
        norm_eps=1e-5,
    )
