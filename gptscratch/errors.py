"""The errors that a user sees as one line, without a traceback. Any other exception is a bug."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(Exception):
    """An error that the user can fix: one line says what is wrong, one line what to do.

    The command line prints ``message`` and ``hint`` and exits with ``exit_code``.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} {hint}" if hint else message)
        self.message = message
        self.hint = hint


class ConfigError(UserError):
    """A setting that is out of range or contradicts another."""


class CorpusError(UserError):
    """Text that is missing, empty or cannot be read."""


class TokenizerError(UserError):
    """A tokenizer that is unknown, broken or does not fit."""


class CheckpointError(UserError):
    """A run or checkpoint that is missing, damaged or of another shape."""


class MissingExtraError(UserError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"This needs the package {package}, which is not installed.",
            f"Install it with: pip install {package}   (it is in the extra [{extra}] of gptscratch).",
        )


class RunError(UserError):
    """A run that began and could not continue (a loss that is not finite, a full disk). Exit code 1."""

    exit_code = 1


def require(condition: bool, message: str, hint: str = "") -> None:
    """Raises ConfigError where the condition does not hold."""
    if not condition:
        raise ConfigError(message, hint)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A hint that names the most similar choice; empty where none is similar."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = get_close_matches(name.lower(), by_lower, n=1)
    return f"Did you mean {by_lower[near[0]]}?" if near else ""


def listed(names: Iterable[str], most: int = 8) -> str:
    """``"a, b, c and 4 more"``"""
    shown = list(names)
    more = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn an error of the disk (no space, no permission) into a RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(f"The disk reported an error while {doing}: {error}.") from None
