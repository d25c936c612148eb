"""A model of another program: its shape, and its parameters under the names of gptscratch.

A tensor is read when it is asked for, so that memory holds one at a time. Names and shapes are checked before
the first is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from gptscratch.config import ModelConfig
from gptscratch.errors import CheckpointError, listed
from gptscratch.interop.hf_names import ParameterPair
from gptscratch.model.gpt import GPT
from gptscratch.runs.tensors import STORED, reading
from gptscratch.sizing import parameter_shapes

SUPPORTED = (
    "Supported are GPT-2, Llama 2 and 3 (such as SmolLM2), Mistral without a sliding window and Qwen3, "
    "in the format of Hugging Face, and the ckpt.pt of nanoGPT."
)
Tensors = Mapping[str, Callable[[], Tensor]]  # by the names of the other program; called to read one

# Buffers that older versions stored with the parameters: causal masks and rotary frequencies.
_BUFFERS = re.compile(r"\.attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")


@dataclass(frozen=True)
class ForeignModel:
    """A model that can be read. ``pairs`` and ``tensors`` fit ``config``: see ``foreign_model``."""

    model_type: str  # what its makers call it: llama, nanogpt
    config: ModelConfig
    dtype: torch.dtype  # of all parameters: that of the files, or float32 where those have several or others
    stop_ids: tuple[int, ...]  # the tokens that end a text
    pairs: Sequence[ParameterPair]
    tensors: Tensors

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Each parameter, maybe as a view."""
        for names, hf_name, is_transposed in self.pairs:
            tensor = self.tensors[hf_name]()
            parts = (tensor.t() if is_transposed else tensor).chunk(len(names))
            for name, part in zip(names, parts, strict=True):
                yield name, part.to(self.dtype)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters, in the same order."""
        shapes = parameter_shapes(self.config)
        return {name: shapes[name] for names, _, _ in self.pairs for name in names}

    def to_gpt(self) -> GPT:
        """The model in float32 and evaluation mode. What is float32 in the files stays memory-mapped."""
        with torch.device("meta"):
            model = GPT(self.config)
        weights = {name: tensor.float().contiguous() for name, tensor in self.parameters()}
        model.load_state_dict(weights, strict=False, assign=True)
        if self.config.tie_embeddings:
            model.lm_head.weight = model.token_embedding.weight
        return model.eval()


def foreign_model(
    model_type: str,
    config: ModelConfig,
    pairs: Sequence[ParameterPair],
    tensors: Tensors,
    *,
    stop_ids: Sequence[int] = (),
) -> ForeignModel:
    """Check that the tensors are those of the config.

    Raises:
        CheckpointError: one is missing, unknown, of another shape or not of floating-point numbers.
    """
    wanted = _shapes(config, pairs)
    if missing := [name for name in wanted if name not in tensors]:
        raise CheckpointError(f"The weights lack {listed(missing)}.", "Is a file of the model missing?")
    extra = [name for name in tensors if name not in wanted and not _BUFFERS.search(name)]
    if config.tie_embeddings and "lm_head.weight" in extra:
        _require_tied(pairs, tensors)
        extra.remove("lm_head.weight")
    if extra:
        raise CheckpointError(
            f"The weights have parts that are not known in a model of type {model_type}: {listed(extra)}.",
            SUPPORTED,
        )
    dtypes = set()
    for name, shape in wanted.items():
        tensor = tensors[name]()
        dtypes.add(tensor.dtype)
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{name} has the shape {list(tensor.shape)}; the sizes in the config ask for {list(shape)}."
            )
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{name} is of type {str(tensor.dtype).removeprefix('torch.')}: quantized weights cannot be "
                "imported.",
                "Take the model's files in float32, bfloat16 or float16.",
            )
    dtype = dtypes.pop() if len(dtypes) == 1 and dtypes <= STORED.keys() else torch.float32
    return ForeignModel(model_type, config, dtype, tuple(stop_ids), pairs, tensors)


def safetensors(files: Sequence[Path]) -> dict[str, Callable[[], Tensor]]:
    """The tensors of these files. Each is opened again for every tensor: else all that was read stays mapped.

    Raises:
        CheckpointError: a file is missing, truncated or not a safetensors file.
    """
    return {name: partial(_read, file, name) for file in files for name in _names(file)}


def _names(file: Path) -> list[str]:
    with reading(file, hint="Download or copy it again."), safe_open(file, "pt") as opened:
        return list(opened.keys())


def _read(file: Path, name: str) -> Tensor:
    with reading(file, hint="Download or copy it again."), safe_open(file, "pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    return tensor


def _shapes(config: ModelConfig, pairs: Sequence[ParameterPair]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of the other program."""
    own, shapes = parameter_shapes(config), {}
    for names, hf_name, is_transposed in pairs:
        rows = sum(own[name][0] for name in names)
        shape = (rows, *own[names[0]][1:])
        shapes[hf_name] = shape[::-1] if is_transposed else shape
    return shapes


def _require_tied(pairs: Sequence[ParameterPair], tensors: Tensors) -> None:
    embedding = next(pair.hf_name for pair in pairs if pair.names == ("token_embedding.weight",))
    if not torch.equal(tensors["lm_head.weight"](), tensors[embedding]()):
        raise CheckpointError(
            "lm_head is tied to the embedding, but the weights have a different lm_head.",
            "If the model has both, set tie_word_embeddings to false in its config.json.",
        )
