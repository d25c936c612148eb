"""Every setting, once: frozen dataclasses whose fields carry their help, their flag and their range.

    setting.py   what a setting is: parsing, checks, help
    model.py   data.py   train.py   sample.py      the settings, a class each
    run.py       RunConfig: the first three together, by name and as JSON

A default is defined there and nowhere else. Options, help and reference pages are made from the fields.
"""

from gptscratch.config.data import CLEAN, DataConfig
from gptscratch.config.model import ACTIVATIONS, NARROWING, NORMS, POSITIONS, ModelConfig, require_cutoffs
from gptscratch.config.run import SECTIONS, RunConfig, all_settings, flattened, qualified, read_json
from gptscratch.config.sample import SampleConfig, sample_config
from gptscratch.config.train import LENGTHS, SCHEDULES, UNITS, TrainConfig

__all__ = [
    "ACTIVATIONS", "CLEAN", "LENGTHS", "NARROWING", "NORMS", "POSITIONS", "SCHEDULES", "SECTIONS", "UNITS",
    "DataConfig", "ModelConfig", "RunConfig", "SampleConfig", "TrainConfig", "all_settings",
    "flattened", "qualified", "read_json", "require_cutoffs", "sample_config",
]  # fmt: skip
