"""Train a small GPT on your own text, and generate text with it.

    from gptscratch import GPT, ModelConfig, PRESETS, Tokenizer, generate, load, train

The packages; each imports only from those below it, and those on one line do not import each other:

    cli                                 the command line
    training, generation, interop       the loop and its plan; text from a model; Hugging Face transformers
    accelerate                          faster kernels for a CPU, applied to a finished model
    runs                                a run on disk: config, checkpoints, metrics
    model, data                         the GPT in plain PyTorch; from a corpus to batches of tokens
    tokenizer                           characters, bytes, words, BPE
    device                              device, data type, random seeds
    config, presets, paths, sizing, errors, files      settings and files; they do not import torch

The names above are imported when they are first used, so that ``import gptscratch`` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gptscratch.config import DataConfig as DataConfig
    from gptscratch.config import ModelConfig as ModelConfig
    from gptscratch.config import RunConfig as RunConfig
    from gptscratch.config import SampleConfig as SampleConfig
    from gptscratch.config import TrainConfig as TrainConfig
    from gptscratch.errors import UserError as UserError
    from gptscratch.generation.generate import generate as generate
    from gptscratch.generation.generator import load as load
    from gptscratch.model.gpt import GPT as GPT
    from gptscratch.presets import PRESETS as PRESETS
    from gptscratch.tokenizer import Tokenizer as Tokenizer
    from gptscratch.training.trainer import train as train

_HOMES = {
    "GPT": "model.gpt",
    "ModelConfig": "config",
    "DataConfig": "config",
    "TrainConfig": "config",
    "SampleConfig": "config",
    "RunConfig": "config",
    "PRESETS": "presets",
    "Tokenizer": "tokenizer",
    "UserError": "errors",
    "load": "generation.generator",
    "train": "training.trainer",
    "generate": "generation.generate",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gptscratch' has no attribute {name!r}")
    value = getattr(import_module(f"gptscratch.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
