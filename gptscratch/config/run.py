"""A run's settings together: given by name, converted to the type of their field, read from JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

from gptscratch.config.checks import require
from gptscratch.config.data import DataConfig
from gptscratch.config.model import ModelConfig
from gptscratch.config.train import TrainConfig
from gptscratch.errors import ConfigError, did_you_mean, listed


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All of a run: what its config.json records."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    name: str = ""  # of the run; empty: made from the corpus's name and the date

    def with_settings(self, settings: Mapping[str, Any]) -> RunConfig:
        """A copy with fields changed by name: ``{"n_layer": 6, "data.vocab_size": 4096}``.

        Raises:
            ConfigError: as ``qualified``, or a value that is out of range.
        """
        sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        for key, value in qualified(settings).items():
            section, _, name = key.rpartition(".")
            sections.setdefault(section, {})[name] = value
        own = sections.pop("", {})
        changed = {s: dataclasses.replace(getattr(self, s), **part) for s, part in sections.items() if part}
        return dataclasses.replace(self, **changed, **own)

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
        section, name = _locate(key)
        cls = SECTIONS[section] if section else RunConfig
        found[f"{section}.{name}" if section else name] = _converted(cls, name, value)
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


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"model": {"n_layer": 6}, "name": "x"}`` -> ``{"model.n_layer": 6, "name": "x"}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in SECTIONS:
            require(isinstance(value, Mapping), f'"{key}" of a config must be an object.')
            full = {f"{key}.{name}": part for name, part in value.items()}
            flat.update({OLD_NAMES.get(name, name): part for name, part in full.items()})
        else:
            flat[key] = value
    return flat


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


def is_setting(key: str) -> bool:
    """Whether some section has a field of this name, bare or with its section."""
    section, _, name = key.rpartition(".")
    return key == "name" or any(name in _field_names(c) and section in ("", s) for s, c in SECTIONS.items())


_KINDS: Mapping[Any, str] = MappingProxyType(
    {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        tuple[str, ...]: "texts",
        tuple[int, ...]: "whole numbers",
    }
)


_BY_FLAG = MappingProxyType({"layers": "n_layer", "heads": "n_head", "kv_heads": "n_kv_head"})


def _locate(key: str) -> tuple[str, str]:
    """``"n_layer"`` or ``"model.n_layer"`` -> ``("model", "n_layer")``; the run's own name has no section."""
    if key == "name":
        return "", key
    section, _, name = key.rpartition(".")
    homes = [s for s, c in SECTIONS.items() if name in _field_names(c) and section in ("", s)]
    if len(homes) == 1:
        return homes[0], name
    require(not homes, f"{key} is ambiguous.", f"Write {' or '.join(f'{s}.{name}' for s in homes)}.")
    known = sorted({n for c in SECTIONS.values() for n in _field_names(c)})
    near = did_you_mean(_BY_FLAG.get(name, name), known) or f"Some of them: {listed(known)}."
    raise ConfigError(f"There is no setting {key!r}.", f"{near} All of them are in docs/config.md.")


def _converted(cls: type, name: str, value: Any) -> Any:
    """A value from JSON or from ``--set`` as the type that the field declares."""
    hint = get_type_hints(cls)[name]
    if isinstance(value, str) and hint is not str:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if isinstance(value, int):
        require(abs(value) < 2**63, f"{name} has {len(str(value))} digits: it must be below 2^63.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # of a number with hundreds of digits
            return float(value)
    if get_origin(hint) is tuple:
        kind = get_args(hint)[0]
        parts = [value] if type(value) is kind else value
        if isinstance(parts, list | tuple) and all(type(part) is kind for part in parts):
            return tuple(parts)
    elif hint in (int, float, str, bool):
        if type(value) is hint:
            return value
    elif value is None or type(value) is bool:  # bool | None
        return value
    raise ConfigError(f"{name} is {reprlib.repr(value)}: it must be {_KINDS.get(hint, 'true or false')}.")


def _field_names(cls: type) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(cls))
