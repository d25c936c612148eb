"""Checkpoints: whole or refused in one line, movable, and never a pickle."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gptscratch
from gptscratch import paths
from gptscratch.config import ModelConfig
from gptscratch.errors import CheckpointError, RunError, UserError
from gptscratch.files import write_json
from gptscratch.generation.generator import load
from gptscratch.model.gpt import GPT
from gptscratch.runs.checkpoint import load_state, save_checkpoint
from gptscratch.runs.folder import LOCK, create_run, is_run
from gptscratch.runs.run import FORMAT, read_run
from gptscratch.runs.tensors import load_tensors, save_tensors
from gptscratch.training.events import Event, Notice
from gptscratch.training.state import TrainState
from gptscratch.training.trainer import resume


def newest(run: Path) -> Path:
    return paths.checkpoints(run)[-1][1]


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(file.read_text(encoding="utf-8"))
    change(values)
    file.write_text(json.dumps(values), encoding="utf-8")


def test_a_trained_run_is_loaded_by_its_name(tale: Path) -> None:
    gpt = load("tale")
    assert gpt.run == tale
    text = gpt.generate("the fox ", max_tokens=40, temperature=0)
    assert len(text) == 40
    assert text == gptscratch.load("tale").generate("the fox ", max_tokens=40, temperature=0)


def test_the_newest_run_needs_no_name(tale: Path) -> None:
    assert load().run == tale


def test_a_loaded_model_is_the_saved_one_and_ready_to_be_used(tale: Path) -> None:
    assert tale.is_dir()
    gpt = load("tale")
    assert not gpt.model.training
    assert gpt.checkpoint is not None
    saved = load_tensors(gpt.checkpoint / "model.safetensors")
    assert saved.keys() == dict(gpt.model.named_parameters()).keys()
    assert all(torch.equal(p, saved[name]) for name, p in gpt.model.named_parameters())


def test_a_run_folder_can_be_moved(tale: Path, tmp_path: Path) -> None:
    text = load("tale").generate("a dog", max_tokens=20, seed=1)
    moved = Path(shutil.move(tale, tmp_path / "renamed"))
    shutil.rmtree(paths.home())
    for place in (moved, str(moved), newest(moved)):
        assert load(place).generate("a dog", max_tokens=20, seed=1) == text


def test_a_checkpoint_of_a_run_is_named_by_its_folder(tale: Path) -> None:
    for _, folder in paths.checkpoints(tale):
        assert load(folder).checkpoint == folder


def test_nothing_on_disk_is_a_pickle(tale: Path) -> None:
    files = [file for file in tale.rglob("*") if file.is_file() and file.name != LOCK]
    assert {file.suffix for file in files} == {".json", ".jsonl", ".safetensors"}
    for file in files:
        if file.suffix == ".safetensors":
            size = int.from_bytes(file.read_bytes()[:8], "little")
            assert isinstance(json.loads(file.read_bytes()[8 : 8 + size]), dict)
        else:
            parts = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
            assert all(isinstance(json.loads(part), dict) for part in parts)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def _text(text: str) -> Callable[[Path], Any]:
    return lambda file: file.write_text(text)


# What happens to which file of a run, and what the error says.
DAMAGES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "truncated weights": ("model.safetensors", _truncate, "model.safetensors is damaged"),
    "empty weights": ("model.safetensors", _text(""), "is damaged"),
    "no weights": ("model.safetensors", Path.unlink, "damaged or missing"),
    "a pipe for weights": ("model.safetensors", _pipe, "damaged or missing"),
    "no config": ("config.json", Path.unlink, "config.json"),
    "a config that is not JSON": ("config.json", _truncate, "config.json is damaged"),
    "a config that is a list": ("config.json", _text("[1]"), "config.json is damaged"),
    "nothing but brackets": ("config.json", _text("[" * 100_000), "config.json is damaged"),
    "another program's config": ("config.json", _text("{}"), "no format number"),
    "a pipe for a config": ("config.json", _pipe, "config.json"),
    "a device for a config": ("config.json", _device, "config.json"),
    "a damaged best.json": ("best.json", _text("{"), "best.json is damaged"),
    "a best.json of another kind": ("best.json", _text('["x"]'), "best.json is damaged"),
    "a best.json that leads elsewhere": (
        "best.json", _text('{"checkpoint": "../../.."}'), "best.json is damaged",
    ),
    "no tokenizer": ("tokenizer.json", Path.unlink, "tokenizer"),
}  # fmt: skip

# Values of config.json, and what the error says.
WRONG_VALUES: dict[str, tuple[str, Any, str]] = {
    "a newer run": ("format", 99, "has format 99; this"),
    "a config without its tokens": ("tokens", None, "tokens is None"),
    "tokens that are a number": ("tokens", 3, "tokens is 3"),
    "an end of text outside the vocabulary": ("end_of_text", 10**6, "end_of_text is 1000000"),
    "a setting of another kind": ("model.n_layer", "many", "n_layer is 'many'"),
    "a setting out of range": ("model.n_layer", 0, "n_layer"),
    "an unknown setting": ("model.n_loop", 3, "n_loop"),
    "another width": ("model.d_model", 64, r"is \(.*32.*\), not \(.*64.*\)"),
    "another depth": ("model.n_layer", 2, "blocks.1.* is missing"),
    "another family": ("model.qk_norm", False, "not absent"),
    "a billion layers": ("model.n_layer", 10**9, "n_layer is 1000000000"),
    "a width of petabytes": ("model.d_model", 2**28, "does not fit"),
    "a vocabulary of petabytes": ("model.vocab_size", 2**31 - 1, "does not fit"),
    "an MLP of petabytes": ("model.d_ff", 2**31 - 1, "does not fit"),
    "a number beyond all sizes": ("model.head_dim", 10**400, "head_dim"),
    "a real setting of 400 digits": ("model.dropout", 10**400, "dropout"),
    "a vocabulary smaller than the tokenizer's": ("model.vocab_size", 3, "vocab|token_embedding|lm_head"),
    "an interval of 0": ("train.eval_interval", 0, "eval_interval is 0"),
    "a micro-batch of 0": ("train.micro_batch_size", 0, "micro_batch_size is 0"),
    "no length": ("train.steps", 0, "training length is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_gives_one_clear_error(tale: Path, damage: str) -> None:
    file, make, message = DAMAGES[damage]
    folder = paths.find_checkpoint(tale)[1] if file == "model.safetensors" else tale
    make(folder / file)
    assert_one_line(message)


@pytest.mark.parametrize("wrong", WRONG_VALUES)
def test_a_wrong_value_in_config_json_gives_one_clear_error(tale: Path, wrong: str) -> None:
    name, value, message = WRONG_VALUES[wrong]
    *section, key = name.split(".")
    edit(tale / "config.json", lambda v: (v[section[0]] if section else v).update({key: value}))
    assert_one_line(message)


def assert_one_line(message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load("tale")
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message


STATES = {
    "no JSON": lambda file: _truncate(file),
    "gone": lambda file: file.unlink(),
    "a list": lambda file: file.write_text("[]"),
    "newer": lambda file: edit(file, lambda v: v.update(format=99)),
    "without a format": lambda file: edit(file, lambda v: v.pop("format")),
    "without its step": lambda file: edit(file, lambda v: v.pop("step")),
    "a step that is a text": lambda file: edit(file, lambda v: v.update(step="ten")),
    "a step that is a fraction": lambda file: edit(file, lambda v: v.update(step=1.5)),
    "a loss that is true": lambda file: edit(file, lambda v: v.update(loss_sum=True)),
    "seconds that are not a number": lambda file: edit(file, lambda v: v.update(seconds=float("nan"))),
    "an infinite loss": lambda file: edit(file, lambda v: v.update(loss_sum=float("inf"))),
    "a best step after the last one": lambda file: edit(file, lambda v: v.update(best_step=10**17)),
    "a step of hundreds of digits": lambda file: edit(file, lambda v: v.update(step=10**300)),
    "another step": lambda file: edit(file, lambda v: v.update(step=25)),
}


@pytest.mark.parametrize("damage", STATES)
def test_a_damaged_state_gives_one_clear_error(tale: Path, damage: str) -> None:
    folder = newest(tale)
    STATES[damage](folder / "state.json")
    with pytest.raises(CheckpointError, match=r"state\.json"):
        TrainState.from_dict(load_state(folder))


def test_a_failed_resume_changes_nothing(tale: Path) -> None:
    _truncate(newest(tale) / "optimizer.safetensors")
    before = {file: file.read_bytes() for file in tale.rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError, match="optimizer"):
        resume("tale", steps=30)
    assert {file: file.read_bytes() for file in tale.rglob("*") if file.is_file()} == before


def test_an_optimizer_state_that_does_not_fit_changes_nothing(tale: Path) -> None:
    save_tensors(newest(tale) / "optimizer.safetensors", {"x": torch.zeros(2)})
    before = {file: file.read_bytes() for file in tale.rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError, match="does not fit"):
        resume("tale", steps=30)
    assert {file: file.read_bytes() for file in tale.rglob("*") if file.is_file()} == before


def test_a_record_comes_back_as_it_was(tale: Path, tmp_path: Path) -> None:
    record = read_run(tale)
    write_json(tmp_path / "config.json", record.to_dict())
    assert read_run(tmp_path) == record
    values = json.loads((tale / "config.json").read_text(encoding="utf-8"))
    assert (values["format"], values["version"]) == (FORMAT, gptscratch.__version__)


def test_a_state_comes_back_as_it_was() -> None:
    for state in (
        TrainState(),
        TrainState(step=3, tokens=9, seconds=1.5, best_val_loss=0.1 + 0.2, best_step=2),
    ):
        values = json.loads(json.dumps(state.to_dict(), allow_nan=False))
        assert TrainState.from_dict(values | {"of": "another version"}) == state
    assert len(dataclasses.fields(TrainState)) == len(TrainState().to_dict())


def test_a_save_keeps_the_newest_and_the_best_and_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        folder = paths.checkpoint_dir(tmp_path, step)
        folder.mkdir(parents=True)
        (folder / "state.json").touch()
    (tmp_path / "checkpoints" / ".step-00000006.77.tmp").mkdir()
    half_deleted = paths.checkpoint_dir(tmp_path, 1)
    (half_deleted / "model.safetensors").touch()
    (half_deleted / "state.json").unlink()
    (tmp_path / ".last.json.77.tmp").touch()
    model = GPT(ModelConfig(vocab_size=4, n_layer=1, d_model=8, n_head=1))
    save_checkpoint(tmp_path, model, {}, {"step": 5, "best_step": 2}, keep=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoints", "last.json"]
    assert [step for step, _ in paths.checkpoints(tmp_path)] == [2, 4, 5]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3
    save_checkpoint(tmp_path, model, {}, {"step": 6, "best_step": 6}, best={"val_loss": 1.5}, keep=1)
    assert [step for step, _ in paths.checkpoints(tmp_path)] == [6]
    best = json.loads((tmp_path / "best.json").read_text())
    assert best == {"checkpoint": "step-00000006", "step": 6, "val_loss": 1.5}


TOO_LARGE = """
import resource, signal, sys
from pathlib import Path
from gptscratch.generation.generator import load
from gptscratch.runs.checkpoint import save_checkpoint
from gptscratch.errors import RunError
from gptscratch.training.events import Event, Notice
from gptscratch.training.state import TrainState
gpt = load(sys.argv[1], device="cpu")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_checkpoint(gpt.run, gpt.model, {}, TrainState(step=99).to_dict(), keep=2)
except RunError as error:
    print(error.exit_code, error.message)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_disk_that_takes_no_more_is_an_error_in_one_line(tale: Path) -> None:
    before = sorted(file.name for file in (tale / "checkpoints").iterdir())
    done = subprocess.run(
        [sys.executable, "-c", TOO_LARGE, str(tale)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("1 The disk reported an error while saving step 99")
    assert sorted(file.name for file in (tale / "checkpoints").iterdir()) == before
    assert load("tale").generate("the", max_tokens=2)


def test_a_folder_that_cannot_be_made_is_an_error_in_one_line(tale: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    gpt = load("tale")
    with pytest.raises(RunError, match="making the run's folder"):
        create_run(tmp_path / "file" / "run", read_run(tale), gpt.tokenizer, {})


GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture
def old_run(home: Path) -> Path:
    """A run folder written by the first version of the format."""
    run = shutil.copytree(GOLDEN / "run-format-1", home / "runs" / "old")
    edit(run / "config.json", lambda v: v["data"].update(corpus=[str(GOLDEN / "run-format-1.txt")]))
    return run


def test_a_run_of_an_older_version_loads_and_generates_the_same_text(old_run: Path) -> None:
    assert load(old_run).generate("my", max_tokens=30, temperature=0) == " cat sings fare.\nmy cat runs f"


def test_a_run_of_an_older_version_can_be_trained_further(old_run: Path) -> None:
    events: list[Event] = []
    assert resume("old", steps=62, on_event=events.append).step == 62
    assert any(isinstance(e, Notice) and "order of its batches" in e.text for e in events)
    events.clear()
    resume("old", steps=63, on_event=events.append)
    assert not any(isinstance(e, Notice) and "order of its batches" in e.text for e in events)
    assert read_run(old_run).split is not None


def test_a_half_deleted_checkpoint_is_replaced_by_the_next_save(tale: Path) -> None:
    (paths.checkpoint_dir(tale, 24) / "state.json").unlink()
    assert resume("tale").step == 24
    assert paths.is_checkpoint(paths.checkpoint_dir(tale, 24))
    assert json.loads((tale / "last.json").read_text())["step"] == 24


def test_what_killed_processes_left_is_removed_by_a_resume(tale: Path) -> None:
    (tale / ".best.json.77.tmp").touch()
    (tale / ".metrics.jsonl.77.tmp").touch()
    (tale / "checkpoints" / ".step-00000006.77.tmp").mkdir()
    half = tale / "checkpoints" / "step-00000012"
    half.mkdir()
    (half / "model.safetensors").touch()
    resume("tale", steps=25)
    assert not list(tale.rglob("*.tmp"))
    assert not half.exists()


def test_a_resume_prunes_what_a_killed_process_had_no_time_to_delete(tale: Path) -> None:
    shutil.copytree(paths.checkpoint_dir(tale, 20), paths.checkpoint_dir(tale, 16))
    edit(tale / "last.json", lambda v: v.pop("finished"))
    resume("tale")
    assert [step for step, _ in paths.checkpoints(tale)] == [20, 24]


def test_a_run_that_is_replaced_is_a_run_at_every_moment(tale: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpt, record = load("tale"), read_run(tale)
    seen = []
    for name in ("rmtree", "rename", "unlink"):
        place = shutil if name == "rmtree" else Path
        real = getattr(place, name)

        def spy(*args: Any, real: Any = real, **more: Any) -> Any:
            seen.append(is_run(tale))
            return real(*args, **more)

        monkeypatch.setattr(place, name, spy)
    create_run(tale, record, gpt.tokenizer, {})
    assert len(seen) > 5
    assert all(seen)
    assert sorted(file.name for file in tale.iterdir() if file.name != LOCK) == [
        "config.json",
        "plan.json",
        "tokenizer.json",
    ]
