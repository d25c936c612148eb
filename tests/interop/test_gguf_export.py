"""GGUF files: what they contain, and the same logits, texts and token ids in llama.cpp.

The tests of llama.cpp need llama-cpp-python, which pip compiles: ``pip install llama-cpp-python``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import models, normalizers

from gptscratch.config import ModelConfig
from gptscratch.errors import ConfigError, MissingExtraError, TokenizerError
from gptscratch.generation.generate import generate
from gptscratch.generation.generator import load
from gptscratch.interop.export import export
from gptscratch.interop.gguf_vocabulary import vocabulary
from gptscratch.tokenizer import Tokenizer, build_tokenizer
from gptscratch.tokenizer.bulk import LLAMA3, QWEN2
from gptscratch.tokenizer.train import byte_values

from .conftest import GPT2, ODD_TEXTS, SHAPES, TEXT, made

gguf = pytest.importorskip("gguf")
Runs = Callable[..., Path]
# llama.cpp looks up gelu in a table of float16 numbers.
DIFFERENCE = {"gpt2": 5e-2, "qwen3": 1e-4, "llama": 1e-4}
# What llama.cpp calls the modules of a GPT; several of them are one tensor there.
MODULES = {
    "token_embd": "token_embedding", "position_embd": "position_embedding",
    "output_norm": "final_norm", "output": "lm_head",
    "attn_norm": "norm_attention", "attn_q": "attention.q", "attn_k": "attention.k", "attn_v": "attention.v",
    "attn_qkv": "attention.q attention.k attention.v", "attn_q_norm": "attention.norm_q",
    "attn_k_norm": "attention.norm_k", "attn_output": "attention.out",
    "ffn_norm": "norm_mlp", "ffn_up": "mlp.up", "ffn_gate": "mlp.gate", "ffn_down": "mlp.down",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def opened(folder: str) -> Any:
    """The file in llama.cpp, with keys and values in float32."""
    llama_cpp = pytest.importorskip("llama_cpp")
    return llama_cpp.Llama(
        f"{folder}/model.gguf", n_ctx=256, n_batch=256, n_threads=1, n_threads_batch=1, logits_all=True,
        type_k=0, type_v=0, verbose=False,
    )  # fmt: skip


def logits_of(llama: Any, token_ids: list[int]) -> torch.Tensor:
    llama.reset()
    llama.eval(token_ids)
    return torch.tensor(np.array(llama.scores[: len(token_ids)]))


def dequantized(folder: str) -> dict[str, NDArray[Any]]:
    """The tensors of the file in float32."""
    tensors = gguf.GGUFReader(f"{folder}/model.gguf").tensors
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in tensors}


def in_halves(rows: NDArray[Any], head_dim: int) -> NDArray[Any]:
    """Rows of a head in which rotary pairs are next to each other: back to two halves."""
    return rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def stored(folder: str, family: str, config: ModelConfig) -> dict[str, NDArray[Any]]:
    """The parameters of a file by the model's own names, their rows in its order."""
    found = {}
    for name, array in dequantized(folder).items():
        *block, module, kind = name.split(".")
        if name == "rope_freqs.weight":
            continue
        if family == "llama" and module in ("attn_q", "attn_k"):
            array = in_halves(array, config.head_dim)
        own = [".".join([*block, part, kind]).replace("blk.", "blocks.") for part in MODULES[module].split()]
        found |= zip(own, np.split(array, len(own)), strict=True)
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_the_tensors_of_a_file_are_the_parameters_of_the_run(shape: str, byte_run: Runs) -> None:
    model = load(byte_run(shape), device="cpu").model
    found = stored(export(format="gguf").folder, shape.split(",")[0], model.config)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(found.pop(name), parameter.detach().numpy(), err_msg=name)
    assert all(name.endswith("bias") and not array.any() for name, array in found.items())
    assert bool(found) == (shape == "gpt2, untied and without biases")  # a gpt2 of llama.cpp has all of them


@pytest.mark.parametrize("shape", SHAPES)
def test_tensors_of_8_bits_are_near_the_parameters_of_the_run(shape: str, byte_run: Runs) -> None:
    model = load(byte_run(shape), device="cpu").model
    exported = export(format="gguf", quantize="q8_0")
    found = stored(exported.folder, shape.split(",")[0], model.config)
    for name, parameter in model.named_parameters():
        wanted = parameter.detach().numpy()
        close = 0.0 if wanted.ndim == 1 else np.abs(wanted).max() / 127
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=close, err_msg=name)
    assert exported.files["model.gguf"] < export(format="gguf", folder="f32").files["model.gguf"]


