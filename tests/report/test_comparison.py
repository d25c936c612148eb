"""What differs between runs, and ``gptscratch compare``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gptscratch.cli.app import main
from gptscratch.report.comparison import compare, comparison_of
from gptscratch.runs.run import read_run
from gptscratch.runs.summary import RunDescription, describe_run
from gptscratch.training.trainer import TrainResult, train

Fit = Callable[..., TrainResult]


def test_only_the_settings_that_differ_are_listed(tale: Path, fit: Fit) -> None:
    given = {"n_layer": 2, "learning_rate": 0.01, "weight_decay": read_run(tale).config.train.weight_decay}
    other = fit(name="other", **given).run
    found = compare([tale, other])
    assert found.runs == ("tale", "other")
    assert found.settings == {"model.n_layer": (1, 2), "train.learning_rate": (0.03, 0.01)}
    assert found.results["parameters"][0] < found.results["parameters"][1]
    assert found.notes == ()


def test_the_best_result_is_the_lowest_loss_and_the_highest_accuracy(tale: Path) -> None:
    def run(loss: float | None, accuracy: float) -> RunDescription:
        described = describe_run(tale)
        return replace(
            described, val_accuracy=accuracy, summary=replace(described.summary, best_val_loss=loss)
        )

    found = comparison_of([run(2.0, 0.2), run(None, 0.4), run(1.0, 0.3), run(1.0, 0.1)])
    assert found.best["val_loss"] == {2, 3}
    assert found.best["val_accuracy"] == {1}
    assert comparison_of([run(1.0, 0.2), run(1.0, 0.2)]).best["val_loss"] == set()
    assert "parameters" not in found.best


def test_another_tokenizer_is_noted(tale: Path, fit: Fit) -> None:
    found = compare([tale, fit(name="bytes", tokenizer="byte").run])
    (note,) = found.notes
    assert "bits per byte" in note
    assert "val_loss" not in found.best
    assert len(found.best["val_bits_per_byte"]) == 1


def test_two_tokenizers_of_one_kind_and_size_are_distinguished(fit: Fit) -> None:
    bpe = {"tokenizer": "bpe", "data.vocab_size": 270}
    plain, lower = fit(name="plain", **bpe), fit(name="lower", lowercase=True, **bpe)
    (note,) = compare([plain.run, lower.run]).notes
    assert "lose spaces or case" in note
    assert "val_bits_per_byte" not in compare([plain.run, lower.run]).best
    assert compare([plain.run, fit(name="again", **bpe).run]).notes == ()


def test_a_fine_tuned_run_has_the_tokenizer_of_the_first(tale: Path, corpus: Path) -> None:
    tuned = train(corpus, name="tuned", init_from=tale, steps=4, device="cpu", dtype="float32").run
    assert compare([tale, tuned]).notes == ()


def test_another_validation_text_is_noted(tale: Path, fit: Fit) -> None:
    found = compare([tale, fit(name="more", val_fraction=0.3).run])
    (note,) = found.notes
    assert "not comparable" in note
    assert "val_bits_per_byte" not in found.best


def test_the_same_validation_file_of_two_corpora_is_recognized(corpus: Path, tmp_path: Path) -> None:
    lines = corpus.read_text(encoding="utf-8").splitlines(keepends=True)
    texts = [tmp_path / name for name in ("val.txt", "less.txt", "more.txt", "other.txt")]
    for file, some in zip(texts, (lines[:40], lines[40:200], lines[40:], lines[20:60]), strict=True):
        file.write_text("".join(some), encoding="utf-8")
    val, less, more, other = map(str, texts)

    def run(name: str, corpus: str, val_file: str) -> Path:
        settings = {"n_layer": 1, "n_head": 2, "d_model": 32, "context_length": 16, "steps": 4}
        return train(corpus, name=name, val_file=val_file, tokenizer="byte", device="cpu", **settings).run

    first, second = run("first", less, val), run("second", more, val)
    assert compare([first, second]).notes == ()
    (note,) = compare([first, run("third", less, other)]).notes
    assert note.startswith("The runs have different validation texts")
    config = json.loads((second / "config.json").read_text())
    del config["val_hash"]  # as written by an older version
    (second / "config.json").write_text(json.dumps(config))
    (note,) = compare([first, second]).notes
    assert note.startswith("The runs may have different validation texts")


@pytest.mark.usefixtures("tale")
def test_compare_prints_a_table_or_json(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(name="other", dropout=0.1)
    monkeypatch.setattr(sys, "argv", ["gptscratch", "compare", "tale", "other"])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr().out
    assert "model.dropout" in printed
    assert "n_layer" not in printed
    monkeypatch.setattr(sys, "argv", ["gptscratch", "compare", "tale", "other", "--json"])
    with pytest.raises(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out)["settings"] == {"model.dropout": [0.0, 0.1]}


def test_one_run_cannot_be_compared(tale: Path) -> None:
    with pytest.raises(Exception, match="two or more"):
        compare([tale])
