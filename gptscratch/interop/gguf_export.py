"""Models to GGUF, the format of llama.cpp and Ollama: architectures qwen3, llama and gpt2.

Names follow from Hugging Face's by the tables of the package gguf (extra ``[gguf]``).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from gptscratch.config import ModelConfig
from gptscratch.errors import MissingExtraError, require
from gptscratch.files import write_text
from gptscratch.interop.gguf_vocabulary import vocabulary
from gptscratch.interop.hf_export import config_to_hf, finite, state_to_hf
from gptscratch.interop.source import Source
from gptscratch.interop.token_names import read_names
from gptscratch.model.position import rotary_angles, scaled_frequencies

if TYPE_CHECKING:
    from gguf import GGUFWriter

DTYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
FILE = "model.gguf"
_BLOCK = 32  # numbers that share a scale in q8_0 and q4_0

# Ollama: the prompt is passed as it is, for a base model has no template. Its penalty for repetition is off,
# as in llama.cpp and gptscratch.
_MODELFILE = '''\
FROM ./{file}
TEMPLATE """{{{{ .Prompt }}}}"""
PARAMETER num_ctx {context_length}
PARAMETER temperature 0.8
PARAMETER repeat_penalty 1
'''


def architecture(source: Source) -> str:
    """The name of the architecture in llama.cpp.

    Raises:
        ConfigError: llama.cpp cannot represent the model.
        TokenizerError: as ``vocabulary``.
        MissingExtraError: the package gguf is not installed.
    """
    config = source.config
    family = str(config_to_hf(config)["model_type"])
    require(
        family != "gpt2" or config.activation == "gelu-tanh",
        f"GGUF's gpt2 model cannot represent activation = {config.activation}.",
        "llama.cpp computes gelu-tanh there. Export with --format hf.",
    )
    require(
        not config.rope_scaling or family == "llama",
        f"GGUF's {family} model cannot represent rope_scaling.",
        "llama.cpp reads it for its llama model alone, without qk_norm. Export with --format hf.",
    )
    vocabulary(source.tokenizer, config.vocab_size)
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise MissingExtraError("gguf", "gguf") from None
    return family


def write(source: Source, folder: Path, dtype: str) -> None:
    """model.gguf, and a Modelfile for Ollama.

    Raises:
        ConfigError: a weight is too large for the type.
        OSError: the disk is full or cannot be written to.
    """
    import gguf

    family = architecture(source)
    writer = gguf.GGUFWriter(folder / FILE, family)
    _add_settings(writer, source, family, dtype)
    _add_tokenizer(writer, source)
    for name, array, kind in _tensors(source, family, dtype):
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except OSError as error:  # numpy reports a full disk as numbers of bytes
        raise error if error.errno else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
    finally:
        writer.close()
    write_text(
        folder / "Modelfile", _MODELFILE.format(file=FILE, context_length=source.config.context_length)
    )


def _add_settings(writer: GGUFWriter, source: Source, family: str, dtype: str) -> None:
    import gguf

    config = source.config
    writer.add_name(source.name)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if dtype == "f32" else f"MOSTLY_{dtype.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_kv_head)
    if family == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)


def _add_tokenizer(writer: GGUFWriter, source: Source) -> None:
    described = vocabulary(source.tokenizer, source.config.vocab_size)
    begin, end = source.begin_of_text, source.end_of_text
    writer.add_tokenizer_model(described.model)
    writer.add_tokenizer_pre(described.pre_tokenizer)
    writer.add_token_list(described.tokens)
    writer.add_token_types(described.types)
    writer.add_token_scores(described.scores)
    writer.add_token_merges(described.merges)
    # Without these keys llama.cpp takes other tokens for both.
    writer.add_bos_token_id(described.end if begin is None else begin)
    writer.add_eos_token_id(described.end if end is None else end)
    writer.add_add_bos_token(bool(source.tokenizer.prefix_ids))
    writer.add_add_eos_token(False)
    writer.add_array("tokenizer.ggml.suppress_tokens", source.untrained_ids)
    if template := read_names(source.run, source.tokenizer).get("chat_template"):
        writer.add_chat_template(template)


def _tensors(source: Source, family: str, dtype: str) -> Iterator[tuple[str, NDArray[Any], Any]]:
    """(name, array, type) of each tensor: matrices in the chosen type, the rest in float32.

    A row whose length is not a multiple of 32 has no blocks, so that its matrix is stored in f16. With q4_0
    the matrix of the logits has 8 bits, since its errors are those of the probabilities.
    """
    import gguf

    kinds, config = gguf.GGMLQuantizationType, source.config
    names = gguf.get_tensor_name_map(
        next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == family), config.n_layer
    )
    head = "token_embd.weight" if config.tie_embeddings else "output.weight"
    for hf_name, stored in state_to_hf(source.model, family):
        tensor = _as_llama_cpp(stored, hf_name, config, family)
        module, _, suffix = hf_name.rpartition(".")
        name = f"{names[module]}.{suffix}"
        kind = kinds[dtype.upper()]
        if tensor.dim() == 1 or name == "position_embd.weight":
            kind = kinds.F32
        elif dtype.startswith("q") and tensor.size(1) % _BLOCK:
            kind = kinds.F16
        elif dtype == "q4_0" and name == head:
            kind = kinds.Q8_0
        if kind == kinds.F16:
            finite(hf_name, tensor.half())
        yield name, tensor.contiguous().numpy(), kind
    if config.rope_scaling:
        yield "rope_freqs.weight", _rope_factors(config).numpy(), kinds.F32


def _as_llama_cpp(tensor: Tensor, hf_name: str, config: ModelConfig, family: str) -> Tensor:
    """Linear layers as (out, in). The rotary pairs of a llama are next to each other, not in two halves."""
    if family == "gpt2":
        return tensor.t() if ".h." in hf_name and tensor.dim() == 2 else tensor
    if family == "llama" and any(f".{part}_proj." in hf_name for part in "qk"):
        halves = tensor.view(-1, 2, config.head_dim // 2, *tensor.shape[1:])  # (H, 2, K/2, D) or (H, 2, K/2)
        return halves.transpose(1, 2).reshape(tensor.shape)
    return tensor


def _rope_factors(config: ModelConfig) -> Tensor:
    """By what each frequency is divided: (K/2,)"""
    frequencies = rotary_angles(torch.ones(1, 1), config.head_dim, config.rope_theta)[0, 0]
    return frequencies / scaled_frequencies(frequencies, *config.rope_scaling)