def test_the_factors_of_rescaled_rotary_frequencies_are_those_of_llama_3(byte_run: Runs) -> None:
    config = load(byte_run("llama, rescaled"), device="cpu").model.config
    factor, low, high, length = config.rope_scaling
    wanted = []
    for i in range(config.head_dim // 2):
        turns = length * config.rope_theta ** (-2 * i / config.head_dim) / (2 * np.pi)  # in the old context
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        wanted.append(1 / ((1 - smooth) / factor + smooth))
    found = dequantized(export(format="gguf").folder)["rope_freqs.weight"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert len(set(found.round(4))) > 1


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_over_a_whole_context_are_those_of_llama_cpp(shape: str, byte_run: Runs) -> None:
    model = load(byte_run(shape), device="cpu").model
    token_ids = torch.randint(256, (256,))
    with torch.no_grad():
        wanted = model(token_ids[None])[0]
    found = logits_of(opened(export(format="gguf").folder), token_ids.tolist())
    assert wanted.abs().max() > 1
    torch.testing.assert_close(found, wanted, rtol=0, atol=DIFFERENCE[shape.split(",")[0]])


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_100_greedy_tokens_and_all_token_ids_are_those_of_llama_cpp(
    kind: str, family: str, random_run: Runs
) -> None:
    tokenizer = made(kind)
    gpt = load(random_run(tokenizer, context_length=256, **SHAPES[family]), device="cpu")
    llama = opened(export(format="gguf").folder)
    unknown = [i for i in (tokenizer.unk_id, tokenizer.eot_id) if i is not None]
    prompt = tokenizer.encode("Once upon")
    found = [token for token, _ in zip(llama.generate(prompt, temp=0.0), range(100), strict=False)]
    assert found == [*generate(gpt.model, prompt, banned_ids=unknown, max_tokens=100, temperature=0)]
    for text in filter(None, ODD_TEXTS):
        if "\0" not in text:
            for special in (False, True):
                wanted = [i for i in tokenizer.encode(text, specials=special) if i != tokenizer.unk_id]
                assert llama.tokenize(text.encode(), add_bos=False, special=special) == wanted, text
            assert llama.detokenize(wanted, special=True).decode() == tokenizer.decode(
                wanted, skip_special=False
            )


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
@pytest.mark.parametrize(
    ("quantize", "close"), [("f16", 1e-3), ("bf16", 1e-2), ("q8_0", 1e-2), ("q4_0", 0.3)]
)
def test_perplexity_with_narrower_numbers_is_close(
    quantize: str, close: float, family: str, random_run: Runs
) -> None:
    tokenizer = made("bpe")
    model = load(random_run(tokenizer, context_length=256, d_model=64, **SHAPES[family]), device="cpu").model
    exported = export(format="gguf", quantize=quantize)
    token_ids = tokenizer.encode(TEXT)[:256]
    with torch.no_grad():
        logits = model(torch.tensor([token_ids]))[0]
    likely = logits.argmax(-1)
    wanted = F.cross_entropy(logits, likely).item()
    found = F.cross_entropy(logits_of(opened(exported.folder), token_ids), likely).item()
    assert found == pytest.approx(wanted, abs=close)
    assert exported.files["model.gguf"] < export(format="gguf", folder="f32").files["model.gguf"]


@pytest.mark.parametrize("has_documents", [False, True])
def test_the_file_names_the_tokens_that_llama_cpp_needs(has_documents: bool, random_run: Runs) -> None:
    tokenizer = made("char")
    end = tokenizer.eot_id
    random_run(tokenizer, vocab_size=70, end_of_text=end if has_documents else None)
    fields = gguf.GGUFReader(f"{export(format='gguf').folder}/model.gguf").fields
    key = "tokenizer.ggml."
    assert fields[key + "eos_token_id"].contents() == fields[key + "bos_token_id"].contents() == end
    assert fields[key + "add_bos_token"].contents() is False
    assert fields[key + "pre"].contents() == "gpt-2"
    types = fields[key + "token_type"].contents()
    assert len(types) == len(fields[key + "tokens"].contents()) == 70
    assert [i for i, kind in enumerate(types) if kind == 3] == [end]
    untrained = {tokenizer.unk_id, *range(tokenizer.vocab_size, 70), *(() if has_documents else (end,))}
    assert set(fields[key + "suppress_tokens"].contents()) == untrained
    assert fields["general.architecture"].contents() == "qwen3"


def test_a_token_that_the_tokenizer_puts_before_each_text_is_added_by_llama_cpp(random_run: Runs) -> None:
    file = random_run(made("bpe")) / "tokenizer.json"
    begin = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}]}
    names = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
    spec = json.loads(file.read_text(encoding="utf-8"))
    spec["post_processor"] = {**template, "pair": template["single"], "special_tokens": names}
    file.write_text(json.dumps(spec), encoding="utf-8")
    fields = gguf.GGUFReader(f"{export(format='gguf').folder}/model.gguf").fields
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True
    assert fields["tokenizer.ggml.bos_token_id"].contents() == 0


@pytest.mark.parametrize("text", ["no line end", "\n"])
def test_small_and_filled_vocabularies_load_in_llama_cpp(text: str, random_run: Runs) -> None:
    tokenizer = Tokenizer(build_tokenizer("char", [], alphabet=text))
    random_run(tokenizer, vocab_size=37)
    ids = opened(export(format="gguf").folder).tokenize(text.encode(), add_bos=False)
    assert ids == tokenizer.encode(text)


