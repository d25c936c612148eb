"""``sample --interactive``: one prompt after another, with settings, history and line editing."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from gptscratch import paths
from gptscratch.cli import console, loading, render_sample
from gptscratch.config import SampleConfig
from gptscratch.config.setting import settings_of
from gptscratch.errors import ConfigError, UserError, did_you_mean, disk_errors, require
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
_SETTINGS = {name: each for name, each in settings_of(SampleConfig).items() if name != "num_samples"}
_OTHER_NAMES = {"?": "help", "exit": "bye", "quit": "bye"}


def run(generator: Generator, config: SampleConfig, *, opening: str, color: bool, novelty: bool) -> None:
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
                chat.answer(_typed())
            except KeyboardInterrupt:
                render_sample.note("")
            except UserError as error:
                console.error(error)


class Chat:
    """The settings and the text so far. A method named ``do_save`` is the command /save."""

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
        if line.startswith(QUOTES):
            self.extend(line.removeprefix(QUOTES).removesuffix(QUOTES))  # never a command
        elif line.startswith("/"):
            name, _, argument = line[1:].strip().partition(" ")
            command = getattr(self, f"do_{_OTHER_NAMES.get(name, name)}", None)
            if command is None:
                known = [f"/{each[3:]}" for each in dir(self) if each.startswith("do_")]
                hint = did_you_mean(f"/{name}", known) or "Type /help for a list."
                raise ConfigError(f"There is no command /{name}.", hint)
            command(argument.strip())
        else:
            self.extend(line)

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

    def do_set(self, argument: str) -> None:
        name, _, value = argument.replace("=", " ", 1).partition(" ")
        self.config = changed(self.config, name.replace("-", "_"), value.strip())
        if self.config.no_copy_ngram and self.generator.training is None:
            self.generator = loading.with_training_tokens(self.generator)

    def do_show(self, _: str) -> None:
        lines = [("run", self.generator.run.name)]
        lines += [(name, _shown(getattr(self.config, name))) for name in _SETTINGS]
        render_sample.note("\n".join(f"{name:<20}{value}" for name, value in lines))

    def do_save(self, name: str) -> None:
        require(bool(name), "The name of a file is missing.", "As in /save story.txt")
        with disk_errors(f"writing {name}"):
            paths.expanded(name).write_text(self.text, encoding="utf-8")
        console.notice(f"{len(self.text):,} characters written to {name}.")

    def do_load(self, name: str) -> None:
        require(bool(name), "The name of a file is missing.", "As in /load story.txt")
        self.text = loading.read_file(name)
        render_sample.warn_of_unknown(self.generator, self.text)
        console.notice(f"{len(self.text):,} characters read. Press Enter to continue them.")

    def do_clear(self, _: str) -> None:
        self.text = ""

    def do_help(self, _: str) -> None:
        render_sample.note(HELP)

    def do_bye(self, _: str) -> None:
        raise EOFError


def changed(config: SampleConfig, name: str, value: str) -> SampleConfig:
    """The settings with one of them set from text, as the user types it.

    Raises:
        ConfigError: there is no such setting, or the value is out of range.
    """
    hint = did_you_mean(name, _SETTINGS) or f"The settings: {', '.join(_SETTINGS)}."
    require(name in _SETTINGS, f"There is no setting {name!r}.", hint)
    setting = _SETTINGS[name]
    if setting.many:
        new: Any = () if value in ("", "none") else (loading.unescaped(value),)
    else:
        new = setting.parse("null" if value == "none" else value)
    return dataclasses.replace(config, **{name: new})


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(repr(text)[1:-1] for text in value) or "none"
    return "none" if value is None else str(value)


def _typed() -> str:
    """One input: a line, or the lines from one triple quote to the next."""
    try:
        text = input("> ")
        while text.startswith(QUOTES) and not (len(text) > 5 and text.endswith(QUOTES)):
            text += "\n" + input(". ")
    except UnicodeDecodeError as error:
        raise ConfigError(f"Invalid input: {error}.") from None
    return loading.checked(text)


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
