"""Checks of values, with one clear line for the user."""

from __future__ import annotations

from gptscratch.errors import ConfigError, did_you_mean


def require(condition: bool, message: str, hint: str = "") -> None:
    if not condition:
        raise ConfigError(message, hint)


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    require(
        value in choices,
        f"{name} is {value!r}: it must be one of {', '.join(choices)}.",
        did_you_mean(value, choices),
    )
