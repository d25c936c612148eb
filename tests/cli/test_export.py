"""gptscratch export: what it prints, and what it refuses in one line with nothing written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gptscratch.training.trainer import train

from .conftest import Ended

Command = Callable[..., Ended]


@pytest.fixture(autouse=True)
def _work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")


@pytest.mark.usefixtures("tale")
def test_the_newest_run_is_exported_for_transformers(gptscratch: Command) -> None:
    ended = gptscratch("export")
    assert ended.code == 0
    assert "Qwen3ForCausalLM in float32" in ended.out
    assert {file.name for file in Path("tale-hf").iterdir()} == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.usefixtures("tale")
def test_gguf_is_exported_with_a_modelfile(gptscratch: Command) -> None:
    pytest.importorskip("gguf")
    printed = json.loads(
        gptscratch("export", "tale", "--format", "gguf", "--quantize", "q8_0", "--out", "a/b", "--json").out
    )
    assert printed["folder"] == "a/b"
    assert printed["dtype"] == "q8_0"
    assert printed["files"] == {file.name: file.stat().st_size for file in Path("a/b").iterdir()}
    assert set(printed["files"]) == {"model.gguf", "Modelfile"}


def test_files_in_folders_of_an_export_are_listed(gptscratch: Command, tale: Path, corpus: Path) -> None:
    train(corpus, name="tuned", init_from=tale, steps=4, device="cpu", dtype="float32", lora_rank=2)
    printed = json.loads(gptscratch("export", "tuned", "--format", "peft", "--out", "peft", "--json").out)
    weights = Path("peft/base/model.safetensors")
    assert printed["files"]["base/model.safetensors"] == weights.stat().st_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tales"], "There is no run 'tales'"),
        (["--format", "ggfu"], "--format is 'ggfu': it must be one of hf"),
        (["--dtype", "int8"], "--dtype is 'int8': it must be one of float32, bfloat16, float16"),
        (["--quantize", "q8_0"], "--quantize has no effect with --format hf"),
        (["--format", "gguf", "--dtype", "float16"], "--dtype has no effect with --format gguf"),
    ],
)
@pytest.mark.usefixtures("tale")
def test_wrong_options_are_refused(arguments: list[str], message: str, gptscratch: Command) -> None:
    ended = gptscratch("export", *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert not [*Path().iterdir()]


@pytest.mark.usefixtures("tale")
def test_an_existing_folder_is_not_touched(gptscratch: Command) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    ended = gptscratch("export", "--out", "mine")
    assert ended.code == 2
    assert "mine exists already" in ended.err
    assert [file.name for file in Path("mine").iterdir()] == ["notes.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of file sizes")
@pytest.mark.parametrize("format", ["hf", "gguf"])
@pytest.mark.usefixtures("tale")
def test_a_disk_that_is_full_leaves_nothing(format: str, gptscratch: Command) -> None:
    import resource

    if format == "gguf":
        pytest.importorskip("gguf")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        ended = gptscratch("export", "--format", format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ended.code == 1
    assert f"The disk reported an error while writing tale-{format}" in ended.err
    assert not [*Path().iterdir()]


def test_the_option_that_no_other_program_has_is_named(
    gptscratch: Command, fit: Callable[..., object]
) -> None:
    fit(name="words", tokenizer="word", adaptive_cutoffs=(8,), steps=2)
    ended = gptscratch("export", "words")
    assert ended.code == 2
    assert "cannot represent adaptive_cutoffs = (8,)" in ended.err
