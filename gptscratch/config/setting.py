"""One setting: what it means, how it is given, and which values it takes.

A field of a config class carries its ``Setting`` in its metadata. The options of the command line with their
help, docs/cli.md, docs/config.md and the checks are made from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from gptscratch.errors import ConfigError, did_you_mean

LENGTH, RUN, MODEL, DATA, TOKENIZER, OPTIMIZATION = (
    "Training length (choose one)", "Run", "Model", "Data", "Tokenizer", "Optimization"
)  # fmt: skip
PROMPT, STOPPING, SAMPLING, COPYING = (
    "Prompt", "Length and stopping", "Sampling", "Repetition and copying"
)  # fmt: skip
HARDWARE, OUTPUT, ADVANCED = "Hardware", "Output", "Advanced"
PANELS = (
    LENGTH, PROMPT, STOPPING, SAMPLING, COPYING, RUN, MODEL, DATA, TOKENIZER, OPTIMIZATION, HARDWARE, OUTPUT,
    ADVANCED,
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
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    default_is: str = ""  # in words, where the default is not the value itself
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
    def long_flag(self) -> str:
        return self.flags[-1].split("/")[0] if self.panel else ""

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
        if self.kind is bool:
            return "on" if self.default else "off"
        return f"{self.default:g}" if self.kind is float else f"{self.default}"

    def parse(self, value: Any, label: str = "") -> Any:
        """A value from the command line, JSON or Python, as the field has it.

        Args:
            label: the name that the user typed, for errors.

        Raises:
            ConfigError: it is of another kind or out of range.
        """
        label = label or self.name
        if self.many:
            if isinstance(value, str) and value.startswith("["):
                value = _from_json(value)
            parts = value if isinstance(value, list | tuple) else [value]
            parsed: Any = tuple(self._parse_one(part, label) for part in parts)
        elif self.optional and (value is None or value == "null"):
            parsed = None
        else:
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
        if value is None:
            return
        for part in value if self.many else (value,):
            problem = self.problem(part)
            if problem:
                near = did_you_mean(part, self.choices) if isinstance(part, str) else ""
                raise ConfigError(f"{label or self.name} is {part!r}: it must {problem}.", near or self.hint)

    def problem(self, value: Any) -> str:
        """``"be at least 1"``; empty where the value is in range."""
        if self.choices:
            return "" if value in self.choices else f"be one of {', '.join(self.choices)}"
        if isinstance(value, str | bool):
            return ""
        if not math.isfinite(value):
            return "be a finite number"
        low, closed = (self.above, False) if self.at_least is None else (self.at_least, True)
        high, ended = (self.below, False) if self.at_most is None else (self.at_most, True)
        too_low = low is not None and (value < low or (value == low and not closed))
        too_high = high is not None and (value > high or (value == high and not ended))
        if not (too_low or too_high):
            return ""
        if low is not None and high is not None and high <= 1:
            return f"be in {'[' if closed else '('}{low:g}, {high:g}{']' if ended else ')'}"
        if too_high:
            return f"be {'at most' if ended else 'below'} {high:,}"
        return "not be negative" if closed and low == 0 else f"be {'at least' if closed else 'above'} {low:g}"


def setting(default: Any, panel: str | None, help: str, **more: Any) -> Any:
    """A field of a config class.

    Args:
        panel: the heading in --help; None: the setting has no option of its own, only --set.
        more: the other fields of ``Setting``; without a ``flag`` the option has the field's name.
    """
    return dataclasses.field(
        default=default, metadata={"setting": Setting(help=help, panel=panel or "", **more)}
    )


def planned(default: Any, panel: str | None, help: str, **more: Any) -> Any:
    """A field that the plan chooses where it was not given; the default is what holds without a plan."""
    return setting(default, panel, help, default_is=CHOSEN, **more)


@cache
def settings_of(cls: Any) -> Mapping[str, Setting]:
    """The settings of a config class by name, each with what its field says."""
    hints, found = get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        if "setting" in field.metadata:
            hint = hints[field.name]
            parts = [part for part in get_args(hint) if part is not type(None)]
            many = get_origin(hint) is tuple
            optional = bool(parts) and not many
            found[field.name] = dataclasses.replace(
                field.metadata["setting"],
                name=field.name, kind=parts[0] if parts else hint, many=many, optional=optional,
                default=field.default,
            )  # fmt: skip
    return found


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
