"""Every knob, once: frozen dataclasses with their units, their checks and JSON both ways.

    model.py   data.py   train.py   sample.py      the settings, a class each
    run.py         RunConfig: the first three together, by name and as JSON
    checks.py      what all of them use

A default stands there and nowhere else. Where a default is 0 and the comment names a rule,
0 means "not given": the model's zeros are filled by ``ModelConfig.resolved()``, all others by
the plan (``training/planner.py``), and a run's config.json holds the results.
"""

from gptscratch.config.data import CLEAN, DataConfig
from gptscratch.config.model import ACTIVATIONS, NARROWING, NORMS, POSITIONS, ModelConfig
from gptscratch.config.run import (
    SECTIONS,
    RunConfig,
    flattened,
    is_setting,
    qualified,
    read_json,
)
from gptscratch.config.sample import SampleConfig, SampleOptions, sample_config
from gptscratch.config.train import DEVICES, DOCUMENTS, DTYPES, OPTIMIZERS, SCHEDULES, TrainConfig

__all__ = [
    "ACTIVATIONS",
    "CLEAN",
    "DEVICES",
    "DOCUMENTS",
    "DTYPES",
    "NARROWING",
    "NORMS",
    "OPTIMIZERS",
    "POSITIONS",
    "SCHEDULES",
    "SECTIONS",
    "DataConfig",
    "ModelConfig",
    "RunConfig",
    "SampleConfig",
    "SampleOptions",
    "TrainConfig",
    "flattened",
    "is_setting",
    "qualified",
    "read_json",
    "sample_config",
]
