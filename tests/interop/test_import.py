"""``gptscratch import``: models of other programs as runs, and what is refused without leaving anything."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from gptscratch.cli.app import app
from gptscratch.errors import CheckpointError, ConfigError, RunError, TokenizerError, UserError
from gptscratch.generation.generator import Generator
from gptscratch.interop.export import export
from gptscratch.interop.hf_import import load_hf
from gptscratch.interop.import_run import import_run
from gptscratch.paths import find_checkpoint
from gptscratch.runs.run import read_run
from gptscratch.tokenizer import Tokenizer, build_tokenizer
from gptscratch.training.trainer import resume, train

transformers = pytest.importorskip("transformers")
Published = Callable[..., Any]
PROMPT = "Once upon a time"


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def greedy_text(theirs: Any, tokenizer: Any, max_tokens: int) -> str:
    """What transformers continues the prompt with."""
    inputs = tokenizer(PROMPT, return_tensors="pt")
    with torch.inference_mode():
        ids = theirs.generate(**inputs, max_new_tokens=max_tokens, do_sample=False, pad_token_id=0)[0]
    return str(tokenizer.decode(ids[inputs.input_ids.shape[1] :], skip_special_tokens=True))


def nanogpt(path: Path, *, bias: bool = False, vocab_size: int = 257, compiled: bool = True) -> Any:
    """A ckpt.pt as nanoGPT's train.py saves it, and the GPT-2 of transformers with the same weights.

    nanoGPT stores linear layers as (out, in), and has the exact GELU.
    """
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32}
    config = transformers.GPT2Config(
        **sizes, n_positions=64, vocab_size=vocab_size, activation_function="gelu"
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            has_bias = bias or not name.endswith("bias")
            parameter.add_(0.2 * torch.randn_like(parameter) if has_bias else -parameter)
    state = {}
    for name, tensor in theirs.state_dict().items():
        is_linear = tensor.dim() == 2 and ".h." in name
        if bias or not name.endswith("bias"):
            state["_orig_mod." * compiled + name] = (tensor.t() if is_linear else tensor).clone()
    arguments = {**sizes, "block_size": 64, "bias": bias, "vocab_size": vocab_size, "dropout": 0.1}
    more = {"optimizer": {"state": {}}, "iter_num": 7, "best_val_loss": torch.tensor(2.5), "config": {"x": 1}}
    torch.save({"model": state, "model_args": arguments, **more}, path)
    return theirs


@pytest.mark.parametrize("bias", [False, True])
def test_a_checkpoint_of_nanogpt_gives_the_same_logits(bias: bool, tmp_path: Path) -> None:
    theirs = nanogpt(tmp_path / "ckpt.pt", bias=bias, compiled=bias)
    Tokenizer.of_bytes().save(tmp_path / "tokenizer.json")
    model = Generator.load(import_run(tmp_path / "ckpt.pt", tokenizer=tmp_path).run).model
    assert model.config.dropout == 0.1
    token_ids = torch.randint(257, (2, 64))
    with torch.inference_mode():
        torch.testing.assert_close(model(token_ids), theirs(token_ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["GPT2", "Llama", "Qwen3"])
def test_an_imported_run_continues_a_text_as_transformers_does(kind: str, published: Published) -> None:
    theirs, folder = published(kind, **({"head_dim": 8} if kind == "Qwen3" else {}))
    imported = import_run(folder, name="mine")
    assert imported.parameters == sum(p.numel() for p in theirs.parameters())
    wanted = greedy_text(theirs, transformers.AutoTokenizer.from_pretrained(folder), 40)
    for generator in (Generator.load("mine"), Generator.load("mine").accelerated()):
        text = generator.generate(PROMPT, temperature=0, max_tokens=40)
        assert text == wanted.rstrip("\ufffd")  # transformers shows half of a character at the end


def test_the_commands_take_an_imported_run(published: Published, tmp_path: Path) -> None:
    _, folder = published("Llama")
    done = command("import", folder, "--name", "mine")
    assert done.exit_code == 0
    assert "a llama model" in done.stdout
    assert "gptscratch sample mine" in done.stdout
    (tmp_path / "text.txt").write_text("Once upon a time, the fox said it.\n" * 40)
    for arguments in (
        ("sample", "mine", "-p", PROMPT, "--max-tokens", 5),
        ("score", tmp_path / "text.txt", "--with", "mine"),
        ("train", tmp_path / "text.txt", "--init-from", "mine", "--steps", 1, "--name", "tuned", "--quiet"),
    ):
        assert command(*arguments).exit_code == 0, arguments
    assert str(folder) in command("info", "mine").stdout
    assert (
        json.loads(command("import", folder, "--force", "--name", "mine", "--json").stdout)["entries"] == 257
    )


def test_a_run_is_found_where_the_model_is_in_a_folder_of_the_same_name(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = published("Llama")
    monkeypatch.chdir(folder.parent)
    with pytest.raises(CheckpointError, match=r"llama is a model of another program.*import llama"):
        Generator.load("llama")
    run = import_run("llama").run
    assert Generator.load("llama").run == run


def test_an_imported_run_is_exported_with_the_same_tensors(published: Published, tmp_path: Path) -> None:
    for kind in ("GPT2", "Llama"):
        _, folder = published(kind)
        import_run(folder, name=kind)
        export(kind, tmp_path / f"{kind}-again", format="hf")
        first, again = (load_file(f / "model.safetensors") for f in (folder, tmp_path / f"{kind}-again"))
        assert first.keys() == again.keys()
        assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_number_format_of_the_weights_is_kept_if_a_run_can_have_it(
    dtype: torch.dtype, published: Published
) -> None:
    _, folder = published("Qwen3", dtype=dtype, head_dim=8)
    imported = import_run(folder)
    kept = torch.float32 if dtype == torch.float64 else dtype
    weights = load_file(find_checkpoint(imported.run)[1] / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {kept}
    assert imported.dtype == str(kept).removeprefix("torch.")
    model, wanted = Generator.load(imported.run).model, load_hf(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), wanted.parameters(), strict=True))


def test_all_tokens_that_end_a_text_are_kept(published: Published) -> None:
    _, folder = published("Llama")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 256]}))
    run = import_run(folder).run
    assert read_run(run).end_of_text == 256  # which is also the tokenizer's
    assert Generator.load(run).stop_ids == {5, 256}


@pytest.mark.parametrize("documents", [1, 2])
def test_what_ends_a_text_still_does_after_fine_tuning(
    documents: int, published: Published, tmp_path: Path
) -> None:
    _, folder = published("Llama")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 7]}))
    run = import_run(folder, name="mine").run
    texts = [tmp_path / f"{number}.txt" for number in range(documents)]
    for text in texts:
        text.write_text("Once upon a time, the fox said it.\n" * 40)
    train(texts, init_from="mine", name="tuned", steps=2, lora_rank=2, device="cpu")
    before, tuned = read_run(run), read_run(find_checkpoint("tuned")[0])
    assert before.ending_ids == (5, 7)
    assert tuned.ending_ids == ((5, 7) if documents == 1 else (256, 5, 7))
    assert tuned.imported is None
    assert Generator.load("tuned").ending_ids == set(tuned.ending_ids)
    exported = Path(export("tuned", tmp_path / "out", merge=True).folder)
    generation = json.loads((exported / "generation_config.json").read_text())
    assert generation["eos_token_id"] == list(tuned.ending_ids)
    assert generation["bos_token_id"] == tuned.end_of_text
    assert generation.get("suppress_tokens", []) == ([256] if documents == 1 else [])
    resume("tuned", steps=3)
    assert read_run(find_checkpoint("tuned")[0]).ending_ids == tuned.ending_ids


def test_ids_without_a_token_are_never_sampled(published: Published) -> None:
    theirs, folder = published("Llama", vocab_size=272)
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"][257:] = 50 * state["lm_head.weight"][:15]
    save_file(state, folder / "model.safetensors")
    generator = Generator.load(import_run(folder).run)
    text = generator.generate(PROMPT, max_tokens=50, seed=1)
    assert text
    assert max(generator.tokenizer.encode(text)) < 257 < theirs.config.vocab_size


def test_a_model_of_transformers_can_be_fine_tuned_directly(published: Published, corpus: Path) -> None:
    _, folder = published("GPT2")
    train = ("train", corpus, "--steps", 1, "--init-from", folder)
    first = command(*train, "--name", "one")
    assert "was imported as the run gpt2" in first.stderr
    one, imported = (read_run(find_checkpoint(name)[0]).config.model for name in ("one", "gpt2"))
    assert one.changed(dropout=imported.dropout) == imported
    assert "was imported" not in command(*train, "--name", "two").stderr
    os.utime(folder / "model.safetensors")  # the source changed
    assert "was imported as the run gpt2-2" in command(*train, "--name", "three").stderr


def test_the_model_card_names_the_models_that_fine_tuning_began_with(
    published: Published, corpus: Path, tmp_path: Path
) -> None:
    run = import_run(published("Llama")[1], name="mine").run
    record = json.loads((run / "config.json").read_text())
    for number, (place, name) in enumerate(
        (("hf:owner/model@0123", "owner/model"), ("/home/me/tiny", "tiny"))
    ):
        record["imported"]["source"] = place
        (run / "config.json").write_text(json.dumps(record))
        tuned, again = (f"{name}-{number}" for name in ("tuned", "again"))
        settings = {"steps": 1, "device": "cpu", "lora_rank": 2, "lora_targets": ("q", "v"), "dropout": 0.1}
        train(corpus, init_from="mine", name=tuned, r_drop=1.0, keep_file=str(corpus), **settings)
        train(corpus, init_from=find_checkpoint(tuned)[1], name=again, **settings)
        first, second = (
            Path(export(run, tmp_path / run, merge=True).folder, "README.md").read_text()
            for run in (tuned, again)
        )
        assert f"It was fine-tuned from mine (imported from {name})" in first
        assert f"It was fine-tuned from {tuned} (imported from {name})" in second
        assert ("base_model: owner/model\n" in first) == ("base_model" in second) == (number == 0)
        for fact in ("| LoRA of rank 2 for q, v, alpha 4 |", "| R-Drop | weight 1 |", "before fine-tuning)",
                     "| loss on a text to be kept |"):  # fmt: skip
            assert fact in first
        assert "/home/me" not in first
        assert "was not trained to answer questions" not in " ".join(first.split())


@pytest.mark.parametrize("has_file", [False, True])
def test_the_chat_template_and_the_names_of_special_tokens_are_exported_again(
    has_file: bool, published: Published, corpus: Path, tmp_path: Path
) -> None:
    _, folder = published("Llama")
    template = "{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}"
    names: dict[str, Any] = {"eos_token": {"content": "!"}, "pad_token": "?", "bos_token": "unknown"}
    if has_file:
        (folder / "chat_template.jinja").write_text(template)
    else:
        names["chat_template"] = [
            {"name": "other", "template": "x"},
            {"name": "default", "template": template},
        ]
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    import_run(folder, name="mine")
    train(corpus, init_from="mine", name="tuned", steps=1, device="cpu")
    for run in ("mine", "tuned"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(export(run, tmp_path / run).folder)
        assert (tokenizer.eos_token, tokenizer.pad_token) == ("!", "?")
        assert tokenizer.bos_token == "<|endoftext|>"
        assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi!"
    gguf = pytest.importorskip("gguf")
    fields = gguf.GGUFReader(f"{export('mine', tmp_path / 'g', format='gguf').folder}/model.gguf").fields
    assert bytes(fields["tokenizer.chat_template"].parts[-1]).decode() == template


def test_an_imported_run_has_no_training_to_resume(published: Published) -> None:
    import_run(published("Llama")[1], name="mine")
    with pytest.raises(CheckpointError, match="mine was imported: there is no training to continue"):
        resume("mine")
    done = command("sample", "mine", "-p", PROMPT, "--novelty")
    assert isinstance(done.exception, CheckpointError)


def test_a_text_that_the_model_has_no_tokens_for_is_refused(tmp_path: Path) -> None:
    nanogpt(tmp_path / "ckpt.pt", vocab_size=3)
    Tokenizer(build_tokenizer("char", [], alphabet="abc")).save(tmp_path / "tokenizer.json")
    import_run(tmp_path / "ckpt.pt", tokenizer=tmp_path / "tokenizer.json", name="abc")
    (tmp_path / "known.txt").write_text("abcab" * 200)
    (tmp_path / "other.txt").write_text("abc€" * 200)
    train = ("--init-from", "abc", "--steps", 1, "--name", "tuned", "--quiet")
    assert command("train", tmp_path / "known.txt", *train).exit_code == 0
    assert set(Generator.load("tuned").generate("a€", max_tokens=20)) <= set("abc")
    for corpus, message in (
        (["other.txt"], "tokens that the model's vocabulary lacks"),
        (["known.txt", "other.txt"], "no token for"),
    ):
        done = command("train", *(tmp_path / name for name in corpus), *train, "--force")
        assert isinstance(done.exception, ConfigError)
        assert message in str(done.exception)


def assert_refused(error: type[UserError], message: str, home: Path, *arguments: Any, **options: Any) -> None:
    """One clear error, and no run or temporary folder is left."""
    with pytest.raises(error, match=message):
        import_run(*arguments, **options)
    assert not list((home / "runs").rglob("*"))


def test_what_is_not_a_model_is_refused(home: Path, tmp_path: Path, published: Published) -> None:
    assert_refused(ConfigError, r"does not exist.*import hf:gpt/small", home, "gpt/small")
    (tmp_path / "empty").mkdir()
    assert_refused(ConfigError, "it has no config.json with a model_type", home, tmp_path / "empty")
    (tmp_path / "model.gguf").write_text("")
    assert_refused(ConfigError, "is not a ckpt.pt of nanoGPT", home, tmp_path / "model.gguf")
    _, folder = published("Llama")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"model_type": "mamba"}))
    assert_refused(ConfigError, "type 'mamba' cannot be imported.*GPT-2, Llama", home, folder)


class Command:
    """What runs a command where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def test_a_damaged_or_malicious_ckpt_pt_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, tokenizer = tmp_path / "ckpt.pt", tmp_path / "tokenizer.json"
    Tokenizer.of_bytes().save(tokenizer)
    nanogpt(file)
    assert_refused(TokenizerError, r"ckpt\.pt holds no tokenizer.*--tokenizer PATH", home, file)
    saved = torch.load(file, weights_only=True)
    content = file.read_bytes()
    arguments, state = saved["model_args"], saved["model"]
    cases: tuple[tuple[Any, str], ...] = (
        ({"model": state}, "it has no model_args or no model"),
        ([1, 2], "is not a checkpoint of nanoGPT"),
        ({"model_args": {}, "model": state}, "model_args lack vocab_size, block_size"),
        ({"model_args": arguments | {"use_rmsnorm": True}, "model": state}, "model_args have use_rmsnorm"),
        ({"model_args": arguments | {"n_embd": 64}, "model": state}, "has the shape"),
        ({"model_args": arguments, "model": {}}, "The weights lack transformer.wte.weight"),
        ({"model_args": arguments, "model": Command()}, "cannot be read"),
    )
    for value, message in cases:
        torch.save(value, file)
        assert_refused(UserError, message, home, file, tokenizer=tokenizer)
    for damaged in (b"", content[:1000], b"text" * 99):
        file.write_bytes(damaged)
        assert_refused(CheckpointError, r"ckpt\.pt cannot be read", home, file, tokenizer=tokenizer)
    assert not (tmp_path / "executed").exists()


