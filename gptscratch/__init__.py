"""Train a small GPT on your own text, and generate text with it.

    from gptscratch import GPT, ModelConfig, PRESETS, Tokenizer, generate, load, resume, train

The packages, each of which imports only from those after it: cli; serve, report; training, generation,
interop; accelerate; runs; model, data; tokenizer; config. docs/architecture.md describes them. The names
above are imported when they are first used, so that ``import gptscratch`` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gptscratch.config import DataConfig, ModelConfig, RunConfig, SampleConfig, TrainConfig
    from gptscratch.config.presets import PRESETS
    from gptscratch.errors import UserError
    from gptscratch.generation.generate import generate
    from gptscratch.generation.generator import load
    from gptscratch.model.gpt import GPT
    from gptscratch.tokenizer import Tokenizer
    from gptscratch.training.trainer import resume, train

__all__ = [
    "GPT", "PRESETS", "DataConfig", "ModelConfig", "RunConfig", "SampleConfig", "Tokenizer", "TrainConfig",
    "UserError", "__version__", "generate", "load", "resume", "train",
]  # fmt: skip

_MODULES = {
    "GPT": "model.gpt",
    "PRESETS": "config.presets",
    "Tokenizer": "tokenizer",
    "UserError": "errors",
    "generate": "generation.generate",
    "load": "generation.generator",
    "resume": "training.trainer",
    "train": "training.trainer",
}  # the others are in config


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gptscratch' has no attribute {name!r}")
    value = getattr(import_module(f"gptscratch.{_MODULES.get(name, 'config')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
