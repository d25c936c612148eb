"""Our models and Hugging Face's: the same numbers, both ways."""

import pytest
import torch
import torch.nn.functional as F

from gptscratch.config import ModelConfig
from gptscratch.errors import ConfigError
from gptscratch.interop.hf_export import to_hf
from gptscratch.interop.hf_import import from_hf
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