def test_a_run_is_not_imported(tale: Path) -> None:
    with pytest.raises(ConfigError, match="is a run of gptscratch"):
        import_run(tale)


def test_damaged_weights_leave_nothing(home: Path, published: Published) -> None:
    _, folder = published("Llama")
    file = folder / "model.safetensors"
    state = load_file(file)
    bad = state["model.norm.weight"].clone()
    bad[0] = float("nan")
    save_file(state | {"model.norm.weight": bad}, file)
    assert_refused(CheckpointError, r"not finite \(final_norm.weight\)", home, folder)
    file.write_bytes(b"\xff" * 64)
    assert_refused(CheckpointError, "is damaged or missing", home, folder)
    file.unlink()
    assert_refused(CheckpointError, "has no weights", home, folder)


def test_a_tokenizer_that_does_not_fit_is_refused(home: Path, published: Published, tmp_path: Path) -> None:
    _, folder = published("Llama")
    large = Tokenizer(build_tokenizer("bpe", ["abc abd " * 9], alphabet="", vocab_size=259))
    large.save(tmp_path / "tokenizer.json")
    assert_refused(TokenizerError, "has 259 entries.*has 257", home, folder, tokenizer=tmp_path)
    small = Tokenizer(build_tokenizer("char", [], alphabet="abc"))
    small.save(tmp_path / "tokenizer.json")
    assert_refused(TokenizerError, "has 5 entries.*has 257", home, folder, tokenizer=tmp_path)
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    assert_refused(TokenizerError, r"has no tokenizer.json.*--tokenizer PATH", home, folder)
    (folder / "merges.txt").write_text("a b")  # GPT-2's files describe no other way to split a text
    assert_refused(TokenizerError, r"has no tokenizer.json", home, folder)


def test_an_existing_run_is_replaced_only_with_force(published: Published, tale: Path) -> None:
    _, folder = published("Llama")
    with pytest.raises(ConfigError, match="The run tale exists already"):
        import_run(folder, name="tale")
    assert read_run(tale).imported is None
    assert read_run(import_run(folder, name="tale", replace=True).run).imported is not None
    assert sorted(path.name for path in tale.parent.iterdir()) == ["tale"]


def test_a_full_disk_leaves_nothing(
    home: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = published("Llama")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert_refused(RunError, "No space left on device", home, folder)