def test_the_modelfile_passes_the_prompt_unchanged(byte_run: Runs) -> None:
    byte_run("qwen3")
    lines = (Path(export(format="gguf").folder) / "Modelfile").read_text().splitlines()
    assert lines[:3] == ["FROM ./model.gguf", 'TEMPLATE """{{ .Prompt }}"""', "PARAMETER num_ctx 256"]


def test_the_characters_of_a_vocabulary_are_merged_from_their_bytes() -> None:
    library = build_tokenizer("char", [], alphabet="aé€")
    found = vocabulary(Tokenizer(library), 6)
    assert found.tokens == ["a", "Ã©", "â\u0124¬", "<|endoftext|>", "<unused4>", "<unused5>"]
    assert found.merges == ["Ã ©", "â \u0124", "â\u0124 ¬"]


def changed(**parts: Any) -> Tokenizer:
    """A BPE with other parts."""
    spec = json.loads(made("bpe").library.to_str())
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(spec | parts)))


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"normalizer": {"type": "Lowercase"}}, r"does not change text before tokenization \(Lowercase\)"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "does not know the pattern by which it splits"),
    ],
)
def test_a_tokenizer_that_llama_cpp_lacks_is_refused_with_the_reason(parts: Any, why: str) -> None:
    with pytest.raises(TokenizerError, match=why):
        vocabulary(changed(**parts), 333)


def llama2_tokenizer(merges: list[tuple[str, str]]) -> Tokenizer:
    """A tokenizer as in the tokenizer.json of Llama 2: characters, bytes, and what the merges make."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abc"]
    tokens += dict.fromkeys(map("".join, merges))
    vocab = {token: i for i, token in enumerate(tokens)}
    library = tokenizers.Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>"))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(library)


MERGES = [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c"), ("▁", "ab")]


def test_sentencepiece_is_stored_with_scores() -> None:
    found = vocabulary(llama2_tokenizer(MERGES), 270)
    assert found.model == "llama"
    assert dict(zip(found.tokens[263:], found.scores[263:], strict=True)) == {
        "bc": 0, "ab": -1, "abc": -2, "▁ab": -4, "<unused267>": 0, "<unused268>": 0, "<unused269>": 0,
    }  # fmt: skip
    assert [found.types[i] for i in (0, 1, 3, 258, 259, 267)] == [2, 3, 6, 6, 1, 5]
    one_is_missing, other_order = [*MERGES[:3], MERGES[4]], [*MERGES[:2], MERGES[3], MERGES[4], MERGES[2]]
    for merges in (one_is_missing, other_order):
        with pytest.raises(TokenizerError, match="not those of SentencePiece"):
            vocabulary(llama2_tokenizer(merges), 270)


def test_ids_of_sentencepiece_are_those_of_llama_cpp(random_run: Runs) -> None:
    tokenizer = llama2_tokenizer(MERGES)
    random_run(tokenizer, end_of_text=2)
    llama = opened(export(format="gguf").folder)
    for text in filter(None, (*ODD_TEXTS, "abc ab  cab", " ab", "aabcc\nbc")):
        if "\0" not in text:
            assert llama.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text), text


def test_a_tokenizer_without_an_end_of_text_is_refused() -> None:
    tokenizer = Tokenizer(tokenizers.Tokenizer(models.BPE(byte_values(), [])))
    with pytest.raises(TokenizerError, match="no end-of-text token"):
        vocabulary(tokenizer, 256)


def test_what_llama_cpp_cannot_represent_is_refused(random_run: Runs) -> None:
    random_run(made("word"))
    with pytest.raises(TokenizerError, match="no tokenizer of the kind word"):
        export(format="gguf")
    random_run(made("byte"), **GPT2 | {"activation": "gelu"})
    with pytest.raises(ConfigError, match="cannot represent activation = gelu"):
        export(format="gguf")
    random_run(made("byte"), rope_scaling=(8.0, 1.0, 4.0, 64.0))
    with pytest.raises(ConfigError, match="qwen3 model cannot represent rope_scaling"):
        export(format="gguf")
    assert [*Path().glob("random*")] == []


def test_special_tokens_without_an_embedding_are_left_out() -> None:
    library = build_tokenizer("byte", [TEXT], alphabet="")
    size = library.get_vocab_size(with_added_tokens=True)
    library.add_special_tokens(["<pad>"])
    found = vocabulary(Tokenizer(library), size)
    assert len(found.tokens) == len(found.types) == size
    assert "<pad>" not in found.tokens
    with pytest.raises(TokenizerError, match=f"the id {size - 1}, and the model has {size - 1} tokens"):
        vocabulary(Tokenizer(library), size - 1)


def test_a_missing_package_is_named(byte_run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    byte_run("qwen3")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match="pip install gguf"):
        export(format="gguf")


@pytest.mark.parametrize(("pattern", "name"), [(LLAMA3, "llama-bpe"), (QWEN2, "qwen2")])
def test_published_split_patterns_are_named(pattern: str, name: str) -> None:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer = changed(pre_tokenizer={"type": "Sequence", "pretokenizers": [split, level]})
    assert vocabulary(tokenizer, 333).pre_tokenizer == name
