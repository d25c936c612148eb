"""The options of the command line: each is a setting, of a config class or of a command's own parameter."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gptscratch.cli.console import plain
from gptscratch.config import (
    LENGTHS,
    SECTIONS,
    RunConfig,
    TrainConfig,
    all_settings,
    flattened,
    qualified,
    read_json,
)
from gptscratch.config.presets import PRESETS, preset_settings
from gptscratch.config.setting import (
    CHOSEN,
    HARDWARE,
    MODEL,
    OUTPUT,
    PANELS,
    RUN,
    Setting,
    setting,
    setting_of,
    settings_of,
)
from gptscratch.errors import ConfigError

Command = Callable[..., Any]
_OF_THE_SOURCE = ("data.tokenizer", "data.vocab_size")  # what a run with --init-from has from there


def command(*configs: type) -> Callable[[Command], Command]:
    """A decorator that makes the options of a command.

    A parameter whose default is a ``setting`` is an option of its own. With config classes, each of their
    settings is an option too; the values that the user gave reach the command as ``settings``: by full name,
    without what was left out. ``SampleConfig``, which is not a part of a run's configuration, has bare names.
    """
    sections = {cls: f"{name}." for name, cls in SECTIONS.items()}
    shared = {
        name: (sections.get(cls, "") + name, each)
        for cls in configs
        for name, each in settings_of(cls).items()
        if each.flags
    }

    def decorate(function: Command) -> Command:
        signature = inspect.signature(function, eval_str=True)
        own = {
            p.name: _own(p) for p in signature.parameters.values() if isinstance(p.default, dataclasses.Field)
        }

        def run(**values: Any) -> Any:
            for name, each in own.items():
                values[name] = each.parse(values[name], each.label) if _given(values[name]) else each.default
            parsed = {}
            for name, (key, each) in shared.items():
                if _given(value := values.pop(name)):
                    parsed[key] = each.parse(value, each.label)
            return function(**values, **({"settings": parsed} if configs else {}))

        options = {name: each for name, (_, each) in shared.items()} | own
        arguments = [p for p in signature.parameters.values() if p.name not in (*own, "settings")]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in arguments]
        for panel in PANELS:
            parameters += [_parameter(name, each) for name, each in options.items() if each.panel == panel]
        run.__doc__, run.__name__ = function.__doc__, function.__name__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _own(parameter: inspect.Parameter) -> Setting:
    """A switch of a command has no ``--no-`` form, unlike one of a config class."""
    each = setting_of(parameter.default, parameter.name, parameter.annotation)
    name = f"--{parameter.name.replace('_', '-')}"
    return dataclasses.replace(each, flag=each.flag or name) if each.kind is bool else each


def _given(value: Any) -> bool:
    return value not in (None, [], ())


def _parameter(name: str, each: Setting) -> inspect.Parameter:
    """What Typer makes an option from. It reads the value as text, which the setting parses itself."""
    kind: Any = bool if each.kind is bool else list[str] if each.many else str
    option = typer.Option(
        *each.flags,
        help=plain(each.description),
        rich_help_panel=each.panel,
        metavar=each.value_name or " ",
        show_default=False,
        autocompletion=_completion(each.choices) if each.choices else None,
    )
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _completion(names: Sequence[str]) -> Callable[[str], list[str]]:
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def run_names(incomplete: str) -> list[str]:
    from gptscratch import paths

    return [run.name for run in paths.list_runs() if run.name.startswith(incomplete)]


def combined(
    given: Mapping[str, Any],
    *,
    preset: str | None,
    config: str | None,
    pairs: Sequence[str],
    corpus: Sequence[str] = (),
    init_from: str | None = None,
) -> tuple[dict[str, Any], str]:
    """The settings of a run: a preset's, over them those of a file, over them the options, then ``--set``.

    Returns:
        They, and a note for the user about the file.
    """
    options = dict(given)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {pair}: a name and a value are needed.", "As in --set rope_theta=50000")
        options |= qualified({key.strip(): value})
    file, note = _settings_file(Path(config), corpus, init_from) if config else ({}, "")
    if LENGTHS & options.keys():  # another training length replaces the file's
        file = {key: value for key, value in file.items() if key not in LENGTHS}
    return {**(preset_settings(preset) if preset else {}), **file, **options}, note


def _settings_file(path: Path, corpus: Sequence[str], init_from: str | None) -> tuple[dict[str, Any], str]:
    """Settings by full name, and a note for the user.

    The file has them in sections or by bare names. The config.json of a run also holds what was planned for
    its corpus: for another corpus only what was given to that run stays. Its tokenizer does not count where
    another run gives one.
    """
    values = read_json(path, may_be_pipe=True)
    if "format" not in values:
        return qualified(flattened(values)), ""
    config = RunConfig.from_dict({name: values.get(name, {}) for name in SECTIONS})
    sections = {name: vars(getattr(config, name)) for name in SECTIONS} | {"model": config.model.chosen()}
    settings = qualified(flattened(sections))
    if init_from:
        settings = {key: value for key, value in settings.items() if key not in _OF_THE_SOURCE}
    if not corpus or {*map(os.path.abspath, corpus)} == {*map(os.path.abspath, config.data.corpus)}:
        return settings, ""
    planned = {key for key, each in all_settings().items() if each.default_is == CHOSEN}
    given = settings.keys() - planned  # the rule for runs of versions that did not record it
    with contextlib.suppress(ConfigError, KeyError, TypeError):
        given = {*map(str, read_json(path.with_name("plan.json"))["given"])}
    kept = {key: settings[key] for key in settings if key in given and key != "data.corpus"}
    named = [f"{all_settings()[key].label} {value}" for key, value in kept.items() if value is not None]
    shown = ", ".join(named) or "nothing"
    return kept, f"The corpus is not that of {path}: kept from it: {shown}; the rest is planned again."


Corpus = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CORPUS",
        help="Files, folders, glob patterns, or - for stdin: text, .jsonl, .csv, .tsv, each also as .gz or "
        ".zst, and .parquet; as FILE=WEIGHT, mixed by weight. Without any: a text that comes with Python.",
        show_default=False,
    ),
]
Run = typer.Argument(
    metavar="RUN",
    help="Name of a run, or the folder of a run or checkpoint (default: the newest run).",
    show_default=False,
    autocompletion=run_names,
)

PRESET = setting(
    None, MODEL, "Model size, shown by gptscratch info NAME", choices=tuple(PRESETS), metavar="NAME"
)
CONFIG = setting(None, RUN, "Read settings from a JSON file.", metavar="FILE")
SET = setting(
    (), RUN, "Set any field of docs/config.md, for example --set rope_theta=50000 (repeatable).",
    flag="--set", metavar="KEY=VALUE",
)  # fmt: skip
DEVICE: Any = TrainConfig.__dataclass_fields__["device"]
DTYPE: Any = TrainConfig.__dataclass_fields__["dtype"]
QUANTIZE = setting(
    None, HARDWARE, "Quantize the weights (on a CPU).", choices=("float16", "int8", "int4"), metavar="NAME"
)
SORT = setting("when", OUTPUT, "Order of the runs.", choices=("when", "name", "loss", "size"))
JSON = setting(False, OUTPUT, "Print the result as JSON.")
