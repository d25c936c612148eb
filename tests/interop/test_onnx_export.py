"""ONNX files in onnxruntime: ``pip install onnxruntime onnxscript``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gptscratch.errors import MissingExtraError
from gptscratch.generation.generator import load
from gptscratch.interop import onnx_export
from gptscratch.interop.export import export

from .conftest import made


def test_logits_of_every_length_are_those_of_onnxruntime(
    random_run: Callable[..., Path], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = random_run(made("byte"), context_length=32, n_kv_head=2, position="alibi")
    folder = export(run, tmp_path / "onnx", format="onnx").folder
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
    model = load(run, device="cpu").model
    for batch, length in ((1, 1), (1, 2), (3, 32)):
        token_ids = torch.randint(257, (batch, length))
        (found,) = session.run(None, {"input_ids": token_ids.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.tensor(found), model(token_ids), rtol=0, atol=1e-4)


def test_a_missing_package_is_named(
    random_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="pip install onnxscript"):
        export(random_run(made("byte")), tmp_path / "onnx", format="onnx")
