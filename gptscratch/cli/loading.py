"""What ``sample`` and ``score`` read: a model made fast, a prompt, a file of prompts."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from gptscratch import paths
from gptscratch.config import DataConfig
from gptscratch.errors import ConfigError, CorpusError, require
from gptscratch.sizing import count_parameters

if TYPE_CHECKING:
    import torch

    from gptscratch.config import ModelConfig
    from gptscratch.data.chunks import Reading
    from gptscratch.generation.generator import Generator

_Part = TypeVar("_Part", bytes, str)

_SMALL = 4_000_000  # parameters in blocks
_READ = 32  # positions at once, at least, where a text is scored


def load(
    run: str | None, *, quantize: str | None, device: str, dtype: str, exact: bool = False, rows: int = 1
) -> Generator:
    """A generator made fast, for ``rows`` texts at once.

    A small model gets a single thread, since waiting for a second one takes longer.

    What is auto is chosen: see ``sampling_device`` and ``sampling_dtype``. With ``exact``, as for a score, it
    is the fastest device, and float32.
    """
    import torch

    from gptscratch.accelerate.quantization import slower_notice
    from gptscratch.cli.console import notice
    from gptscratch.device import pick_device, slow_dtype_warning
    from gptscratch.generation.generator import Generator
    from gptscratch.runs.run import read_run

    if quantize and device == "auto":
        device = "cpu"  # the only device that has such kernels
    if device == "auto" and not exact:
        device = sampling_device(read_run(paths.find_checkpoint(run)[0]).config.model)
    if dtype == "auto":
        dtype = "float32" if exact else sampling_dtype(pick_device(device))
    generator = Generator.load(run, device=device, dtype=dtype)
    weight = generator.model.token_embedding.weight
    if warning := slow_dtype_warning(weight.dtype, weight.device):
        notice(warning)
    if quantize and (warning := slower_notice(generator.model, quantize, reads_text=exact)):
        notice(warning)
    if is_small(generator.model.config):
        torch.set_num_threads(1)
    return generator.accelerated(quantize=quantize, rows=_READ if exact else rows)


def sampling_device(config: ModelConfig) -> str:
    """Where a token is fastest: a small one takes a CPU less time than a GPU needs to launch its kernels."""
    return "cpu" if is_small(config) else "auto"


def is_small(config: ModelConfig) -> bool:
    """Whether a token takes less time than waiting for a second thread, or than starting kernels of a GPU."""
    return count_parameters(config).non_embedding < _SMALL


def sampling_dtype(device: torch.device) -> str:
    """bfloat16 on a GPU that has it, where reading the weights is the cost; float32 elsewhere.

    Not float16: a model that was trained in another type may exceed its range. On a CPU float32 was never
    slower for a token, except for what ``--quantize`` offers.
    """
    from gptscratch.device import has_fast_bfloat16

    return "bfloat16" if device.type == "cuda" and has_fast_bfloat16(device) else "float32"


def with_training_tokens(generator: Generator) -> Generator:
    """With the suffix array of its training tokens, which is made at the first use."""
    from gptscratch.cli.console import err
    from gptscratch.generation import memorization

    with err.status("reading the training tokens ..."):
        return memorization.with_training_tokens(generator)


_LONGEST_PROMPT = 1_000_000  # characters; the tokenizers need hundreds of bytes for each


def read_prompt(prompt: str | None, file: str | None) -> str:
    """What was given, or stdin where it is not a terminal, without its last line end."""
    require(prompt is None or file is None, "--prompt and --prompt-file are both given.", "Give one of them.")
    if prompt is not None and prompt != "-":
        return checked(prompt)
    if sys.stdin is None or (sys.stdin.isatty() and not (prompt or file)):
        return ""
    text = read_file(file or "-")
    if file in (None, "-"):
        text = text.removesuffix("\n")
    require(
        len(text) <= _LONGEST_PROMPT,
        f"The prompt has {len(text):,} characters; {_LONGEST_PROMPT:,} are the limit.",
        "Shorten it: a model reads the last part alone, as much as its context holds.",
    )
    return text


def checked(text: str) -> str:
    """What was typed. Python reads bytes that are invalid in the terminal's encoding as surrogates.

    Raises:
        ConfigError: there are such bytes.
    """
    invalid = any("\ud800" <= character <= "\udfff" for character in text)
    require(not invalid, "The prompt contains bytes that are invalid in the terminal's encoding.")
    return text


def unescaped(text: str) -> str:
    """A stop string as it is typed: \\n and \\t as in most languages."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def read_lines(file: str) -> list[str]:
    """A file's lines, without their ends; - is stdin."""
    lines = read_file(file).split("\n")
    return lines if lines[-1] else lines[:-1]


def read_documents(name: str, *, separator: str | None, column: str | None) -> list[str]:
    """The documents of a file as training reads them; - is stdin, without its last line end.

    Raises:
        ConfigError: as for ``read_file``, or there is no such column.
    """
    from gptscratch.data.chunks import texts_of
    from gptscratch.data.readers import read_documents

    config = DataConfig(separator=separator, text_column=column)
    found, _ = texts_of(b"".join(_read(name, read_documents, config)))
    if name == "-" and found:
        found[-1] = found[-1].removesuffix("\n")
    return found


def read_file(name: str) -> str:
    """The text of a file, with the encodings and compressions of a corpus; - is stdin.

    Raises:
        ConfigError: it cannot be read, or it is not UTF-8 and has no byte-order mark.
    """
    from gptscratch.data.encoding import decoded

    return "".join(_read(name, decoded, DataConfig()))


def _read(name: str, reader: Callable[[Reading], Iterable[_Part]], config: DataConfig) -> list[_Part]:
    from gptscratch.data.chunks import ReadCounts, Reading, Sizes
    from gptscratch.data.sources import Source

    file = "stdin" if name == "-" else name
    try:
        data = _stdin() if name == "-" else paths.expanded(name).read_bytes()
        source = Source(file, True, io.BytesIO(data))
        return list(reader(Reading(source, config, ReadCounts(), Sizes(), lambda _: None)))
    except FileNotFoundError:
        raise ConfigError(f"{name} does not exist.") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}.") from None
    except CorpusError as error:
        utf8 = "It must be UTF-8, or begin with a byte-order mark."
        raise ConfigError(error.message, utf8 if "--encoding" in error.hint else error.hint) from None


def _stdin() -> bytes:
    return sys.stdin.buffer.read() if sys.stdin else b""
