"""Exported folders in Hugging Face transformers: the same logits, texts and token ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptscratch.errors import ConfigError
from gptscratch.generation.generate import generate
from gptscratch.generation.generator import load
from gptscratch.interop.export import export
from gptscratch.tokenizer import Tokenizer

from .conftest import ODD_TEXTS, SHAPES, made

transformers = pytest.importorskip("transformers")
Runs = Callable[..., Path]


@pytest.fixture(autouse=True)
def _work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(folder: str) -> tuple[Any, Any]:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, output_loading_info=True, dtype="auto"
    )
    assert not any(report.values()), report
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_over_a_whole_context_and_200_greedy_tokens_are_the_same(shape: str, byte_run: Runs) -> None:
    gpt = load(byte_run(shape), device="cpu")
    theirs, tokenizer = loaded(export().folder)
    assert type(theirs).__name__.lower().startswith(shape.split(",")[0])
    token_ids = torch.randint(257, (2, 256))
    with torch.no_grad():
        logits = gpt.model(token_ids)
        torch.testing.assert_close(theirs(token_ids).logits, logits, rtol=0, atol=1e-4)
    assert logits.abs().max() > 1
    prompt = tokenizer("Once", return_tensors="pt")
    found = theirs.generate(**prompt, max_new_tokens=200, do_sample=False)[0, 4:].tolist()
    end = gpt.tokenizer.eot_id
    assert found == [*generate(gpt.model, b"Once", banned_ids=[end], max_tokens=200, temperature=0)]
    assert len(found) == 200


def test_token_ids_and_texts_are_the_same(tokenizer: Tokenizer, random_run: Runs) -> None:
    random_run(tokenizer)
    folder = export().folder
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    plain = transformers.AutoTokenizer.from_pretrained(
        folder, local_files_only=True, split_special_tokens=True
    )
    for text in ODD_TEXTS:
        ids = tokenizer.encode(text, specials=True)
        assert theirs(text).input_ids == ids, text
        assert plain(text).input_ids == tokenizer.encode(text), text
        assert theirs.decode(ids) == tokenizer.decode(ids, skip_special=False)


def test_a_pipeline_gives_the_same_text_for_prompts_of_different_length(random_run: Runs) -> None:
    gpt = load(random_run(made("char"), **SHAPES["qwen3, grouped and tied"]), device="cpu")
    pipeline = transformers.pipeline("text-generation", model=export().folder)
    prompts = ["fox", "A dog said:"]
    plain = {"clean_up_tokenization_spaces": False}  # the pipelines of transformers 4 remove some spaces
    found = pipeline(prompts, batch_size=2, max_new_tokens=20, do_sample=False, **plain)
    for prompt, (sequence,) in zip(prompts, found, strict=True):
        assert sequence["generated_text"] == prompt + gpt.generate(prompt, max_tokens=20, temperature=0)


@pytest.mark.parametrize("has_documents", [False, True])
def test_only_a_token_that_was_trained_ends_a_text(has_documents: bool, random_run: Runs) -> None:
    tokenizer = made("char")
    random_run(tokenizer, end_of_text=tokenizer.eot_id if has_documents else None)
    model, theirs = loaded(export().folder)
    wanted = tokenizer.eot_id if has_documents else None
    assert model.generation_config.eos_token_id == model.config.eos_token_id == theirs.eos_token_id == wanted
    assert model.generation_config.bos_token_id == wanted
    assert theirs.pad_token_id == tokenizer.eot_id
    assert model.config.pad_token_id is None  # or the embedding's row would have no gradient
    untrained = {tokenizer.unk_id, *(() if has_documents else (tokenizer.eot_id,))}
    assert set(model.generation_config.suppress_tokens) == untrained


def test_generation_ends_with_the_token_that_ends_a_document(random_run: Runs) -> None:
    model = load(random_run(made("byte")), device="cpu").model
    ids = [*generate(model, b"Once", banned_ids=[256], max_tokens=20, temperature=0)]
    random_run(made("byte"), end_of_text=ids[10])
    theirs, tokenizer = loaded(export().folder)
    prompt = tokenizer("Once", return_tensors="pt")
    found = theirs.generate(**prompt, max_new_tokens=20, do_sample=False)[0, 4:].tolist()
    assert found == ids[: ids.index(ids[10]) + 1]


def test_every_token_that_ends_a_text_of_an_imported_model_is_exported(random_run: Runs) -> None:
    size = made("bpe").vocab_size
    run = random_run(made("bpe"), vocab_size=size + 5)
    record = json.loads((run / "config.json").read_text(encoding="utf-8"))
    record["imported"] = {"source": "folder", "model_type": "llama", "stop_ids": [3, 5]}
    (run / "config.json").write_text(json.dumps(record), encoding="utf-8")
    folder = export().folder
    model, tokenizer = loaded(folder)
    assert model.generation_config.eos_token_id == [3, 5]
    assert model.config.eos_token_id == tokenizer.eos_token_id == 3
    assert set(model.generation_config.suppress_tokens) == {0, *range(size, size + 5)}
    assert "It was imported from a llama model" in (Path(folder) / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_stored_in_the_number_format_asked_for(dtype: str, byte_run: Runs) -> None:
    run = byte_run("gpt2")
    exported = export(dtype=dtype)
    theirs, _ = loaded(exported.folder)
    assert theirs.dtype == getattr(torch, dtype)
    assert exported.files["model.safetensors"] < 0.6 * export(folder="f32").files["model.safetensors"]
    wanted = load(run, device="cpu").model.token_embedding.weight.to(theirs.dtype)
    assert torch.equal(theirs.get_input_embeddings().weight, wanted)


def test_a_number_that_float16_cannot_represent_is_reported(random_run: Runs) -> None:
    from safetensors.torch import load_file, save_file

    file = next(random_run(made("byte")).rglob("model.safetensors"))
    tensors = load_file(file)
    tensors["final_norm.weight"][0] = 70_000.0
    save_file(tensors, file)
    with pytest.raises(ConfigError, match=r"model\.norm\.weight holds numbers that float16 cannot represent"):
        export(dtype="float16")
    assert not Path("random-hf").exists()
    export(dtype="bfloat16")


def test_the_model_card_has_the_corpus_the_settings_and_the_results(tale: Path) -> None:
    card = (Path(export(tale).folder) / "README.md").read_text(encoding="utf-8")
    best = json.loads((tale / "best.json").read_text())
    for fact in ("# tale", "tale.txt", f"{best['val_loss']:.4f} nats per token", "| steps | 24 |"):
        assert fact in card
    assert str(tale.parent.parent) not in card
