"""The promise: a run that was stopped, however and whenever, and resumed is the run that was not."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from gptscratch import paths
from gptscratch.data.batches import Batches
from gptscratch.model.gpt import GPT
from gptscratch.runs.metrics import read_metrics
from gptscratch.runs.tensors import load_tensors
from gptscratch.training import callbacks, loop
from gptscratch.training.context import TrainContext
from gptscratch.training.events import Event, Saved
from gptscratch.training.trainer import TrainResult, resume

Fit = Callable[..., TrainResult]
Stopping = Callable[..., AbstractContextManager[None]]
HARD = {
    "dropout": 0.2,
    "r_drop": 0.5,
    "keep_checkpoints": 3,
    "eval_tokens": 64,
}  # randomness in each step, two micro-batches, a part scored
TIMES = ("seconds", "tokens_per_second")


def measured(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in TIMES} for r in read_metrics(run / "metrics.jsonl")]


def state_of(run: Path) -> dict[str, Any]:
    folder = paths.find_checkpoint(run, which="last")[1]
    values = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return {k: v for k, v in values.items() if "seconds" not in k}


def assert_same_run(found: Path, wanted: Path) -> None:
    checkpoints, straight = dict(paths.checkpoints(found)), dict(paths.checkpoints(wanted))
    assert max(checkpoints) == max(straight)
    for step in checkpoints.keys() & straight.keys():  # a stop makes one of its own, which then is kept, too
        actual, theirs = checkpoints[step], straight[step]
        for file in ("model.safetensors", "optimizer.safetensors"):
            own, their = load_tensors(actual / file), load_tensors(theirs / file)
            assert own.keys() == their.keys()
            for name, tensor in own.items():
                assert torch.equal(tensor, their[name]), name
    assert measured(found) == measured(wanted)
    assert state_of(found) == state_of(wanted)
    assert (found / "best.json").read_text() == (wanted / "best.json").read_text()
    ends = [json.loads((run / "last.json").read_text()) for run in (found, wanted)]
    assert [end.pop("peak_memory_bytes") > 0 for end in ends] == [True, True]
    assert ends[0] == ends[1]
    assert not list((found / "checkpoints").glob(".*"))


@pytest.mark.parametrize("step", [1, 4, 7, 8, 15, 16, 17, 23])
def test_resumed_run_equals_straight_run(fit: Fit, stopping: Stopping, step: int) -> None:
    straight = fit(name="straight", **HARD).run
    with stopping(step):
        stopped = fit(name="stopped", **HARD)
    assert stopped.interrupted
    assert stopped.step == step
    assert stopped.evaluation is None
    resumed = resume("stopped")
    assert not resumed.interrupted
    assert_same_run(stopped.run, straight)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": None, "epochs": 0.6},
        {"steps": None, "tokens": 3000, "optimizer": "adamw"},
        {"dtype": "bfloat16", "n_kv_head": 1, "tie_embeddings": True},
        {"tokenizer": "word"},
    ],
    ids=lambda settings: list(settings)[-1],
)
def test_resumed_run_of_another_kind_equals_straight_run(
    fit: Fit, stopping: Stopping, settings: dict[str, Any]
) -> None:
    straight = fit(name="straight", **HARD, **settings).run
    with stopping(7):
        assert fit(name="stopped", **HARD, **settings).interrupted
    assert_same_run(resume("stopped").run, straight)


def test_a_run_stopped_again_and_again_equals_straight_run(fit: Fit, stopping: Stopping) -> None:
    straight = fit(name="straight", **HARD).run
    with stopping(2, 5, 8, 9, 20):
        stops = [fit(name="stopped", **HARD).step]
        while (result := resume("stopped")).interrupted:
            stops.append(result.step)
    assert stops == [2, 5, 8, 9, 20]
    assert_same_run(result.run, straight)


def test_a_resumed_run_keeps_the_same_samples(fit: Fit, stopping: Stopping) -> None:
    def first_weight(model: GPT, _: Path) -> str:
        return repr(float(model.token_embedding.weight[0, 0].detach()))

    sampled: dict[str, Any] = {"sample_text": first_weight, "sample_interval": 4}
    straight = fit(name="straight", **HARD, **sampled).run
    with stopping(8):
        fit(name="stopped", **HARD, **sampled)
    resumed = resume(paths.checkpoint_dir(paths.run_dir("stopped"), 4), sample_text=first_weight).run
    samples = [read_metrics(run / "samples.jsonl") for run in (straight, resumed)]
    assert [record["step"] for record in samples[0]] == [4, 8, 12, 16, 20, 24]
    assert samples[0] == samples[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_last_step_changes_nothing(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def hook(context: TrainContext) -> None:
        if context.finished:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    monkeypatch.setattr(loop, "CALLBACKS", (hook, *callbacks.CALLBACKS))
    assert not fit(name="a").interrupted
    assert signal.getsignal(number) is before


@pytest.fixture
def in_the_foreground() -> Iterator[None]:
    """A shell's background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_terminal_that_is_closed_saves_and_stops_the_run(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(context: TrainContext) -> None:
        if context.state.step == 7:
            signal.raise_signal(signal.SIGHUP)

    def listen(event: Event) -> None:
        if isinstance(event, Saved) and event.step == 7:
            raise OSError(errno.EIO, "Input/output error")  # what writing to a closed terminal gives

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        monkeypatch.setattr(loop, "CALLBACKS", (hook, *callbacks.CALLBACKS))
        stopped = fit(name="a", on_event=listen)
        assert (stopped.interrupted, stopped.step) == (True, 7)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        assert not resume("a").interrupted
        assert fit(name="b").step == 24
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("in_the_foreground")
def test_a_second_interrupt_leaves_at_once(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(context: TrainContext) -> None:
        if context.state.step == 6:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "CALLBACKS", (hook, *callbacks.CALLBACKS))
        with pytest.raises(KeyboardInterrupt):
            fit(name="a", **HARD)
    assert resume("a").step == 24
    assert_same_run(paths.run_dir("a"), fit(name="straight", **HARD).run)


