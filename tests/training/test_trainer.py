"""Whole runs on a tiny corpus: what they leave on disk, how they end, how they are extended."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gptscratch
from gptscratch import paths
from gptscratch.data.token_files import read_manifest
from gptscratch.errors import CheckpointError, ConfigError, RunError, UserError
from gptscratch.generation.generator import load, sample_text
from gptscratch.runs import tensors as storage
from gptscratch.runs.metrics import read_metrics
from gptscratch.runs.run import read_run
from gptscratch.runs.tensors import load_tensors
from gptscratch.training.events import (
    Evaluated,
    Event,
    Logged,
    Notice,
    Planned,
    Sampled,
    Saved,
    Started,
    Working,
)
from gptscratch.training.planning.plan_run import plan_run
from gptscratch.training.trainer import TrainResult, resume, train

Fit = Callable[..., TrainResult]
GOLDEN = Path(__file__).parent.parent / "golden" / "losses.json"


def steps_of(run: Path) -> list[int]:
    return [step for step, _ in paths.checkpoints(run)]


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def test_a_run_learns_and_says_how_it_ended(fit: Fit) -> None:
    events: list[Event] = []
    result = fit(name="a", on_event=events.append)
    assert (result.step, result.tokens, result.interrupted) == (24, 24 * 8 * 16, False)
    losses = [e.train_loss for e in events if isinstance(e, Logged)]
    assert losses[-1] < 0.7 * losses[0]
    assert result.evaluation is not None
    assert result.evaluation.val_loss < losses[0]
    assert isinstance(next(e for e in events if not isinstance(e, Working | Planned | Notice)), Started)
    assert [e.step for e in events if isinstance(e, Saved)] == [4, 8, 12, 16, 20, 24]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_losses_are_the_golden_ones(fit: Fit, optimizer: str) -> None:
    """A change of the mathematics shows here. If it was meant: delete the file's entry, and run twice."""
    events: list[Event] = []
    given = {"learning_rate": 0.02, "warmup_steps": 3, "weight_decay": 0.1, "muon_block_rows": 64}
    fit(name="a", on_event=events.append, optimizer=optimizer, **given)
    found = {
        "train": [e.train_loss for e in events if isinstance(e, Logged)],
        "val": [e.val_loss for e in events if isinstance(e, Evaluated)],
    }
    golden = read(GOLDEN) if GOLDEN.is_file() else {}
    if optimizer not in golden:
        GOLDEN.write_text(json.dumps(golden | {optimizer: found}, indent=1) + "\n", encoding="utf-8")
        pytest.fail("there were no golden losses; these were written")
    for kind, losses in found.items():
        # Muon's bfloat16 products round differently from one CPU to another.
        assert losses == pytest.approx(golden[optimizer][kind], rel=5e-3 if optimizer == "muon" else 1e-3)


def test_metrics_are_the_contract(fit: Fit) -> None:
    records = read_metrics(fit(name="a").run / "metrics.jsonl")
    logged = [r for r in records if "train_loss" in r]
    evaluated = [r for r in records if "val_loss" in r]
    assert len(logged) + len(evaluated) == len(records)
    for record in logged:
        assert list(record) == [
            "step", "tokens", "seconds", "train_loss", "learning_rate", "tokens_per_second", "grad_norm",
        ]  # fmt: skip
    for record in evaluated:
        assert list(record) == [
            "step", "val_loss", "val_accuracy", "val_perplexity", "val_bits_per_byte", "val_tokens",
            "val_unknown",
        ]  # fmt: skip
        assert record["val_perplexity"] == pytest.approx(math.exp(record["val_loss"]))
    assert [r["step"] for r in logged] == list(range(3, 25, 3))
    assert [r["tokens"] for r in logged] == [r["step"] * 8 * 16 for r in logged]
    assert [r["step"] for r in evaluated][:3] == [8, 16, 24]


