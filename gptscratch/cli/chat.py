"""``sample --interactive``: a conversation at a prompt, with settings, history and line editing."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from gptscratch import paths
from gptscratch.cli import loading, render, render_sample
from gptscratch.config import SampleConfig
from gptscratch.errors import ConfigError, UserError, did_you_mean
from gptscratch.generation.generator import Generator
from gptscratch.generation.memorization import longest_copy

QUOTES = '"""'
HELP = """\
Type a beginning and press Enter: the model goes on from it. An empty line goes on from all so far.
  \"\"\"                  begins and ends a text of several lines
  /set NAME VALUE      change a setting: /set temperature 0.7, /set seed none
  /show                the settings
  /save FILE           write the text so far to a file
  /load FILE           take a file as the text so far, to go on from with Enter
  /clear               forget the text so far
  /help                this
  /bye                 leave, as Ctrl-D does; Ctrl-C stops a reply"""


class Leave(Exception):  # noqa: N818 - no error
    """The user asked to go."""


class Chat:
    """What a conversation remembers: the settings and the text so far."""

    def __init__(
        self, gpt: Generator, knobs: SampleConfig, *, color: bool = False, novelty: bool = False
    ) -> None:
        self.gpt = gpt
        self.knobs = knobs
        self.colors = render_sample.colors() if color else None
        self.novelty = novelty
        self.text = ""  # the last prompt and all that followed it

    def answer(self, line: str) -> None:
        """Do what one input asks.

        Raises:
            UserError: a command that is unknown or fails.
            Leave: the user asked to go.
        """
        if not line.startswith("/"):
            self.go_on(line)
            return
        name, _, rest = line[1:].strip().partition(" ")
        command = _COMMANDS.get(name)
        if command is None:
            hint = did_you_mean(f"/{name}", [f"/{known}" for known in _COMMANDS]) or "Type /help for a list."
            raise ConfigError(f"There is no command /{name}.", hint)
        command(self, rest.strip())

    def go_on(self, text: str) -> None:
        """Continue a new text, or (empty) the one so far; Ctrl-C keeps what is there."""
        if text:
            render_sample.warn_of_unknown(self.gpt, text)
            self.text = ""
        prompt = self.text + text
        new: list[str] = []

        def kept() -> Iterator[tuple[str, float]]:
            n_best = None if self.colors is None else 0
            tokens = self.gpt.tokens(prompt, self.knobs, n_best=n_best)
            for piece, bits in render_sample.pieces(tokens):
                new.append(piece)
                yield piece, bits

        with contextlib.suppress(KeyboardInterrupt):
            render_sample.stream(text, kept(), colors=self.colors)
        reply = "".join(new)
        self.text = prompt + reply
        if self.novelty:
            render_sample.copied(reply, longest_copy(self.gpt, reply, after=prompt))

    def set(self, rest: str) -> None:
        name, _, value = rest.replace("=", " ", 1).partition(" ")
        self.knobs = changed(self.knobs, name.replace("-", "_"), value.strip())
        if self.knobs.no_copy_ngram and self.gpt.training is None:
            self.gpt = loading.with_copies(self.gpt)

    def show(self, _: str) -> None:
        values = [(name, getattr(self.knobs, name)) for name in _settings()]
        shown = [(name, "none" if value in (None, ()) else _typed(value)) for name, value in values]
        render_sample.settings([("run", self.gpt.run.name), *shown])

    def save(self, rest: str) -> None:
        with _file_errors(rest):
            Path(rest).expanduser().write_text(self.text, encoding="utf-8")
        render.notice(f"{len(self.text):,} characters written to {rest}.")

    def load(self, rest: str) -> None:
        with _file_errors(rest):
            self.text = Path(rest).expanduser().read_text(encoding="utf-8")
        render_sample.warn_of_unknown(self.gpt, self.text)
        render.notice(f"{len(self.text):,} characters read. Press Enter to go on from them.")

    def clear(self, _: str) -> None:
        self.text = ""

    def help(self, _: str) -> None:
        render_sample.say(HELP)

    def leave(self, _: str) -> None:
        raise Leave


_COMMANDS: MappingProxyType[str, Callable[[Chat, str], None]] = MappingProxyType(
    {
        "set": Chat.set,
        "show": Chat.show,
        "save": Chat.save,
        "load": Chat.load,
        "clear": Chat.clear,
        "help": Chat.help,
        "?": Chat.help,
        "bye": Chat.leave,
        "exit": Chat.leave,
    }
)


def run(
    gpt: Generator, knobs: SampleConfig, *, opening: str = "", color: bool = False, novelty: bool = False
) -> None:
    """Read inputs until the user leaves; Ctrl-C stops a reply or drops a line, Ctrl-D leaves.

    ``opening`` is answered first, as if it had been typed.
    """
    chat = Chat(gpt, dataclasses.replace(knobs, num_samples=1), color=color, novelty=novelty)
    render_sample.say(f"{gpt.run.name}: type a beginning and press Enter, /help for more, Ctrl-D to leave.")
    if opening:
        chat.go_on(opening)
    with _history():
        while True:
            try:
                _answer(chat)
            except (EOFError, Leave):
                return
            except KeyboardInterrupt:
                render_sample.say("")
            except UserError as error:
                render.error(error)


def changed(knobs: SampleConfig, name: str, value: str) -> SampleConfig:
    """The settings with one of them set from text, as the user types it.

    Raises:
        ConfigError: there is no such setting, or the value is out of range.
    """
    hints = _settings()
    if name not in hints:
        hint = did_you_mean(name, hints) or f"The settings: {', '.join(hints)}."
        raise ConfigError(f"There is no setting {name!r}.", hint)
    if name == "stop":
        new: Any = () if value in ("", "none") else (loading.unescaped(value),)
    elif value == "none" and type(None) in getattr(hints[name], "__args__", ()):
        new = None
    else:
        kind = next(k for k in getattr(hints[name], "__args__", (hints[name],)) if k is not type(None))
        try:
            new = kind(value)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{name} must be {what}, not {value!r}.") from None
    return dataclasses.replace(knobs, **{name: new})


def _settings() -> dict[str, Any]:
    """What /set changes, with its type."""
    return {name: hint for name, hint in get_type_hints(SampleConfig).items() if name != "num_samples"}


def _typed(value: Any) -> str:
    """A setting as one would type it."""
    return ", ".join(repr(text)[1:-1] for text in value) if isinstance(value, tuple) else str(value)


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
    chat.go_on("\n".join(lines))  # never a command, whatever it begins with


def _line(mark: str) -> str:
    try:
        return loading.typed(input(mark))
    except UnicodeDecodeError as error:
        raise ConfigError(f"That line is no text: {error}.") from None


class _history(contextlib.AbstractContextManager[None]):  # noqa: N801 - used as a function
    """Line editing, and the lines of earlier conversations, where this Python has readline."""

    def __enter__(self) -> None:
        self.file = paths.home() / "history"
        with contextlib.suppress(ImportError, OSError):
            import readline

            readline.set_history_length(1000)
            readline.read_history_file(self.file)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ImportError, OSError):
            import readline

            readline.write_history_file(self.file)


@contextlib.contextmanager
def _file_errors(name: str) -> Any:
    if not name:
        raise ConfigError("A file's name is missing.", "As in /save story.txt")
    try:
        yield
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 text: {error}.") from None
    except OSError as error:
        raise ConfigError(f"{name} cannot be used: {error.strerror}.") from None
