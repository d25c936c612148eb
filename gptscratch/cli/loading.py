"""What ``sample`` and ``score`` take in: a model made fast, a prompt, a file of prompts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gptscratch.errors import ConfigError
from gptscratch.sizing import count_parameters

if TYPE_CHECKING:
    import torch

    from gptscratch.config import ModelConfig
    from gptscratch.generation.generator import Generator

_SMALL = 4_000_000  # parameters in blocks


def load(
    checkpoint: str | None,
    *,
    quantize: str | None,
    device: str | None,
    dtype: str | None,
    exact: bool = False,
) -> Generator:
    """The model, made fast for sampling; a small one gets a single thread, since it waits for a second.

    What was not given is chosen: see ``sampling_device`` and ``sampling_dtype``. With ``exact``, as for a
    score, it is the fastest device, and float32.
    """
    import torch

    from gptscratch import paths
    from gptscratch.accelerate.quantization import slower_notice
    from gptscratch.cli import render
    from gptscratch.device import pick_device, slow_dtype_warning
    from gptscratch.generation.generator import Generator
    from gptscratch.runs.run import read_run

    if quantize and device is None:
        device = "cpu"  # the only one that has such kernels
    if device is None and not exact:
        device = sampling_device(read_run(paths.find_checkpoint(checkpoint)[0]).config.model)
    device = device or "auto"
    if dtype is None:
        dtype = "float32" if exact else sampling_dtype(pick_device(device))
    gpt = Generator.load(checkpoint, device=device, dtype=dtype)
    weight = gpt.model.token_embedding.weight
    if warning := slow_dtype_warning(weight.dtype, weight.device):
        render.notice(warning)
    if quantize and (notice := slower_notice(gpt.model, quantize, reads_text=exact)):
        render.notice(notice)
    if count_parameters(gpt.model.config).non_embedding < _SMALL:
        torch.set_num_threads(1)
    return gpt.accelerated(quantize=quantize)


def sampling_device(config: ModelConfig) -> str:
    """A small model's token costs a CPU less than a GPU needs to launch its kernels: see docs/sampling.md."""
    return "cpu" if count_parameters(config).non_embedding < _SMALL else "auto"


def sampling_dtype(device: torch.device) -> str:
    """bfloat16 on a GPU that has it, where reading the weights is the cost; float32 elsewhere.

    Not float16, whose range a model may leave that was trained in another type. On a CPU float32 was never
    slower for a token, but for what ``--quantize`` offers.
    """
    from gptscratch.device import has_fast_bfloat16

    return "bfloat16" if device.type == "cuda" and has_fast_bfloat16(device) else "float32"


def with_copies(gpt: Generator) -> Generator:
    """With the index of its training tokens, which is made at the first time."""
    from gptscratch.cli import render
    from gptscratch.generation import memorization

    with render.err.status("looking at the training tokens ..."):
        return memorization.with_training_tokens(gpt)


def read_prompt(prompt: str | None, file: str | None) -> str:
    """What was given, or stdin where it is no terminal. The last line end of stdin is no part of it."""
    if prompt is not None and file is not None:
        raise ConfigError("--prompt and --prompt-file are both given.", "Take one of them.")
    if prompt is not None and prompt != "-":
        return typed(prompt)
    if file is not None and file != "-":
        return _file(file)
    asked = prompt or file
    if sys.stdin is None or (sys.stdin.isatty() and not asked):
        return ""
    return _stdin().removesuffix("\n").removesuffix("\r")


def typed(text: str) -> str:
    """What was typed. Of bytes that are no text Python makes halves of characters.

    Raises:
        ConfigError: there are such.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError("The prompt holds bytes that are no text in this terminal's encoding.")
    return text


def unescaped(text: str) -> str:
    """A stop text as it is typed: line ends and tabs as in most languages."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def read_lines(file: str) -> list[str]:
    """A file's lines, without their ends; - is stdin."""
    text = _stdin() if file == "-" else _file(file)
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _file(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{name} does not exist.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} cannot be read: {error}.", "Save it as UTF-8 first.") from None
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}.") from None


def _stdin() -> str:
    if sys.stdin is None:
        return ""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"What stands on stdin cannot be read: {error}.") from None
