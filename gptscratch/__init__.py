"""gptscratch: your own GPT from your own text.

    from gptscratch import GPT, ModelConfig, PRESETS, load, train, generate

A map of the house; imports go strictly down:

    cli/                                    the command line; typer and rich live there alone
    training/trainer  data/prepare  describe    one function, one job that a user can name
    checkpoint  generation  metrics  training/{step,evaluate,hooks}  interop/    parts composed
    model/  tokenizer  data/{corpus,shards,batches}  sampling  device  training/{schedule,optimizer,state}
    errors  config  presets  paths  sizing      no torch; every knob and every path

Names are loaded when first used, so that ``import gptscratch`` costs nothing.
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
    from gptscratch.generation.generator import generate as generate
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
    "generate": "generation.generator",
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
