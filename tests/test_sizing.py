"""Closed forms against the real model, and the description that is built on them."""

import dataclasses
import itertools
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gptscratch.accelerate.training import accelerate_training
from gptscratch.config import ACTIVATIONS, NORMS, POSITIONS, ModelConfig, TrainConfig
from gptscratch.config.presets import PRESETS
from gptscratch.model.cache import KVCache
from gptscratch.model.gpt import GPT
from gptscratch.runs.summary import describe_model
from gptscratch.sizing import (
    count_parameters,
    forward_flops_per_token,
    kv_cache_bytes,
    memory_to_train,
    parameter_shapes,
    training_flops_per_token,
)
from gptscratch.training.replica import LowPrecisionReplica

SHAPES = [
    {"n_layer": 1, "n_head": 2, "d_model": 16, "vocab_size": 11, "context_length": 8},
    {"n_layer": 3, "n_head": 4, "n_kv_head": 2, "d_model": 32, "head_dim": 10, "d_ff": 50},
]
SWITCHES = list(itertools.product((False, True), repeat=3))
CONFIGS = [
    ModelConfig(position=p, norm=n, activation=a, qk_norm=q, bias=b, tie_embeddings=t, **shape)
    for p, n, a, (q, b, t), shape in itertools.product(POSITIONS, NORMS, ACTIVATIONS, SWITCHES, SHAPES)
]
CONFIGS += [
    ModelConfig(adaptive_cutoffs=cutoffs, output_bias=bias, **SHAPES[1])
    for cutoffs, bias in itertools.product(((), (3,), (2, 7)), (False, True))
]


def on_meta(config):
    with torch.device("meta"):
        return GPT(config)


def test_closed_form_counts_what_the_shapes_hold_for_every_option():
    for config in CONFIGS:
        shapes = parameter_shapes(config)
        assert count_parameters(config).total == sum(torch.Size(s).numel() for s in shapes.values())


def test_shapes_are_those_of_the_model_for_every_option():
    for config in [*CONFIGS[::7], *PRESETS.values()]:
        wanted = [(name, tuple(p.shape)) for name, p in on_meta(config).named_parameters()]
        assert list(parameter_shapes(config).items()) == wanted


def test_gpt2_presets_have_the_published_sizes():
    published = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168,
                 "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200}  # fmt: skip
    assert {name: count_parameters(PRESETS[name]).total for name in published} == published


def test_embeddings_and_the_head_are_counted_apart():
    for config in (PRESETS["gpt2"], PRESETS["mini"]):
        named = on_meta(config).named_parameters()
        blocks = sum(p.numel() for name, p in named if "embedding" not in name and "lm_head" not in name)
        assert count_parameters(config).non_embedding == blocks


@pytest.mark.parametrize("changes", [{}, {"n_kv_head": 2, "tie_embeddings": True}, {"activation": "gelu"}])
def test_flops_are_those_a_counter_sees(changes):
    config = dataclasses.replace(PRESETS["mini"], context_length=32, **changes)
    with torch.device("meta"):
        model, token_ids = GPT(config), torch.zeros(3, 32, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        logits = model(token_ids)
    assert counter.get_total_flops() == 3 * 32 * forward_flops_per_token(config)
    with FlopCounterMode(display=False) as counter:
        logits.sum().backward()
    backward = training_flops_per_token(config) - forward_flops_per_token(config)
    assert counter.get_total_flops() == 3 * 32 * backward


def test_kv_cache_bytes_are_those_of_the_cache():
    config = dataclasses.replace(PRESETS["mini"], n_kv_head=2)
    cache = KVCache(config, 3, dtype=torch.bfloat16)
    found = sum(tensor.nbytes for layer in cache.layers(0) for tensor in layer[:2])
    assert kv_cache_bytes(config, batch_size=3, dtype="bfloat16") == found


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_optimizer_bytes_are_those_of_the_optimizers_moments(optimizer):
    config = PRESETS["nano"]
    model = GPT(config)
    named = list(model.named_parameters())
    matrices = [p for name, p in named if name.startswith("blocks.") and p.dim() == 2]
    muon = matrices if optimizer == "muon" else []
    rest = [p for _, p in named if not any(p is m for m in muon)]
    optimizers = [torch.optim.AdamW(rest)] + ([torch.optim.Muon(muon)] if muon else [])
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    held = 0
    for each in optimizers:
        each.step()
        held += sum(t.nbytes for state in each.state.values() for t in state.values() if t.dim())
    memory = memory_to_train(config, optimizer=optimizer)
    assert memory.optimizer == held
    assert memory.weights == memory.gradients == 4 * count_parameters(config).total


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_processes_that_shard_a_model_have_a_part_of_everything_but_activations(optimizer):
    whole, part = (memory_to_train(PRESETS["gpt2"], optimizer=optimizer, shards=n) for n in (1, 4))
    for name in ("weights", "gradients", "optimizer"):
        assert 0 <= 4 * getattr(part, name) - getattr(whole, name) < 16
    assert part.activations > whole.activations  # the parameters that are gathered for a moment
    assert part.total < 0.75 * whole.total


@pytest.mark.parametrize(
    ("changes", "r_drop"),
    [
        ({}, 0.0),
        ({"dropout": 0.2}, 0.0),
        ({"dropout": 0.2}, 1.0),
        ({"dropout": 0.2, "n_kv_head": 2}, 0.0),
        ({"dropout": 0.2, "position": "alibi"}, 0.0),
        ({"tie_embeddings": True}, 0.0),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset", ["mini", "gpt2"])
def test_activation_bytes_are_near_what_autograd_saves(preset, dtype, changes, r_drop):
    shape = {"n_layer": 2, "context_length": 64, "vocab_size": 500}
    config = dataclasses.replace(PRESETS[preset], **shape | changes)
    model = accelerate_training(GPT(config))
    replica = LowPrecisionReplica(model, getattr(torch, dtype), r_drop=r_drop)
    own = {parameter.untyped_storage().data_ptr() for parameter in replica.model.parameters()}
    saved = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    token_ids = torch.randint(500, (4, 64))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = replica.loss(token_ids, token_ids)
    assert loss.isfinite()
    copies = 2 * sum(copied.nbytes for _, copied in replica.copies)  # and their gradients
    found = sum(saved.values()) + copies
    rows = 8 if r_drop else 4
    memory = memory_to_train(config, micro_batch_size=rows, dtype=dtype)
    assert memory.activations == pytest.approx(found, rel=0.1)


def test_a_description_becomes_json():
    description = describe_model(PRESETS["gpt2-xl"], TrainConfig(micro_batch_size=4))
    values = json.loads(json.dumps(dataclasses.asdict(description)))
    assert values["parameters"] == 1_557_611_200
    assert values["config"]["d_ff"] == 6400
    assert values["training_flops_per_token"] == 3 * values["forward_flops_per_token"]
