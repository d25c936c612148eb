"""A run's settings together: given by name, converted to the type of their field, read from JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gptscratch.config.checks import require
from gptscratch.config.data import DataConfig
from gptscratch.config.model import ModelConfig
from gptscratch.config.setting import RUN, Setting, setting, settings_of
from gptscratch.config.train import TrainConfig
from gptscratch.errors import ConfigError, did_you_mean, listed


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
        """Build from nested sections, as ``to_dict`` writes them, with any part left out."""
        return cls().with_settings(flattened(values))


SECTIONS: Mapping[str, type] = MappingProxyType(
    {"model": ModelConfig, "data": DataConfig, "train": TrainConfig}
)


def qualified(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by full name, their values in the type of the field: ``{"model.n_layer": 6}``.

    A bare name may belong to one section only; ``section.name`` is always clear.
    Strings are read as JSON where the field is not itself a string (the ``--set`` flag).

    Raises:
        ConfigError: an unknown or ambiguous name, or a value of the wrong kind.
    """
    found = {}
    for key, value in settings.items():
        name, setting = setting_named(key)
        found[name] = setting.parse(value, key)
    return found


OLD_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "data.column": "data.text_column",
        "data.errors": "data.encoding_errors",
        "train.keep": "train.keep_checkpoints",
        "train.micro_batch": "train.micro_batch_size",
        "train.schedule": "train.lr_schedule",
        "train.warmup": "train.warmup_steps",
    }
)  # of settings in files that earlier versions wrote


def _was_open(setting: Setting | None, value: Any) -> bool:
    """Whether this is the 0, -1 or empty text that earlier versions wrote for "not given"."""
    if setting is None or setting.default is not None or value not in (0, -1, "") or isinstance(value, bool):
        return False
    return value == "" or bool(setting.problem(value))


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"model": {"n_layer": 6}, "name": "x"}`` -> ``{"model.n_layer": 6, "name": "x"}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in SECTIONS:
            require(isinstance(value, Mapping), f'"{key}" of a config must be an object.')
            flat.update({f"{key}.{name}": part for name, part in value.items()})
        else:
            flat[key] = value
    named = {OLD_NAMES.get(key, key): value for key, value in flat.items()}
    known = {f"{s}.{n}": each for s, cls in SECTIONS.items() for n, each in settings_of(cls).items()}
    known["name"] = settings_of(RunConfig)["name"]
    return {key: value for key, value in named.items() if not _was_open(known.get(key), value)}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object written by a user or by us.

    Raises:
        ConfigError: the file is missing, not JSON, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}.") from None
    except RecursionError:
        raise ConfigError(f"{path} cannot be read as JSON: it is nested too deep.") from None
    require(isinstance(values, dict), f"{path} must hold a JSON object.")
    return dict(values)


def setting_named(key: str) -> tuple[str, Setting]:
    """``"n_layer"`` or ``"model.n_layer"`` -> ``("model.n_layer", its setting)``.

    Raises:
        ConfigError: there is none of this name, or more than one.
    """
    if key == "name":
        return key, settings_of(RunConfig)[key]
    section, _, name = key.rpartition(".")
    homes = [s for s, cls in SECTIONS.items() if name in settings_of(cls) and section in ("", s)]
    if len(homes) == 1:
        return f"{homes[0]}.{name}", settings_of(SECTIONS[homes[0]])[name]
    require(not homes, f"{key} is ambiguous.", f"Write {' or '.join(f'{s}.{name}' for s in homes)}.")
    by_flag = {flag.strip("-").replace("-", "_"): n for n, s in _all_settings() for flag in s.flags}
    known = [n for n, _ in _all_settings()]
    near = did_you_mean(by_flag.get(name, name), known) or f"Some of them: {listed(known)}."
    raise ConfigError(f"There is no setting {key!r}.", f"{near} All of them are in docs/config.md.")


def _all_settings() -> list[tuple[str, Setting]]:
    return [
        pair for cls in SECTIONS.values() for pair in sorted(settings_of(cls).items(), key=lambda p: p[0])
    ]
