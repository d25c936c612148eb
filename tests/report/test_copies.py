"""How much a model repeats of its training text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from gptscratch.report.copies import Copies, measure_copies
from gptscratch.training.trainer import train


def test_the_marked_span_is_in_the_training_text(tale: Path, corpus: Path) -> None:
    copies = measure_copies(tale)
    assert isinstance(copies, Copies)
    assert len(copies.texts) == 3
    for text, span in copies.texts:
        assert text[span.start : span.end] == span.text
        assert span.text in corpus.read_text()
    assert copies.natural is not None
    assert 0 < copies.natural <= 200


def test_without_token_files_the_reason_is_given(tale: Path) -> None:
    shutil.rmtree(json.loads((tale / "config.json").read_text())["tokens"])
    assert measure_copies(tale) == "The token files of this run are gone."


def test_passages_of_the_validation_text_that_are_in_the_training_text_are_counted(
    tmp_path: Path,
) -> None:
    numbers = " ".join(str(number**2) for number in range(3000))
    (tmp_path / "val.txt").write_text(numbers[:4000])
    (tmp_path / "train.txt").write_text(numbers[3000:])  # the last quarter of the validation text is there
    run = train(
        tmp_path / "train.txt", val_file=str(tmp_path / "val.txt"), tokenizer="char", steps=1,
        n_layer=1, d_model=8, n_head=1, context_length=8, batch_size=1, device="cpu", dtype="float32",
    ).run  # fmt: skip
    copies = measure_copies(run)
    assert isinstance(copies, Copies)
    assert 0.2 < copies.leaked < 0.4
