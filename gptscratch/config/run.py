"""A run's settings together: given by name, converted to the type of their field, read from JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gptscratch.config.data import DataConfig
from gptscratch.config.model import ModelConfig
from gptscratch.config.setting import RUN, Setting, setting, settings_of
from gptscratch.config.train import TrainConfig
from gptscratch.errors import ConfigError, did_you_mean, listed, require

SECTIONS: Mapping[str, type] = MappingProxyType(
    {"model": ModelConfig, "data": DataConfig, "train": TrainConfig}
)
_OLD_NAMES = {
    "data.column": "data.text_column",
    "data.errors": "data.encoding_errors",
    "train.keep": "train.keep_checkpoints",
    "train.micro_batch": "train.micro_batch_size",
    "train.schedule": "train.lr_schedule",
    "train.warmup": "train.warmup_steps",
}  # of settings in runs of format 1
_LARGEST = 1 << 24  # bytes of a JSON file


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All of a run: what its config.json records."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    name: str | None = setting(None, RUN, "Name of the run.", default_is="from the corpus's name")

    def with_settings(self, settings: Mapping[str, Any]) -> RunConfig:
        """A copy with fields changed by name: ``{"n_layer": 6, "data.vocab_size": 4096}``.

        Raises:
            ConfigError: as ``qualified``, or a value that is out of range.
        """
        parts: dict[str, dict[str, Any]] = {section: {} for section in ("", *SECTIONS)}
        for key, value in qualified(settings).items():
            section, _, name = key.rpartition(".")
            parts[section][name] = value
        return RunConfig(
            model=self.model.changed(**parts["model"]),
            data=dataclasses.replace(self.data, **parts["data"]),
            train=dataclasses.replace(self.train, **parts["train"]),
            name=parts[""].get("name", self.name),
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Build from nested sections, as ``to_dict`` writes them, with any part left out.

        Runs of format 1 had other names, and 0, -1 or an empty text for what was not given.
        """
        settings = {_OLD_NAMES.get(key, key): value for key, value in flattened(values).items()}
        known = all_settings()
        for key in settings.keys() & known.keys():
            value, each = settings[key], known[key]
            if each.default is None and (value == "" or (value in (0, -1) and each.problem(value))):
                del settings[key]
        return cls().with_settings(settings)


def qualified(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by full name, their values in the type of the field: ``{"model.n_layer": 6}``.

    A bare name may belong to one section only; ``section.name`` is always clear.
    Strings are read as JSON where the field is not itself a string (the ``--set`` flag).

    Raises:
        ConfigError: an unknown or ambiguous name, or a value of the wrong kind.
    """
    known, found = all_settings(), {}
    for key, value in settings.items():
        name = _full_name(key)
        found[name] = known[name].parse(value, key)
    return found


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"model": {"n_layer": 6}, "name": "x"}`` -> ``{"model.n_layer": 6, "name": "x"}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in SECTIONS:
            require(isinstance(value, Mapping), f'"{key}" of a config must be an object.')
            flat.update({f"{key}.{name}": part for name, part in value.items()})
        else:
            flat[key] = value
    return flat


def read_json(path: Path, *, may_be_pipe: bool = False) -> dict[str, Any]:
    """Read a JSON object written by a user or by us.

    Args:
        may_be_pipe: what is not a regular file is read too; else it is refused, for it may never end.

    Raises:
        ConfigError: the file is missing, not JSON, not an object, or larger than 16 MiB.
    """
    try:
        if not (may_be_pipe or path.is_file()) and path.exists():
            raise OSError("it is not a regular file")
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        require(len(data) <= _LARGEST, f"{path} is larger than {_LARGEST:,} bytes.")
        values = json.loads(data.decode())
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{path} cannot be read as JSON: {reason}.") from None
    require(isinstance(values, dict), f"{path} must hold a JSON object.")
    return dict(values)


@cache
def all_settings() -> dict[str, Setting]:
    """Every setting of a run by full name: ``model.n_layer``, ``name``."""
    sections = {f"{s}.{n}": each for s, cls in SECTIONS.items() for n, each in settings_of(cls).items()}
    return {**sections, **settings_of(RunConfig)}


def _full_name(key: str) -> str:
    """``"n_layer"`` or ``"model.n_layer"`` -> ``"model.n_layer"``.

    Raises:
        ConfigError: there is none of this name, or more than one.
    """
    known = all_settings()
    names = [name for name in known if key in (name, name.rpartition(".")[2])]
    if len(names) == 1:
        return names[0]
    require(not names, f"{key} is ambiguous.", f"Write {' or '.join(names)}.")
    bare = sorted(each.name for each in known.values())
    by_flag = {flag.strip("-").replace("-", "_"): each.name for each in known.values() for flag in each.flags}
    name = key.rpartition(".")[2]
    near = did_you_mean(by_flag.get(name, name), bare) or f"Some of them: {listed(bare)}."
    raise ConfigError(f"There is no setting {key!r}.", f"{near} All of them are in docs/config.md.")