def test_the_last_evaluation_is_of_the_best_checkpoint_on_the_whole_split(fit: Fit, corpus: Path) -> None:
    result = fit(name="a", eval_tokens=64)
    records = [r for r in read_metrics(result.run / "metrics.jsonl") if "val_loss" in r]
    assert [r["val_tokens"] for r in records] == [64, 64, 64, records[-1]["val_tokens"]]
    assert records[-1]["step"] == result.best_step
    characters = len(corpus.read_text(encoding="utf-8"))
    assert records[-1]["val_tokens"] == characters - int(0.9 * characters) - 1
    best = read(result.run / "best.json")
    assert (best["step"], best["val_loss"]) == (result.best_step, records[-1]["val_loss"])


def test_the_logged_loss_is_the_mean_over_the_steps_since_the_last(fit: Fit) -> None:
    each = read_metrics(fit(name="each", log_interval=1).run / "metrics.jsonl")
    some = read_metrics(fit(name="some", log_interval=7).run / "metrics.jsonl")
    losses = {r["step"]: r["train_loss"] for r in each if "train_loss" in r}
    spans = {7: range(1, 8), 14: range(8, 15), 21: range(15, 22), 24: range(22, 25)}
    found = {r["step"]: r["train_loss"] for r in some if "train_loss" in r}
    assert found == pytest.approx(
        {end: sum(losses[s] for s in span) / len(span) for end, span in spans.items()}
    )


def test_the_newest_and_the_best_checkpoint_are_kept(fit: Fit) -> None:
    run = fit(name="a", keep_checkpoints=2).run  # it grows better to the end
    assert steps_of(run) == [20, 24]
    assert steps_of(fit(name="b", keep_checkpoints=1).run) == [24]
    last = read(run / "last.json")
    assert last.pop("peak_memory_bytes") > 10**8  # Python with torch
    assert last == {"checkpoint": "step-00000024", "step": 24, "finished": True}


def test_the_best_checkpoint_is_the_one_of_lowest_loss_and_survives(fit: Fit) -> None:
    rising = {"lr_schedule": "constant", "warmup_steps": 40, "learning_rate": 2.0, "adamw_learning_rate": 2.0}
    run = fit(name="a", keep_checkpoints=1, steps=40, **rising).run
    losses = {r["step"]: r["val_loss"] for r in read_metrics(run / "metrics.jsonl") if "val_loss" in r}
    best = min(losses, key=lambda step: losses[step])
    assert best < 40  # a rate that only rises does not end at its best
    assert steps_of(run) == [best, 40]
    assert read(run / "best.json")["step"] == best
    assert paths.find_checkpoint("a")[1].name == f"step-{best:08d}"
    assert paths.find_checkpoint("a", which="last")[1].name == "step-00000040"


