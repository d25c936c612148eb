"""Every setting, once: frozen dataclasses whose fields carry their help, their flag and their range.

    setting.py   what a setting is: parsing, checks, help
    model.py   data.py   train.py   sample.py      the settings, a class each
    run.py       RunConfig: the first three together, by name and as JSON

A default is defined there and nowhere else. Options, help and reference pages are made from the fields.
"""

from gptscratch.config.data import CLEAN as CLEAN
from gptscratch.config.data import DataConfig as DataConfig
from gptscratch.config.model import ACTIVATIONS as ACTIVATIONS
from gptscratch.config.model import NARROWING as NARROWING
from gptscratch.config.model import NORMS as NORMS
from gptscratch.config.model import POSITIONS as POSITIONS
from gptscratch.config.model import ModelConfig as ModelConfig
from gptscratch.config.model import require_cutoffs as require_cutoffs
from gptscratch.config.run import SECTIONS as SECTIONS
from gptscratch.config.run import RunConfig as RunConfig
from gptscratch.config.run import flattened as flattened
from gptscratch.config.run import qualified as qualified
from gptscratch.config.run import read_json as read_json
from gptscratch.config.sample import SampleConfig as SampleConfig
from gptscratch.config.sample import SampleOptions as SampleOptions
from gptscratch.config.sample import sample_config as sample_config
from gptscratch.config.train import DOCUMENTS as DOCUMENTS
from gptscratch.config.train import LENGTHS as LENGTHS
from gptscratch.config.train import SCHEDULES as SCHEDULES
from gptscratch.config.train import UNITS as UNITS
from gptscratch.config.train import TrainConfig as TrainConfig
