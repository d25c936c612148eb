"""Named model sizes, as data. ``gptscratch info NAME`` shows any of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gptscratch.config.model import ModelConfig
from gptscratch.config.setting import CHOSEN, settings_of
from gptscratch.errors import ConfigError, did_you_mean

# The published shape: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
_GPT2 = ModelConfig(
    vocab_size=50257, context_length=1024, n_layer=12, n_head=12, d_model=768,
    position="learned", norm="layernorm", activation="gelu-tanh", qk_norm=False, bias=True,
    tie_embeddings=True, norm_eps=1e-5,
)  # fmt: skip

PRESETS: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "nano": ModelConfig(n_layer=2, n_head=2, d_model=32, context_length=64),
        "tiny": ModelConfig(n_layer=3, n_head=3, d_model=96, context_length=128),
        "mini": ModelConfig(n_layer=4, n_head=4, d_model=128, context_length=256),
        "small": ModelConfig(n_layer=6, n_head=6, d_model=384, context_length=256),
        "medium": ModelConfig(n_layer=8, n_head=8, d_model=512, context_length=512, vocab_size=8192),
        "large": ModelConfig(n_layer=12, n_head=12, d_model=768, context_length=1024, vocab_size=32768),
        "gpt2": _GPT2,
        "gpt2-medium": _GPT2.changed(n_layer=24, n_head=16, d_model=1024),
        "gpt2-large": _GPT2.changed(n_layer=36, n_head=20, d_model=1280),
        "gpt2-xl": _GPT2.changed(n_layer=48, n_head=25, d_model=1600),
    }
)


def preset_settings(name: str) -> dict[str, Any]:
    """A preset as settings of a run; the vocabulary's size is left to the tokenizer.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        hint = f"{did_you_mean(name, PRESETS)} The presets: {', '.join(PRESETS)}."
        raise ConfigError(f"There is no preset {name!r}.", hint.lstrip())
    settings = settings_of(ModelConfig)
    return {
        f"model.{key}": value
        for key, value in PRESETS[name].chosen().items()
        if settings[key].default_is == CHOSEN or (key != "vocab_size" and value != settings[key].default)
    }
