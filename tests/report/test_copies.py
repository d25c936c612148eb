"""How much a model repeats of its training text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from gptscratch.report.copies import Copies, measure_copies


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