def test_patience_ends_a_run_that_grows_no_better(fit: Fit) -> None:
    events: list[Event] = []
    result = fit(
        name="a", on_event=events.append, steps=400, eval_interval=4, patience=3,
        lr_schedule="constant", learning_rate=0.3, adamw_learning_rate=0.6,
    )  # fmt: skip
    losses = [e.val_loss for e in events if isinstance(e, Evaluated)]
    assert result.step < 400
    assert result.step == result.best_step + 3 * 4
    assert min(losses[:-1]) == losses[result.best_step // 4 - 1]
    said = [e.text for e in events if isinstance(e, Notice) and "patience" in e.text]
    assert len(said) == 1
    assert f"last 3 evaluations were not better than the best one, at step {result.best_step}" in said[0]


@pytest.mark.parametrize(
    ("settings", "name"),
    [({}, "lm_head.bias"), ({"adaptive_cutoffs": (5,), "tokenizer": "word"}, "lm_head.head.bias")],
)
def test_the_output_bias_starts_as_the_shares_of_the_training_tokens(
    fit: Fit, corpus: Path, settings: dict[str, Any], name: str
) -> None:
    unchanged = {"learning_rate": 0.0, "adamw_learning_rate": 0.0, "weight_decay": 0.0}
    run = fit(steps=1, output_bias=True, **unchanged, **settings).run
    bias = load_tensors(paths.find_checkpoint(run)[1] / "model.safetensors")[name]
    tokenizer, text = load(run).tokenizer, corpus.read_text(encoding="utf-8")
    ids = torch.tensor(tokenizer.encode(text[: int(0.9 * len(text))]))
    counts = torch.bincount(ids, minlength=tokenizer.vocab_size).float().clamp(min=0.5)
    shares = counts / counts.sum()
    if "adaptive_cutoffs" in settings:
        shares = torch.cat((shares[:5], shares[5:].sum(0, keepdim=True)))
    torch.testing.assert_close(bias.softmax(-1), shares)


def test_samples_are_shown_at_their_interval(fit: Fit) -> None:
    events: list[Event] = []
    fit(name="a", on_event=events.append, sample_text=sample_text, sample_interval=10)
    samples = [e for e in events if isinstance(e, Sampled)]
    assert [e.step for e in samples] == [10, 20, 24]
    assert all(len(e.text) == 160 for e in samples)


def poisoned(at: int, model_of: Callable[[], torch.nn.Module]) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if isinstance(event, Logged) and event.step == at:
            with torch.no_grad():
                next(model_of().parameters())[0] = math.nan

    return listen


@pytest.mark.parametrize("at", [15, 16])
def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_good_checkpoint(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    models: list[torch.nn.Module] = []
    real = torch.nn.Module.train

    def spy(model: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
        models.append(model)
        return real(model, mode)

    monkeypatch.setattr("gptscratch.model.gpt.GPT.train", spy)
    with pytest.raises(RunError, match=r"diverged by step 1[67]") as caught:
        fit(name="a", log_interval=1, on_divergence="stop", on_event=poisoned(at, lambda: models[-1]))
    assert caught.value.exit_code == 1
    assert steps_of(paths.run_dir("a"))[-1] == 12  # the save at 16 came after the poison
    assert load("a").generate("the", max_tokens=5)
    assert all(
        math.isfinite(r.get("train_loss", 0)) for r in read_metrics(paths.run_dir("a") / "metrics.jsonl")
    )


def test_a_full_disk_keeps_the_checkpoints_before_and_leaves_no_rubbish(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = storage.save_streamed, []

    def save_streamed(path: Path, *given: Any, **more: Any) -> None:
        calls.append(path)
        if len(calls) == 6:  # the optimizer's part of the third checkpoint
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(path, *given, **more)

    monkeypatch.setattr(storage, "save_streamed", save_streamed)
    with pytest.raises(RunError, match="No space left") as caught:
        fit(name="a")
    assert caught.value.exit_code == 1
    folder = paths.run_dir("a") / "checkpoints"
    assert sorted(file.name for file in folder.iterdir()) == ["step-00000004", "step-00000008"]
    assert read(paths.run_dir("a") / "last.json")["step"] == 8
    monkeypatch.setattr(storage, "save_streamed", real)
    assert resume("a").step == 24


def test_a_run_is_continued_from_python(tale: Path) -> None:
    result = gptscratch.resume(tale, steps=26)
    assert (result.step, result.interrupted) == (26, False)
    assert steps_of(tale)[-1] == 26


def test_a_run_that_starts_from_another_begins_where_that_one_ended(tale: Path) -> None:
    theirs = read_metrics(tale / "metrics.jsonl")
    result = train(
        read(tale / "config.json")["data"]["corpus"], name="b", init_from="tale", steps=2, log_interval=1,
        batch_size=8, device="cpu", dtype="float32", sample_interval=0,
    )  # fmt: skip
    config = read(result.run / "config.json")
    assert config["model"] == read(tale / "config.json")["model"]
    logged = [record for record in read_metrics(result.run / "metrics.jsonl") if "train_loss" in record]
    assert logged[0]["train_loss"] < theirs[0]["train_loss"] - 0.5
    assert (result.run / "tokenizer.json").read_text() == (tale / "tokenizer.json").read_text()


def test_a_run_from_another_refuses_its_shape_its_tokenizer_and_its_own_name(fit: Fit, tale: Path) -> None:
    before = sorted(tale.rglob("*"))
    with pytest.raises(ConfigError, match="--layers"):
        fit(name="b", init_from="tale", tokenizer=None, n_layer=2)
    with pytest.raises(ConfigError, match="tokenizer"):
        fit(name="b", init_from="tale")
    with pytest.raises(ConfigError, match="itself"):
        fit(name="tale", init_from="tale", tokenizer=None, replace_run=True)
    assert sorted(tale.rglob("*")) == before
    assert not paths.run_dir("b").exists()


def test_a_damaged_source_leaves_no_half_made_run(fit: Fit, tale: Path) -> None:
    for _, folder in paths.checkpoints(tale):
        (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="damaged"):
        fit(name="b", init_from="tale", tokenizer=None)
    assert not paths.run_dir("b").exists()


def test_a_name_that_is_taken_is_refused_unless_it_may_be_replaced(fit: Fit, tale: Path) -> None:
    before = (tale / "last.json").read_text()
    with pytest.raises(ConfigError, match="exists already"):
        fit(name="tale")
    assert (tale / "last.json").read_text() == before
    assert fit(name="tale", replace_run=True, steps=4).step == 4
    assert steps_of(tale) == [4]


@pytest.mark.parametrize("content", ['{"architectures": ["GPT2LMHeadModel"]}', "not json"])
def test_a_folder_without_a_run_is_never_replaced(fit: Fit, tmp_path: Path, content: str) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "config.json").write_text(content)
    with pytest.raises(ConfigError, match="not a run"):
        fit(out=tmp_path / "precious", replace_run=True)
    assert (tmp_path / "precious" / "config.json").read_text() == content


def test_a_run_without_a_name_takes_the_corpus_and_never_the_same_twice(fit: Fit) -> None:
    assert [fit(steps=1).run.name for _ in range(3)] == ["tale", "tale-2", "tale-3"]


def test_a_run_can_be_in_any_folder(fit: Fit, tmp_path: Path) -> None:
    run = fit(out=tmp_path / "elsewhere").run
    assert run == tmp_path / "elsewhere"
    assert load(run).generate("the", max_tokens=3)
    assert resume(run, steps=26).step == 26


def test_bad_settings_stop_before_anything_is_written(fit: Fit, home: Path) -> None:
    for settings in ({"n_head": 3}, {"n_layers": 3}, {"top_k": 3}, {"steps": 3, "tokens": 4}):
        with pytest.raises(UserError):
            fit(name="a", **settings)
    assert not home.exists()


def test_a_finished_run_continues_with_a_longer_budget(tale: Path) -> None:
    result = resume("tale", steps=40)
    assert (result.step, result.tokens) == (40, 40 * 8 * 16)
    assert read(tale / "config.json")["train"]["steps"] == 40
    records = read_metrics(tale / "metrics.jsonl")
    assert [r["step"] for r in records if "train_loss" in r] == [*range(3, 41, 3), 40]
    assert [r["step"] for r in records if "val_loss" in r][:5] == [8, 16, 24, 32, 40]


def test_a_budget_may_change_its_unit(tale: Path) -> None:
    assert resume("tale", tokens=30 * 8 * 16).step == 30
    train_config = read(tale / "config.json")["train"]
    assert (train_config["steps"], train_config["tokens"]) == (None, 30 * 8 * 16)


def test_a_finished_run_resumed_as_it_is_changes_nothing(tale: Path) -> None:
    before = read(tale / "best.json"), steps_of(tale)
    assert resume("tale").step == 24
    assert (read(tale / "best.json"), steps_of(tale)) == before


def test_a_finished_run_with_a_time_limit_is_trained_further_with_more_minutes(fit: Fit) -> None:
    fit(name="a", steps=None, minutes=0.02)
    events: list[Event] = []
    resume("a", on_event=events.append)
    said = [event.text for event in events if isinstance(event, Notice)]
    assert any("gptscratch train --resume a --minutes M, with M above 0.1." in text for text in said)


@pytest.mark.parametrize(
    "setting", [{"n_layer": 2}, {"corpus": "x"}, {"optimizer": "adamw"}, {"batch_size": 4}]
)
def test_a_resumed_run_keeps_what_it_is(tale: Path, setting: dict[str, Any]) -> None:
    before = read(tale / "config.json")
    with pytest.raises(ConfigError, match=r"--layers|corpus|optimizer|--batch-size"):
        resume("tale", **setting)
    assert read(tale / "config.json") == before


def test_a_resumed_run_makes_its_token_files_again(tale: Path, home: Path) -> None:
    shutil.rmtree(read(tale / "config.json")["tokens"])
    assert resume("tale", steps=26).step == 26
    assert list((home / "tokens").glob("[!.]*"))


def test_a_corpus_that_has_changed_is_not_resumed(tmp_path: Path, corpus: Path) -> None:
    own = Path(shutil.copy(corpus, tmp_path / "own.txt"))
    run = train(own, name="own", steps=2, n_layer=1, d_model=32, context_length=16, device="cpu").run
    shutil.rmtree(read(run / "config.json")["tokens"])
    own.write_text(own.read_text() + "And so on.\n")
    with pytest.raises(CheckpointError, match="changed"):
        resume("own", steps=4)


def test_a_corpus_from_stdin_is_not_waited_for(tale: Path) -> None:
    config = read(tale / "config.json")
    config["data"]["corpus"] = ["-"]
    (tale / "config.json").write_text(json.dumps(config))
    shutil.rmtree(config["tokens"])
    with pytest.raises(CheckpointError, match="stdin"):
        resume("tale", steps=30)


def test_a_run_on_time_ends_then_with_its_rate_decayed(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = itertools.count()
    monkeypatch.setattr("gptscratch.training.clock.now", lambda: 0.002 * next(readings))
    settings = {"steps": None, "minutes": 0.03, "eval_interval": 40, "save_interval": 40, "log_interval": 5}
    result = fit(name="a", **settings)
    assert result.seconds == pytest.approx(1.8, rel=0.03)
    rates = [r["learning_rate"] for r in read_metrics(result.run / "metrics.jsonl") if "train_loss" in r]
    assert rates[-1] < 0.1 * max(rates)


def test_the_token_files_are_shared_between_runs_of_one_corpus(fit: Fit, home: Path) -> None:
    fit(name="a", steps=1)
    fit(name="b", steps=1)
    assert len(list((home / "tokens").glob("[!.]*"))) == 1


def test_a_run_keeps_its_number_formats_when_the_machine_says_otherwise_at_a_resume(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fast in (True, False):
        monkeypatch.setattr("gptscratch.device.has_fast_bfloat16", lambda _: fast)  # noqa: B023
        name = f"fast-{fast}".lower()
        fit(name=name, dtype="auto", steps=2)
        monkeypatch.setattr("gptscratch.device.has_fast_bfloat16", lambda _: not fast)  # noqa: B023
        resume(name, steps=3)
        wanted = "bfloat16" if fast else "float32"
        train = read(paths.run_dir(name) / "config.json")["train"]
        assert (train["dtype"], train["muon_dtype"]) == (wanted, wanted)


def test_a_small_corpus_with_a_weight_is_trained_in_a_context_that_it_has_the_tokens_for(
    corpus: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small.txt"
    small.write_text("the fox runs home.\n" * 6, encoding="utf-8")
    corpora = (f"{corpus}=0.9", f"{small}=0.1")
    settings: dict[str, Any] = {"n_layer": 1, "d_model": 32, "context_length": 200, "batch_size": 2}
    record = read_run(train(corpora, device="cpu", steps=2, **settings).run)
    small_tokens = read_manifest(Path(record.tokens)).corpora[1].tokens
    assert record.config.model.context_length == small_tokens - 1 < 199
    plan, _ = plan_run({**settings, "steps": 2, "corpus": corpora, "documents": "padded"})
    assert plan.config.model.context_length == 200
