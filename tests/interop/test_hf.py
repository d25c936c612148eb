"""Our models and Hugging Face's: the same numbers, both ways."""

import json

import pytest
import torch
import torch.nn.functional as F

from gptscratch.config import ModelConfig
from gptscratch.errors import CheckpointError, ConfigError
from gptscratch.interop.hf_export import config_to_hf, to_hf
from gptscratch.interop.hf_import import config_from_hf, from_hf, load_hf
from gptscratch.model.gpt import GPT
from gptscratch.model.layout import padded_layout

transformers = pytest.importorskip("transformers")

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
MODERN = {}
GPT2 = {"position": "learned", "norm": "layernorm", "activation": "gelu-tanh", "qk_norm": False,
        "bias": True, "tie_embeddings": True, "norm_eps": 1e-5}  # fmt: skip
SHAPES = {
    "modern": MODERN,
    "modern, rescaled rotation": {"rope_scaling": (8.0, 1.0, 4.0, 8.0)},
    "modern, grouped and tied": {"n_kv_head": 2, "tie_embeddings": True, "head_dim": 12, "rope_theta": 5e5},
    "llama": {"qk_norm": False},
    "llama, grouped, with biases": {"qk_norm": False, "n_kv_head": 2, "head_dim": 12, "bias": True},
    "gpt2": GPT2,
    "gpt2, untied": GPT2 | {"tie_embeddings": False, "activation": "gelu", "d_ff": 40},
    "gpt2, without biases": GPT2 | {"bias": False, "activation": "relu"},
    "gpt2, sinusoidal": GPT2 | {"position": "sinusoidal", "activation": "relu2"},
    "gpt2, no positions": GPT2 | {"position": "none"},
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def shaken(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def tiny(**changes):
    base = {"vocab_size": 31, "context_length": 16, "n_layer": 2, "n_head": 4, "d_model": 32}
    return ModelConfig(**base | changes)


def theirs_of(model):
    values, state = to_hf(model)
    kind = getattr(transformers, values["architectures"][0])
    twin = kind(kind.config_class(**values)).eval()
    twin.load_state_dict(state | ({"lm_head.weight": model.lm_head.weight}), strict=True)
    return twin


def assert_same(model, theirs):
    token_ids = torch.randint(31, (3, 16))
    with torch.no_grad():
        wanted = theirs(token_ids, labels=token_ids)
        logits = model(token_ids)
    assert logits.abs().max() > 1
    torch.testing.assert_close(logits, wanted.logits, **CLOSE)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), token_ids[:, 1:].flatten())
    torch.testing.assert_close(loss, wanted.loss, **CLOSE)


@pytest.mark.parametrize("name", SHAPES)
def test_our_weights_give_their_model_our_logits_and_loss(name):
    model = shaken(GPT(tiny(**SHAPES[name])))
    assert_same(model, theirs_of(model))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_their_weights_give_our_model_their_logits_and_loss(family, tied):
    if family == "qwen3":
        config = transformers.Qwen3Config(
            vocab_size=31, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=16, tie_word_embeddings=tied,
            rope_parameters={"rope_type": "default", "rope_theta": 2000.0}, rms_norm_eps=1e-4,
        )  # fmt: skip
        theirs = transformers.Qwen3ForCausalLM(config)
    else:
        config = transformers.GPT2Config(
            vocab_size=31, n_positions=16, n_embd=32, n_layer=2, n_head=4, tie_word_embeddings=tied,
            layer_norm_epsilon=1e-4, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        theirs = transformers.GPT2LMHeadModel(config)
    shaken(theirs)
    assert_same(from_hf(config.to_dict(), theirs.state_dict()), theirs)  # GPT-2's config has dropout


@pytest.mark.parametrize("name", ["modern", "modern, grouped and tied", "gpt2", "gpt2, untied"])
def test_there_and_back_is_the_same_model(name):
    model = shaken(GPT(tiny(**SHAPES[name], dropout=0.1)))
    back = from_hf(*to_hf(model))
    assert back.config == model.config
    for (name, a), (other, b) in zip(model.named_parameters(), back.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert (back.lm_head.weight is back.token_embedding.weight) == model.config.tie_embeddings


def test_positions_and_padding_are_those_of_transformers():
    model = shaken(GPT(tiny(n_kv_head=2)))
    token_ids, mask = torch.randint(31, (2, 12)), torch.ones(2, 12, dtype=torch.long)
    mask[0, :4] = 0
    with torch.no_grad():
        wanted = theirs_of(model)(token_ids, attention_mask=mask).logits
        found = model(token_ids, layout=padded_layout(mask.bool()))
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], **CLOSE)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"position": "alibi"}, "qwen3 of other programs cannot represent position = alibi"),
        ({"activation": "gelu"}, "qwen3 of other programs cannot represent activation = gelu"),
        ({"bias": True}, "qwen3 of other programs cannot represent bias = True"),
        (GPT2 | {"n_kv_head": 2}, "gpt2 of other programs cannot represent n_kv_head = 2"),
        (GPT2 | {"head_dim": 10}, "gpt2 of other programs cannot represent head_dim = 10"),
        (GPT2 | {"norm": "rmsnorm"}, "gpt2 of other programs cannot represent norm = rmsnorm"),
    ],
)
def test_a_shape_without_counterpart_names_the_option_in_the_way(changes, named):
    with pytest.raises(ConfigError, match=named):
        to_hf(GPT(tiny(**changes)))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "bert"}, "'bert' cannot be read"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "'yarn'"),
    ],
)
def test_their_features_that_we_lack_are_refused_by_name(changes, named):
    with pytest.raises(ConfigError, match=named):
        config_from_hf(config_to_hf(tiny()) | changes)


def test_configs_from_before_transformers_5_are_read():
    config = tiny(rope_theta=5e5)
    values = config_to_hf(config)
    del values["rope_parameters"]
    assert config_from_hf(values) == config
    with pytest.raises(ConfigError, match="rope_scaling"):
        config_from_hf(values | {"rope_scaling": {"type": "linear", "factor": 2.0}})


def test_missing_and_misshapen_weights_are_named():
    values, state = to_hf(GPT(tiny()))
    short = {name: tensor for name, tensor in state.items() if name != "model.norm.weight"}
    with pytest.raises(CheckpointError, match=r"lack model\.norm\.weight"):
        from_hf(values, short)
    with pytest.raises(CheckpointError, match=r"final_norm\.weight has the shape \(3,\)"):
        from_hf(values, short | {"model.norm.weight": torch.ones(3)})
    with pytest.raises(ConfigError, match="lacks vocab_size"):
        from_hf({name: v for name, v in values.items() if name != "vocab_size"}, state)


def test_weights_in_several_files_and_a_damaged_file_are_distinguished(tmp_path):
    from safetensors.torch import save_file

    model = shaken(GPT(tiny()))
    values, state = to_hf(model)
    (tmp_path / "config.json").write_text(json.dumps(values))
    names = sorted(state)
    places = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: state[name] for name in names if places[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    token_ids = torch.randint(31, (1, 8))
    torch.testing.assert_close(load_hf(tmp_path)(token_ids), model(token_ids), **CLOSE)
    (tmp_path / "model-1.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors cannot be read"):
        load_hf(tmp_path)
