"""The data behind ``gptscratch info``: plain frozen dataclasses, JSON by ``dataclasses.asdict``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gptscratch import sizing
from gptscratch.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Part:
    """A module with its parts, or (with a shape) one parameter."""

    name: str  # the last part of the dotted name; empty for the whole model
    shape: tuple[int, ...] | None
    parameters: int  # of it and all below
    children: tuple[Part, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What a model is and costs. Bytes and FLOPs; the costs are at full context length."""

    config: ModelConfig
    parameters: int
    non_embedding_parameters: int  # blocks and final norm
    counts: sizing.ParameterCounts
    architecture: Part
    forward_flops_per_token: int
    training_flops_per_token: int
    training_memory: sizing.TrainingMemory  # Muon, float32, micro_batch sequences at once
    training_memory_bytes: int
    sampling_memory: sizing.SamplingMemory  # float32, one text
    sampling_memory_bytes: int
    micro_batch: int


def describe_model(config: ModelConfig, *, micro_batch: int = 1) -> ModelDescription:
    """Describe a model from its config alone; ``micro_batch`` sequences train at once."""
    config = config.resolved()
    counts = sizing.count_parameters(config)
    training = sizing.memory_to_train(config, micro_batch=micro_batch)
    sampling = sizing.memory_to_sample(config)
    return ModelDescription(
        config=config,
        parameters=counts.total,
        non_embedding_parameters=counts.non_embedding,
        counts=counts,
        architecture=architecture(config),
        forward_flops_per_token=sizing.forward_flops_per_token(config),
        training_flops_per_token=sizing.training_flops_per_token(config),
        training_memory=training,
        training_memory_bytes=training.total,
        sampling_memory=sampling,
        sampling_memory_bytes=sampling.total,
        micro_batch=micro_batch,
    )


def architecture(config: ModelConfig) -> Part:
    """The model's parameters as a tree, in the order of the torch model's ``named_parameters``."""
    return _part("", sizing.parameter_shapes(config))


def _part(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Part:
    """``shapes`` by dotted name below this part; the empty name is the part itself."""
    if "" in shapes:
        return Part(name=name, shape=shapes[""], parameters=math.prod(shapes[""]))
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, shape in shapes.items():
        head, _, rest = path.partition(".")
        groups.setdefault(head, {})[rest] = shape
    children = tuple(_part(head, group) for head, group in groups.items())
    return Part(
        name=name, shape=None, parameters=sum(child.parameters for child in children), children=children
    )