@pytest.mark.parametrize("at", [10, 24])
def test_a_run_that_died_between_an_evaluation_and_its_save_makes_both_again(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    def die(context: TrainContext) -> None:
        if context.state.step == at:
            raise KeyboardInterrupt

    settings = HARD | {"eval_interval": 10}  # the last step is not a multiple of it
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CALLBACKS", (callbacks.log, callbacks.evaluate, die, callbacks.save))
        with pytest.raises(KeyboardInterrupt):
            fit(name="a", **settings)
    assert resume("a").step == 24
    assert_same_run(paths.run_dir("a"), fit(name="straight", **settings).run)


def test_a_run_can_go_back_to_an_older_checkpoint(fit: Fit) -> None:
    straight = fit(name="straight", **HARD).run
    other = fit(name="other", **HARD).run
    older = paths.checkpoint_dir(other, 16)
    assert older.is_dir()
    (paths.checkpoint_dir(other, 24) / "model.safetensors").write_bytes(b"damaged")
    (paths.checkpoint_dir(other, 20) / "model.safetensors").write_bytes(b"damaged")
    resume(older)
    assert_same_run(other, straight)


def test_a_resumed_run_of_an_older_format_keeps_the_order_of_its_batches(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Batches.__init__, "__kwdefaults__", {"pad_with": None, "order_in_memory": 0})
    run = fit(steps=4, save_interval=2, keep_checkpoints=3).run
    straight = measured(run)
    for number in (3, 2):
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | {"format": number}))
        resume(paths.checkpoint_dir(run, 2))
        assert (measured(run) == straight) is (number == 3)
        assert json.loads((run / "config.json").read_text())["format"] == number
