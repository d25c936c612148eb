"""Runs that start from another: what they keep, what they report, what they leave on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from typer.testing import CliRunner

from gptscratch import paths, sizing
from gptscratch.cli.app import app
from gptscratch.errors import CheckpointError, ConfigError, UserError
from gptscratch.generation.generator import load
from gptscratch.runs.metrics import read_metrics
from gptscratch.runs.summary import describe_run
from gptscratch.runs.tensors import load_shapes, load_tensors, save_tensors
from gptscratch.tokenizer import Tokenizer
from gptscratch.training.events import Event, Notice
from gptscratch.training.planning.plan_run import plan_run
from gptscratch.training.trainer import TrainResult, resume, train

Fit = Callable[..., TrainResult]
LORA: dict[str, Any] = {"lora_rank": 2, "lora_targets": ("q", "v"), "lora_dropout": 0.1, "dropout": 0.1}

SETTINGS: dict[str, Any] = {
    "steps": 12, "batch_size": 8, "micro_batch_size": 4, "log_interval": 3, "eval_interval": 4,
    "save_interval": 4, "sample_interval": 0, "device": "cpu", "dtype": "float32",
}  # fmt: skip


@pytest.fixture
def tune(tale: Path, tmp_path: Path) -> Fit:
    """Fine-tunes the run ``tale`` on another text of the same letters."""
    text = tmp_path / "other.txt"
    text.write_text("here sings my fox. far runs the cat.\n" * 120, encoding="utf-8")

    def run(**settings: Any) -> TrainResult:
        return train(text, **{"name": "tuned", "init_from": tale} | SETTINGS | settings)

    return run


def prepare_only(**settings: Any) -> dict[str, Any]:
    return vars(plan_run({"train.steps": 10, **settings}, init_from="tale")[0].config.train)


def test_the_losses_before_and_after_are_of_the_new_text_and_of_the_text_to_be_kept(
    tune: Fit, tale: Path, corpus: Path
) -> None:
    result = tune(keep_file=str(corpus), learning_rate=0.02)
    found = result.fine_tuned
    assert found is not None
    assert found.after is not None
    assert found.keep_before is not None
    assert found.keep_after is not None
    best = json.loads((tale / "best.json").read_text())
    assert found.keep_before.val_loss == pytest.approx(
        best["val_loss"], rel=1e-5
    )  # that run's own evaluation
    assert found.keep_after.val_loss > found.keep_before.val_loss
    assert found.after.val_loss < found.before.val_loss
    assert found.after.val_tokens == found.before.val_tokens
    assert result.evaluation == found.after
    first = read_metrics(result.run / "metrics.jsonl")[0]
    assert (first["step"], first["val_loss"]) == (0, found.before.val_loss)
    assert resume("tuned").fine_tuned == found


def test_a_text_to_be_kept_may_be_gone_at_the_end(tune: Fit, corpus: Path, tmp_path: Path) -> None:
    copy = shutil.copyfile(corpus, tmp_path / "kept.txt")
    events: list[Event] = []
    tune(keep_file=str(copy))
    copy.unlink()
    result = resume("tuned", steps=14, on_event=events.append)
    assert result.fine_tuned is not None
    assert result.fine_tuned.keep_after is None
    assert any(isinstance(event, Notice) and "kept.txt" in event.text for event in events)


def test_the_plan_takes_lower_rates_and_a_longer_warm_up(tune: Fit, corpus: Path) -> None:
    del tune  # makes the run that is named
    tuned = prepare_only(corpus=(str(corpus),))
    settings = {"train.steps": 10, "corpus": (str(corpus),), "tokenizer": "char", "n_layer": 1, "d_model": 32}
    new = vars(plan_run(settings)[0].config.train)
    assert tuned["learning_rate"] == pytest.approx(0.3 * new["learning_rate"])
    assert tuned["adamw_learning_rate"] == pytest.approx(0.3 * new["adamw_learning_rate"])
    assert tuned["warmup_steps"] > new["warmup_steps"]
    adapters = prepare_only(corpus=(str(corpus),), lora_rank=4)
    assert (adapters["optimizer"], adapters["lora_alpha"]) == ("adamw", 8.0)
    muon = prepare_only(corpus=(str(corpus),), lora_rank=4, optimizer="muon")
    assert muon["learning_rate"] == tuned["learning_rate"]
    assert adapters["lora_targets"] == ("q", "k", "v", "out", "up", "gate", "down")


@pytest.mark.parametrize("position", ["rope", "learned"])
def test_a_shorter_context_keeps_the_weights(fit: Fit, position: str) -> None:
    fit(name="base", steps=2, position=position)
    result = fit(name="short", init_from="base", tokenizer=None, steps=1, context_length=8, learning_rate=0.0,
                 adamw_learning_rate=0.0, lora_rank=2)  # fmt: skip
    ids = torch.arange(16).view(2, 8) % 20
    assert_close(load("short").model(ids), load("base").model(ids), atol=1e-5, rtol=0)
    assert result.evaluation is not None


def test_a_long_context_is_shortened_for_fine_tuning_with_a_notice(
    random_run: Callable[..., Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("here sings my fox. far runs the cat.\n" * 900, encoding="utf-8")
    for position in ("rope", "learned"):
        random_run(Tokenizer.of_bytes(), context_length=4096, position=position)
        settings = {"corpus": (str(text),), "steps": 1}
        plan, _ = plan_run(settings, init_from="random")
        assert plan.config.model.context_length == 1024
        (notice,) = (text for text in plan.notices if "--context-length" in text)
        assert "that of random is 4,096" in notice
        plan, _ = plan_run(settings | {"context_length": 2048}, init_from="random")
        assert plan.config.model.context_length == 2048
        assert not any("--context-length" in text for text in plan.notices)


def test_a_longer_context_is_refused_for_learned_positions_and_possible_for_others(fit: Fit) -> None:
    fit(name="base", steps=2, position="learned")
    fit(name="rotary", steps=2)
    with pytest.raises(ConfigError, match="learned positions for 16"):
        fit(name="long", init_from="base", tokenizer=None, context_length=32)
    assert not paths.run_dir("long").exists()
    fit(name="long", init_from="rotary", tokenizer=None, context_length=32, steps=2)
    assert load("long").model.config.context_length == 32


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data.vocab_size": 100}, "keeps its own tokenizer"),
        ({"lora_rank": 40}, "d_model, 32"),
        ({"lora_alpha": 3.0}, "no effect without"),
        ({"lora_rank": 2, "lora_targets": ("head",)}, "must be one of q, k, v"),
        (
            {"init_from": None, "lora_rank": 2},
            "--lora-rank is for a model that is trained",
        ),
        (
            {"init_from": None, "keep_file": "x"},
            "--keep-file is for a model that is trained",
        ),
        ({"keep_file": "missing.txt"}, "missing.txt"),
    ],
)
def test_an_error_leaves_nothing(tune: Fit, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tune(**settings)
    assert not paths.run_dir("tuned").exists()


def test_checkpoints_hold_the_adapters_alone_and_the_run_holds_its_base(tune: Fit, tale: Path) -> None:
    result = tune(**LORA)
    folder = paths.checkpoint_dir(result.run, 12)
    assert not (folder / "model.safetensors").exists()
    shapes = load_shapes(folder / "adapter.safetensors")
    names = {f"blocks.0.attention.{layer}.{part}.weight" for layer in "qv" for part in ("lora_a", "lora_b")}
    assert shapes.keys() == names
    source = paths.find_checkpoint(tale)[1] / "model.safetensors"
    base = load_tensors(result.run / "base.safetensors")
    assert all(torch.equal(tensor, base[name]) for name, tensor in load_tensors(source).items())
    before = load("tuned").generate("the", max_tokens=20, seed=1)
    shutil.rmtree(tale)
    moved = shutil.copytree(result.run, result.run.parent.parent / "moved")
    assert load(moved).generate("the", max_tokens=20, seed=1) == before


def test_info_of_a_run_with_adapters_has_the_memory_of_its_own_training(tune: Fit) -> None:
    run = tune(**LORA, r_drop=1.0, micro_batch_size=2).run
    described = describe_run(run).model
    expected = sizing.memory_to_train(
        load(run).model.config, micro_batch_size=2 * 2, optimizer="adamw", trained=2 * 2 * (32 + 32)
    )
    assert (described.micro_batch_size, described.training_memory_bytes) == (2, expected.total)
    shown = CliRunner().invoke(app, ["info", str(run)]).stdout
    assert "LoRA of rank 2 for q, v: 256 parameters are trained" in " ".join(shown.split())


def test_a_resumed_run_with_adapters_equals_the_straight_run(tune: Fit) -> None:
    straight = tune(name="straight", **LORA).run
    tune(name="stopped", **LORA)
    stopped = paths.run_dir("stopped")
    shutil.rmtree(paths.checkpoint_dir(stopped, 12))
    resume(paths.checkpoint_dir(stopped, 8))
    for name in ("adapter.safetensors", "optimizer.safetensors"):
        first, second = (paths.checkpoint_dir(run, 12) / name for run in (straight, stopped))
        assert first.read_bytes() == second.read_bytes()


def test_a_run_can_start_from_a_run_with_adapters(tune: Fit) -> None:
    tune(**LORA)
    tune(name="second", init_from="tuned", steps=1, learning_rate=0.0, adamw_learning_rate=0.0)
    tune(name="third", init_from="tuned", steps=1, learning_rate=0.0, **LORA)
    ids = torch.arange(16).view(1, 16) % 20
    for name in ("second", "third"):
        assert_close(load(name).model(ids), load("tuned").model(ids), atol=1e-5, rtol=0)


def test_another_base_and_another_adapter_are_refused(tune: Fit, tale: Path) -> None:
    result = tune(**LORA)
    adapter = paths.checkpoint_dir(result.run, 12) / "adapter.safetensors"
    good = adapter.read_bytes()
    save_tensors(adapter, load_tensors(adapter), base="another")
    with pytest.raises(CheckpointError, match="belongs to another base"):
        load("tuned")
    adapter.write_bytes(good)
    base = result.run / "base.safetensors"
    tensors = {name: 2.0 * tensor for name, tensor in load_tensors(base).items()}
    base.unlink()  # the file has a second name in the run that it is from
    save_tensors(base, tensors)
    with pytest.raises(CheckpointError, match="damaged, or from another run"):
        load("tuned")
    base.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load("tuned")
    assert load(tale)


def test_weights_that_are_not_finite_are_refused_before_the_first_step(tune: Fit, tale: Path) -> None:
    for file in tale.glob("checkpoints/*/model.safetensors"):
        tensors = load_tensors(file)
        tensors["lm_head.weight"][3, 1] = torch.nan
        save_tensors(file, tensors)
    with pytest.raises(CheckpointError, match="not a finite number"):
        tune()
    assert not paths.run_dir("tuned").exists()
