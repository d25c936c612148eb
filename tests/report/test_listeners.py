"""Loggers for other programs, tested by reading their files back, and the page of ``train --report``."""

from __future__ import annotations

import builtins
import json
import re
import struct
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gptscratch.errors import ConfigError, MissingExtraError
from gptscratch.report import listeners, live
from gptscratch.report.listeners import listening
from gptscratch.runs.metrics import read_metrics
from gptscratch.training.events import Event, Notice, Started
from gptscratch.training.trainer import TrainResult, resume

Fit = Callable[..., TrainResult]


def ignore(event: Event) -> None:
    del event


def constant(*_: object) -> str:
    return "the *fox*\n<b>"


def test_tensorboard_files_hold_the_metrics_and_the_samples(fit: Fit) -> None:
    pytest.importorskip("tensorboard")
    with listening(ignore, log_to=["tensorboard"]) as on_event:
        run = fit(name="a", on_event=on_event, sample_text=constant, sample_interval=8).run
    found = read_events(run)
    assert "the *fox*" in found.Tensors("sample/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "n_layer: 1" in found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    *records, final = read_metrics(run / "metrics.jsonl")
    assert found.Scalars("final/loss")[0].value == pytest.approx(final["val_loss"])
    for record in records:
        part, name = ("validation", "val_loss") if "val_loss" in record else ("training", "train_loss")
        values = {each.step: each.value for each in found.Scalars(f"{part}/loss")}
        assert values[record["step"]] == pytest.approx(record[name])


def read_events(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run / "tensorboard"), {"tensors": 0, "scalars": 0}).Reload()


def test_a_resumed_run_continues_its_tensorboard_log_without_repeats(fit: Fit) -> None:
    pytest.importorskip("tensorboard")
    with listening(ignore, log_to=["tensorboard"]) as on_event:
        run = fit(name="a", on_event=on_event).run
    older = run / "checkpoints" / "step-00000020"
    with listening(ignore, log_to=["tensorboard"]) as on_event:
        resume(older, on_event=on_event)
    steps = [each.step for each in read_events(run).Scalars("training/loss")]
    assert steps == [3, 6, 9, 12, 15, 18, 21, 24]


def test_wandb_files_hold_the_metrics_and_nothing_about_the_machine(fit: Fit) -> None:
    pytest.importorskip("wandb")
    with listening(ignore, log_to=["wandb"]) as on_event:
        run = fit(name="a", on_event=on_event, sample_text=constant, sample_interval=8).run
    with listening(ignore, log_to=["wandb"]) as on_event:
        resume(run, on_event=on_event, steps=30)
    first, second = sorted((run / "wandb").glob("offline-run-*-*"))
    assert first.name.rpartition("-")[2] == second.name.rpartition("-")[2]
    records = list(read_wandb(first))
    history = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    logged = {each["step"]: each["training/loss"] for each in history if "training/loss" in each}
    expected = {r["step"]: r["train_loss"] for r in read_metrics(run / "metrics.jsonl") if "train_loss" in r}
    assert logged == pytest.approx({step: loss for step, loss in expected.items() if step <= 24})
    assert not any(record.HasField("stats") for record in records)
    assert not (first / "files" / "wandb-metadata.json").exists()


def read_wandb(folder: Path) -> Iterator[Any]:
    """The records of a .wandb file: a log of LevelDB, in blocks of 32 KiB, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("*.wandb")
    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the end of a block is empty
            at += 32768 - at % 32768
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def test_the_page_is_served_while_the_run_trains_and_not_after(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("plotly")
    monkeypatch.setattr(live, "_GRACE", 0.1)
    urls, pages = [], []

    def first(event: Event) -> None:
        if isinstance(event, Notice) and (found := re.search(r"http://\S+", event.text)):
            urls.append(found[0])
            with urllib.request.urlopen(urls[0], timeout=10) as answer:
                pages.append(answer.read())

    with listening(first, page=True) as on_event:
        fit(name="a", on_event=on_event)
    assert b"<h1>a</h1>" in pages[0]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(urls[0], timeout=10)


def test_a_listener_that_fails_is_reported_once_and_the_run_continues(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __call__(self, event: Event) -> None:
            if not isinstance(event, Started):
                raise OSError("no space left")

        def close(self) -> None:
            raise AssertionError("it was left out")

    monkeypatch.setattr(listeners, "LOGGERS", {"full": Full})
    seen: list[Event] = []
    with listening(seen.append, log_to=["full"]) as on_event:
        assert fit(name="a", on_event=on_event).step == 24
    notices = [event.text for event in seen if isinstance(event, Notice) and "Full" in event.text]
    assert notices == ["Full ended with an error, training continues: no space left"]


def test_an_unknown_logger_is_an_error_before_anything_happens() -> None:
    with (
        pytest.raises(ConfigError, match="must be one of tensorboard, wandb"),
        listening(ignore, log_to=["x"]),
    ):
        pass


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "plotly"])
def test_a_missing_package_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gptscratch.report.page import plotly_script

    plotly_script.cache_clear()
    real = builtins.__import__

    def without(module: str, *arguments: Any, **named: Any) -> Any:
        if name in module.split("."):
            raise ImportError(module)
        return real(module, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    logger = [] if name == "plotly" else [name]
    with (
        pytest.raises(MissingExtraError, match=name),
        listening(ignore, log_to=logger, page=name == "plotly"),
    ):
        pass


@pytest.mark.parametrize("option", ["--quiet", "--json", "--dry-run"])
def test_the_address_of_the_page_cannot_be_hidden(
    option: str, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gptscratch.cli.app import main

    monkeypatch.setattr(sys, "argv", ["gptscratch", "train", str(corpus), "--report", option])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert option in capsys.readouterr().err
