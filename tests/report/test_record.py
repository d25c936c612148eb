"""What a report reads from the folder of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptscratch.report.metrics_file import MetricsFile
from gptscratch.report.record import read_report, thinned
from gptscratch.runs.metrics import append_metrics, read_metrics, rewind_metrics
from gptscratch.training.trainer import TrainResult, resume, train

Fit = Callable[..., TrainResult]


def test_the_curves_are_the_lines_of_the_metrics(tale: Path) -> None:
    report = read_report(tale)
    records = read_metrics(tale / "metrics.jsonl")
    trained = [r for r in records if "train_loss" in r]
    assert list(report.training["train_loss"]) == [r["train_loss"] for r in trained]
    assert list(report.training["step"]) == [3, 6, 9, 12, 15, 18, 21, 24]
    assert list(report.validation["step"]) == [8, 16, 24]
    assert report.validation["tokens"][-1] == trained[-1]["tokens"]
    assert report.finished
    assert report.step == 24


def test_the_evaluation_at_the_end_is_not_a_part_of_the_curve(fit: Fit) -> None:
    run = fit(name="a", eval_tokens=64, final_eval_tokens=400).run
    losses = [r["val_loss"] for r in read_metrics(run / "metrics.jsonl") if "val_loss" in r]
    report = read_report(run)
    assert list(report.validation["val_loss"]) == losses[:-1]
    assert report.final is not None
    assert report.final["val_loss"] == losses[-1]


def test_the_plan_is_compared_with_the_result(tale: Path) -> None:
    planned = {name: (plan, result) for name, plan, result in read_report(tale).planned}
    assert planned["steps"] == (24, 24)
    assert planned["tokens"][0] == planned["tokens"][1] == 24 * 8 * 16
    assert planned["epochs"][0] == pytest.approx(planned["epochs"][1])
    assert planned["memory_bytes"][1] is not None
    assert planned["memory_bytes"][1] > 10**8  # of a Python process with torch


def test_a_run_without_checkpoint_samples_plan_or_token_files_has_a_report(tale: Path) -> None:
    config = json.loads((tale / "config.json").read_text())
    shutil.rmtree(config["tokens"])
    for name in ("plan.json", "best.json", "last.json", "metrics.jsonl"):
        (tale / name).unlink()
    shutil.rmtree(tale / "checkpoints")
    report = read_report(tale)
    assert report.manifest is None
    assert list(report.planned) == []
    assert not report.finished
    assert list(report.training["step"]) == []


def test_damaged_lines_are_left_out(tale: Path) -> None:
    whole = read_report(tale)
    with (tale / "metrics.jsonl").open("a") as file:
        file.write('{"step": 25, "train_loss": "NaN"}\n{"step": 26, "train_loss": NaN}\n{"step": 27, "tr')
    append_metrics(tale / "samples.jsonl", {"step": 3, "text": 5})
    report = read_report(tale)
    assert report.training == whole.training
    assert report.samples == []


def test_a_long_curve_is_thinned_and_keeps_its_spikes_and_ends() -> None:
    losses = [5.0 - step / 10_000 for step in range(10_000)]
    losses[7777] = 9.0
    curve = thinned({"step": list(range(10_000)), "train_loss": losses}, most=100)
    assert len(curve["step"]) <= 102
    assert curve["train_loss"][list(curve["step"]).index(7777)] == 9.0
    assert (curve["step"][0], curve["step"][-1]) == (0, 9999)


def test_the_command_trains_a_run_with_the_same_settings(
    fit: Fit, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex
    import sys

    from gptscratch.cli.app import main

    settings: dict[str, Any] = {
        "n_kv_head": 1, "dropout": 0.1, "bias": True, "position": "learned", "clean": ("dedup",),
        "beta2": 0.9,
        "tie_embeddings": True, "steps": 8, "lr_schedule": "cosine", "patience": 9, "tokenizer": "bpe",
        "data.vocab_size": 300,
    }  # fmt: skip
    report = read_report(fit(name="first", **settings).run)
    words = shlex.split(report.command)
    assert words[:3] == ["gptscratch", "train", str(corpus)]
    monkeypatch.setattr(sys, "argv", [*words, "--dry-run", "--json"])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    again = json.loads(capsys.readouterr().out)["config"]
    first = json.loads(json.dumps(report.described.config))
    assert all(again[section] == first[section] for section in ("model", "data", "train"))


def test_the_command_names_the_run_that_the_weights_came_from(tale: Path, corpus: Path) -> None:
    run = train(corpus, name="second", init_from=tale, steps=4, device="cpu", dtype="float32").run
    assert f"--init-from {tale}" in read_report(run).command
    assert "--d-model" not in read_report(run).command
    resume(run, steps=6)
    assert f"--init-from {tale}" in read_report(run).command


def test_the_command_of_a_fine_tuned_run_is_accepted(
    tale: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex
    import sys

    from gptscratch.cli.app import main

    settings: dict[str, Any] = {"context_length": 8, "dropout": 0.1}
    run = train(corpus, name="shorter", init_from=tale, steps=4, device="cpu", **settings).run
    words = shlex.split(read_report(run).command)
    monkeypatch.setattr(sys, "argv", [*words, "--dry-run", "--json"])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    model = json.loads(capsys.readouterr().out)["config"]["model"]
    assert (model["context_length"], model["dropout"]) == (8, 0.1)


def test_a_growing_file_is_read_from_where_the_last_reading_ended(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(file)
    assert list(metrics.read()[0]["step"]) == []
    append_metrics(file, {"step": 1, "train_loss": 3.0})
    with file.open("a") as lines:
        lines.write('{"step": 2, "train')
    assert list(metrics.read()[0]["step"]) == [1]
    with file.open("r+") as lines:
        lines.write("X")  # what was read before is not read again
        lines.seek(0, 2)
        lines.write('_loss": 2.5}\n{"step": 2, "val_loss": 2.6}\n')
    training, validation = metrics.read()
    assert list(training["train_loss"]) == [3.0, 2.5]
    assert list(validation["val_loss"]) == [2.6]


def test_a_file_that_a_resumed_run_wrote_again_is_read_from_its_start(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        append_metrics(file, {"step": step, "train_loss": 4.0 - step})
    metrics = MetricsFile(file)
    assert list(metrics.read()[0]["step"]) == [1, 2, 3]
    rewind_metrics(file, 1)
    for step in (2, 3, 4):
        append_metrics(file, {"step": step, "train_loss": 5.0 - step})
    assert list(metrics.read()[0]["train_loss"]) == [3.0, 3.0, 2.0, 1.0]
