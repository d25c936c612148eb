"""Models that transformers saved: the same logits here, and what cannot be represented is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptscratch.errors import CheckpointError, ConfigError
from gptscratch.interop import hf_import
from gptscratch.interop.hf_import import config_from_hf, from_hf, load_hf, read_hf

transformers = pytest.importorskip("transformers")

SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 16}  # fmt: skip
LLAMA3 = {"rope_theta": 5e5, "rope_scaling": SCALING}  # as in transformers 4; 5 makes one object of both
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {}),
    "gpt2, untied, exact gelu": ("GPT2", {"tie_word_embeddings": False, "activation_function": "gelu"}),
    "gpt2, narrow, other eps": ("GPT2", {"n_inner": 40, "layer_norm_epsilon": 1e-3}),
    "llama 2": ("Llama", {"num_key_value_heads": 4}),
    "llama 3": ("Llama", {**LLAMA3, "rms_norm_eps": 1e-5}),
    "llama, tied, one kv head": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "llama, other head_dim": ("Llama", {"head_dim": 12}),
    "llama, with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral, window as long as the context": ("Mistral", {"sliding_window": 64, "head_dim": 16}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3, tied": ("Qwen3", {"head_dim": 8, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
}


def assert_same(model: torch.nn.Module, theirs: Any) -> None:
    """Equal logits over the whole context."""
    token_ids = torch.randint(theirs.config.vocab_size, (2, 64))
    with torch.inference_mode():
        wanted, found = theirs(token_ids).logits, model(token_ids)
    assert wanted.abs().max() > 1
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_gives_the_logits_of_transformers(name: str, published: Callable[..., Any]) -> None:
    kind, changes = FAMILIES[name]
    theirs, folder = published(kind, **changes)
    assert_same(load_hf(folder), theirs)
    assert_same(from_hf(theirs.config.to_dict(), theirs.state_dict()), theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_any_floating_point_type_is_read(dtype: torch.dtype, published: Callable[..., Any]) -> None:
    _, folder = published("Llama", dtype=dtype)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert_same(load_hf(folder), theirs)


def test_weights_in_parts_are_read_by_their_index(published: Callable[..., Any]) -> None:
    theirs, folder = published("Qwen3", shards="20KB", head_dim=8)
    assert len(list(folder.glob("*.safetensors"))) > 3
    assert_same(load_hf(folder), theirs)


def test_a_loaded_model_can_be_changed_without_changing_its_file(published: Callable[..., Any]) -> None:
    _, folder = published("Llama")
    before = (folder / "model.safetensors").read_bytes()
    model = load_hf(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert (folder / "model.safetensors").read_bytes() == before


def test_gpt2_files_without_prefix_and_with_masks_are_read(published: Callable[..., Any]) -> None:
    theirs, folder = published("GPT2")
    state = load_file(folder / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    old["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    save_file(old, folder / "model.safetensors")
    assert_same(load_hf(folder), theirs)


def test_rotary_settings_are_read_in_the_form_of_either_version(published: Callable[..., Any]) -> None:
    theirs, folder = published("Llama", **LLAMA3)
    values = json.loads((folder / "config.json").read_text())
    values = {name: value for name, value in values.items() if not name.startswith("rope_")}
    for form in (LLAMA3, {"rope_parameters": {"rope_theta": 5e5, **SCALING}}):
        (folder / "config.json").write_text(json.dumps(values | form))
        assert_same(load_hf(folder), theirs)


def test_fields_that_config_json_lacks_are_those_of_transformers() -> None:
    for kind, defaults in hf_import._DEFAULTS.items():
        config = transformers.AutoConfig.for_model(kind)
        for name, value in defaults.items():
            assert getattr(config, name) == value, (kind, name)
        accepted = {name: values[0] for name, values in hf_import._READABLE[kind].items()}
        for name, value in accepted.items():
            assert getattr(config, name, value) == value, (kind, name)


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("llama", {"model_type": "bert"}, "type 'bert' cannot be imported"),
        ("llama", {"model_type": None}, "type None cannot be imported"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ("llama", {"attention_bias": True}, "attention_bias without mlp_bias"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config = an object"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "type 'yarn'"),
        ("llama", {"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "type 'linear'"),
        ("llama", {"rope_parameters": {"rope_type": "llama3"}}, "lack factor, low_freq_factor"),
        ("llama", {"layer_types": ["full_attention", "sliding_attention"]}, "'sliding_attention'"),
        ("llama", {"hidden_size": "wide"}, "hidden_size in config.json is 'wide'"),
        ("llama", {"hidden_size": -1}, "hidden_size in config.json is -1"),
        ("llama", {"vocab_size": None}, "lacks vocab_size"),
        ("mistral", {"sliding_window": 4096}, "sliding_window = 4096, shorter than the context"),
        ("mistral", {}, "sliding_window = 4096"),  # what transformers takes for a missing field
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window = True"),
        ("qwen3", {"attention_bias": True}, "attention_bias = True"),
        ("gpt2", {"activation_function": "silu"}, "activation_function = 'silu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
    ],
)
def test_what_gpt_lacks_is_refused_by_name(kind: str, changes: dict[str, Any], named: str) -> None:
    values = transformers.AutoConfig.for_model(kind).to_dict()
    values = {name: value for name, value in values.items() if name != "sliding_window"}
    with pytest.raises(ConfigError, match=named):
        config_from_hf(values | changes)


def test_missing_unknown_and_misshapen_tensors_are_named(published: Callable[..., Any]) -> None:
    theirs, _ = published("Llama")
    values, state = theirs.config.to_dict(), theirs.state_dict()
    short = {name: tensor for name, tensor in state.items() if name != "model.norm.weight"}
    with pytest.raises(CheckpointError, match=r"lack model\.norm\.weight"):
        from_hf(values, short)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has the shape \[3\].* for \[32\]"):
        from_hf(values, short | {"model.norm.weight": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is of type int8: quantized"):
        from_hf(values, short | {"model.norm.weight": torch.ones(32, dtype=torch.int8)})
    name = "model.layers.0.self_attn.q_proj.bias"
    with pytest.raises(CheckpointError, match=f"not known in a model of type llama: {name}"):
        from_hf(values, state | {name: torch.ones(32)})


def test_a_tied_model_with_another_lm_head_is_refused(published: Callable[..., Any]) -> None:
    theirs, _ = published("Llama", tie_word_embeddings=True)
    state = theirs.state_dict()
    assert_same(from_hf(theirs.config.to_dict(), state), theirs)
    with pytest.raises(CheckpointError, match="a different lm_head"):
        from_hf(theirs.config.to_dict(), state | {"lm_head.weight": state["lm_head.weight"] + 1})


def test_missing_and_damaged_files_are_named(published: Callable[..., Any]) -> None:
    _, folder = published("Llama", shards="20KB")
    first, second = sorted(folder.glob("model-*.safetensors"))[:2]
    content = first.read_bytes()
    for damaged in (b"", b"\x00" * 20, b"\xff" * 100, content[: len(content) // 2]):
        first.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{first.name} is damaged or missing"):
            read_hf(folder)
    first.write_bytes(content)
    second.unlink()
    with pytest.raises(CheckpointError, match=f"{second.name} is damaged or missing"):
        read_hf(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}))
    with pytest.raises(CheckpointError, match="must name files in the same folder"):
        read_hf(folder)


def test_a_folder_without_weights_or_config_is_refused(tmp_path: Path, published: Callable[..., Any]) -> None:
    _, folder = published("Llama")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing; its \.bin files are pickles"):
        read_hf(folder)
    with pytest.raises(ConfigError, match=r"config\.json does not exist"):
        read_hf(tmp_path / "nowhere")
