"""``sample --interactive``: one prompt after another, with settings, history and line editing."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gptscratch import paths
from gptscratch.cli import console, loading, render_sample
from gptscratch.config import SampleConfig
from gptscratch.config.setting import settings_of
from gptscratch.errors import ConfigError, UserError, did_you_mean, disk_errors
from gptscratch.generation.generator import Generator
from gptscratch.generation.memorization import longest_copy

QUOTES = '"""'
HELP = """\
Type a prompt and press Enter: the model continues it. An empty line continues the text so far.
  \"\"\"                  begins and ends a text of several lines
  /set NAME VALUE      change a setting: /set temperature 0.7, /set seed none
  /show                show the settings
  /save FILE           write the text so far to a file
  /load FILE           read a file as the text so far; Enter continues it
  /clear               forget the text so far
  /help                show this help
  /bye                 leave, as Ctrl-D does; Ctrl-C stops a continuation"""


class Chat:
    """The settings and the text so far."""

    def __init__(
        self, generator: Generator, config: SampleConfig, *, color: bool = False, novelty: bool = False
    ) -> None:
        self.generator = generator
        self.config = dataclasses.replace(config, num_samples=1)
        self.colors = render_sample.colors() if color else None
        self.novelty = novelty
        self.text = ""  # the last prompt and all that followed it

    def answer(self, line: str) -> None:
        """Do what one input asks.

        Raises:
            UserError: a command that is unknown or fails.
            EOFError: the user asked to leave.
        """
        if not line.startswith("/"):
            self.extend(line)
            return
        name, _, argument = line[1:].strip().partition(" ")
        if name not in _COMMANDS:
            hint = did_you_mean(f"/{name}", [f"/{known}" for known in _COMMANDS]) or "Type /help for a list."
            raise ConfigError(f"There is no command /{name}.", hint)
        _COMMANDS[name](self, argument.strip())

    def extend(self, text: str) -> None:
        """Continue a new text, or (empty) the one so far; Ctrl-C keeps what was generated."""
        if text:
            render_sample.warn_of_unknown(self.generator, text)
            self.text = ""
        prompt, new = self.text + text, ""

        def kept() -> Iterator[tuple[str, float]]:
            nonlocal new
            tokens = self.generator.tokens(prompt, self.config, n_best=0 if self.colors else None)
            for added, bits in render_sample.characters(tokens):
                new += added
                yield added, bits

        with contextlib.suppress(KeyboardInterrupt):
            render_sample.stream(text, kept(), colors=self.colors)
        self.text = prompt + new
        if self.novelty:
            render_sample.copied(new, longest_copy(self.generator, new, after=prompt))

    def set(self, argument: str) -> None:
        name, _, value = argument.replace("=", " ", 1).partition(" ")
        self.config = changed(self.config, name.replace("-", "_"), value.strip())
        if self.config.no_copy_ngram and self.generator.training is None:
            self.generator = loading.with_training_tokens(self.generator)

    def show(self, _: str) -> None:
        lines = [("run", self.generator.run.name)]
        lines += [(name, _as_typed(getattr(self.config, name))) for name in _names()]
        render_sample.note("\n".join(f"{name:<20}{value}" for name, value in lines))

    def save(self, name: str) -> None:
        with disk_errors(f"writing {_required(name)}"):
            Path(name).expanduser().write_text(self.text, encoding="utf-8")
        console.notice(f"{len(self.text):,} characters written to {name}.")

    def load(self, name: str) -> None:
        self.text = loading.read_file(_required(name))
        render_sample.warn_of_unknown(self.generator, self.text)
        console.notice(f"{len(self.text):,} characters read. Press Enter to continue them.")

    def clear(self, _: str) -> None:
        self.text = ""

    def help(self, _: str) -> None:
        render_sample.note(HELP)

    def leave(self, _: str) -> None:
        raise EOFError


_COMMANDS: MappingProxyType[str, Callable[[Chat, str], None]] = MappingProxyType(
    {
        **{name: getattr(Chat, name) for name in ("set", "show", "save", "load", "clear", "help")},
        "?": Chat.help, "bye": Chat.leave, "exit": Chat.leave, "quit": Chat.leave,
    }
)  # fmt: skip


def run(
    generator: Generator,
    config: SampleConfig,
    *,
    opening: str = "",
    color: bool = False,
    novelty: bool = False,
) -> None:
    """Read inputs until the user leaves; Ctrl-C stops a continuation or drops a line, Ctrl-D leaves.

    ``opening`` is answered first, as if it had been typed.
    """
    chat = Chat(generator, config, color=color, novelty=novelty)
    name = generator.run.name
    render_sample.note(f"{name}: type a prompt and press Enter, /help for more, Ctrl-D to leave.")
    if opening:
        chat.extend(opening)
    with _history(), contextlib.suppress(EOFError):
        while True:
            try:
                _answer(chat)
            except KeyboardInterrupt:
                render_sample.note("")
            except UserError as error:
                console.error(error)


def changed(config: SampleConfig, name: str, value: str) -> SampleConfig:
    """The settings with one of them set from text, as the user types it.

    Raises:
        ConfigError: there is no such setting, or the value is out of range.
    """
    if name not in _names():
        hint = did_you_mean(name, _names()) or f"The settings: {', '.join(_names())}."
        raise ConfigError(f"There is no setting {name!r}.", hint)
    setting = settings_of(SampleConfig)[name]
    if setting.many:
        new: Any = () if value in ("", "none") else (loading.unescaped(value),)
    else:
        new = None if value == "none" and setting.optional else setting.parse(value)
    return dataclasses.replace(config, **{name: new})


def _names() -> list[str]:
    return [name for name in settings_of(SampleConfig) if name != "num_samples"]


def _as_typed(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(repr(text)[1:-1] for text in value) or "none"
    return "none" if value is None else str(value)


def _required(name: str) -> str:
    if not name:
        raise ConfigError("The name of a file is missing.", "As in /save story.txt")
    return name


def _answer(chat: Chat) -> None:
    """Read one input, a line or all between two triple quotes, and do what it asks."""
    line = _line("> ")
    if not line.startswith(QUOTES):
        chat.answer(line)
        return
    lines = [line[len(QUOTES) :]]
    while not lines[-1].endswith(QUOTES):
        lines.append(_line(". "))
    lines[-1] = lines[-1].removesuffix(QUOTES)
    chat.extend("\n".join(lines))  # never a command


def _line(mark: str) -> str:
    try:
        return loading.checked(input(mark))
    except UnicodeDecodeError as error:
        raise ConfigError(f"Invalid input: {error}.") from None


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Line editing, and the lines of earlier sessions, where this Python has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    file = paths.home() / "history"
    readline.set_history_length(1000)
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(file)
