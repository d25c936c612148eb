"""One setting: what it means, how it is given, and which values it takes.

A field of a config class, or a parameter of a command, carries its ``Setting`` in its metadata. The command
line with its help, docs/cli.md, docs/config.md, the checks and their messages are made from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import operator
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from gptscratch.errors import ConfigError, did_you_mean

LENGTH, RUN, MODEL, DATA = "Training length (choose one)", "Run", "Model", "Data"
TOKENIZER, OPTIMIZATION = "Tokenizer", "Optimization"
PROMPT, STOPPING, SAMPLING, COPYING = "Prompt", "Length and stopping", "Sampling", "Repetition and copying"
FINE_TUNING, HARDWARE, NETWORK = "Fine-tuning", "Hardware", "Network"
OUTPUT, ADVANCED = "Output", "Advanced"
PANELS = (
    LENGTH, PROMPT, STOPPING, SAMPLING, COPYING, RUN, MODEL, DATA, TOKENIZER, OPTIMIZATION, FINE_TUNING,
    HARDWARE, NETWORK, OUTPUT, ADVANCED,
)  # fmt: skip

CHOSEN = "chosen"  # as ``default_is``: by the plan, to suit the text, the hardware and the time

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_METAVARS = {int: "N", float: "X", str: "TEXT"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The description of a setting; the last five values come from its field."""

    help: str  # a full phrase
    panel: str = ""  # heading in --help; empty: --set alone
    flag: str = ""  # "--layers", "-t,--temperature"; empty: the field's name
    metavar: str = ""  # empty: by its kind
    choices: tuple[str, ...] = ()  # "cuda:N" is cuda:0, cuda:1 ...
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    default_is: str = ""  # in words, instead of the value
    hint: str = ""  # what to do about a value that is out of range
    name: str = ""
    kind: type = str
    many: bool = False  # a tuple of that kind
    optional: bool = False
    default: Any = None

    @property
    def flags(self) -> list[str]:
        """As Typer takes them: ``["-t", "--temperature"]``, ``["--bias/--no-bias"]``; none: --set alone."""
        if not self.panel:
            return []
        name = self.name.replace("_", "-")
        return (self.flag or (f"--{name}/--no-{name}" if self.kind is bool else f"--{name}")).split(",")

    @property
    def label(self) -> str:
        """The long flag, or the name where there is no flag."""
        return self.flags[-1].split("/")[0] if self.panel else self.name

    @property
    def value_name(self) -> str:
        """The placeholder for the value in --help."""
        if self.kind is bool:
            return ""
        return self.metavar or ("NAME" if self.choices else _METAVARS[self.kind])

    @property
    def meaning(self) -> str:
        """The help with the choices."""
        if all(choice in self.help for choice in self.choices):
            return self.help
        return f"{self.help.rstrip('.')}: {', '.join(self.choices[:-1])} or {self.choices[-1]}."

    @property
    def description(self) -> str:
        """The help with the choices and the default, as one sentence."""
        default = f" (default: {self.default_text})" if self.default_text else ""
        return f"{self.meaning.rstrip('.')}{default}."

    @property
    def default_text(self) -> str:
        """In words; empty where there is none."""
        if self.default_is or self.default in (None, "", ()):
            return self.default_is
        if self.kind is bool:  # a switch without a --no- form is off
            return "" if self.flag and "/" not in self.flag else "on" if self.default else "off"
        return f"{self.default:g}" if self.kind is float else f"{self.default}"

    def parse(self, value: Any, label: str = "") -> Any:
        """A value from the command line, JSON or Python, as the field has it.

        Args:
            label: the name that the user typed, for errors.

        Raises:
            ConfigError: it is of another kind or out of range.
        """
        label = label or self.name
        parsed: Any = None
        if self.many:
            parts = _from_json(value) if isinstance(value, str) and value.startswith("[") else value
            parts = parts if isinstance(parts, list | tuple) else [parts]
            if self.kind is not str or self.choices:  # --set adaptive_cutoffs=20,40
                parts = [each for part in parts for each in str(part).split(",")]
            parsed = tuple(self._parse_one(part, label) for part in parts)
        elif not (self.optional and value in (None, "null")):
            parsed = self._parse_one(value, label)
        self.check(parsed, label)
        return parsed

    def _parse_one(self, value: Any, label: str) -> Any:
        if isinstance(value, str) and self.kind is not str:
            value = _from_json(value)
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ConfigError(f"{label} has {len(str(value))} digits: it must be below 2^63.")
        if self.kind is float and type(value) is int:
            value = float(value)
        if type(value) is not self.kind:
            raise ConfigError(f"{label} is {reprlib.repr(value)}: it must be {_KINDS[self.kind]}.", self.hint)
        return value

    def check(self, value: Any, label: str = "") -> None:
        """Raises ConfigError where a value of the right kind is out of range."""
        for part in value if self.many else (value,):
            if part is not None and (problem := self.problem(part)):
                hint = did_you_mean(part, self.choices) if isinstance(part, str) else self.hint
                shown = f"{part:g}" if isinstance(part, float) else repr(part)
                raise ConfigError(f"{label or self.name} is {shown}: it must be {problem}.", hint)

    def problem(self, value: Any) -> str:
        """``"at least 1"``, which the value is not; empty where it is in range."""
        if self.choices:
            form = re.sub(r":\d+$", ":N", value)
            return "" if form in self.choices and value[-2:] != ":N" else f"one of {', '.join(self.choices)}"
        if isinstance(value, str | bool):
            return ""
        if not math.isfinite(value):
            return "a finite number"
        bounds = (
            ("at least", self.at_least, operator.ge),
            ("above", self.above, operator.gt),
            ("at most", self.at_most, operator.le),
            ("below", self.below, operator.lt),
        )
        wrong = [
            f"{words} {bound:,}"
            for words, bound, holds in bounds
            if bound is not None and not holds(value, bound)
        ]
        return wrong[0] if wrong else ""


def setting(default: Any, panel: str | None, help: str, **more: Any) -> Any:
    """A field of a config class, or the default of a command's parameter.

    Args:
        panel: the heading in --help; None: the setting has no option of its own, only --set.
        more: the other fields of ``Setting``; without a ``flag`` the option has the field's name.
    """
    each = Setting(help=help, panel=panel or "", **more)
    return dataclasses.field(default=default, metadata={"setting": each})


def planned(default: Any, panel: str | None, help: str, **more: Any) -> Any:
    """A field that the plan chooses where it was not given; the default is what holds without a plan."""
    return setting(default, panel, help, default_is=CHOSEN, **more)


@cache
def settings_of(cls: Any) -> Mapping[str, Setting]:
    """The settings of a config class by name, each with what its field says."""
    hints = get_type_hints(cls)
    fields = [field for field in dataclasses.fields(cls) if "setting" in field.metadata]
    return {field.name: setting_of(field, field.name, hints[field.name]) for field in fields}


def setting_of(field: dataclasses.Field[Any], name: str, hint: Any) -> Setting:
    """The setting of a field, or of a parameter, with this name and type."""
    parts = [part for part in get_args(hint) if part is not type(None)]
    many = get_origin(hint) is tuple
    each: Setting = field.metadata["setting"]
    return dataclasses.replace(
        each, name=name, kind=parts[0] if parts else hint, many=many, optional=bool(parts) and not many,
        default=field.default,
    )  # fmt: skip


def check_settings(config: Any) -> None:
    """Check each setting of a config object.

    Raises:
        ConfigError: one is out of range.
    """
    cls: Any = type(config)
    for name, each in settings_of(cls).items():
        each.check(getattr(config, name))


def _from_json(text: str) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    return text
