"""Models to ONNX: ``input_ids`` (batch, length) -> ``logits`` (batch, length, vocabulary), without a cache.

Every option of a model can be exported, since the graph is recorded from its forward pass.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from gptscratch.errors import MissingExtraError
from gptscratch.interop.source import Source
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import padded_layout

DTYPES = ("float32",)


def architecture(source: Source) -> str:
    """Raises MissingExtraError where the package is missing by which torch writes the format."""
    del source
    if find_spec("onnxscript") is None:
        raise MissingExtraError("onnxscript", "onnx")
    return "ONNX graph"


def write(source: Source, folder: Path, dtype: str) -> None:
    """model.onnx and tokenizer.json.

    Raises:
        OSError: the disk is full or cannot be written to.
    """
    del dtype
    length = source.config.context_length
    example = torch.zeros(2, max(2, length - 1), dtype=torch.long)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=length)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about packages that are not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Logits(source.model), (example,), dynamo=True, verbose=False, dynamic_shapes=(sizes,),
            input_names=["input_ids"], output_names=["logits"],
        )  # fmt: skip
    assert program is not None
    program.save(folder / "model.onnx")
    shutil.copyfile(source.run / "tokenizer.json", folder / "tokenizer.json")


class _Logits(nn.Module):
    """The model with a mask, for one that follows from the length of the input cannot be recorded."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        is_token = torch.ones_like(input_ids, dtype=torch.bool)
        logits: Tensor = self.model(input_ids, layout=padded_layout(is_token))
        return logits
