"""The options of the command line: those made from config classes, and those that commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gptscratch.cli import console
from gptscratch.config import (
    LENGTHS,
    SECTIONS,
    RunConfig,
    TrainConfig,
    flattened,
    qualified,
    read_json,
)
from gptscratch.config.presets import PRESETS, preset_settings
from gptscratch.config.setting import HARDWARE, MODEL, OUTPUT, PANELS, RUN, Setting, settings_of
from gptscratch.errors import ConfigError

Command = Callable[..., Any]


def settings_from(*configs: type) -> Callable[[Command], Command]:
    """A decorator that gives a command an option for each setting of these config classes.

    What the user gave reaches the command as ``settings``: by full name, parsed, without what was left out.
    Every option is made from a field, so none can be without effect. ``SampleConfig``, which is not a part
    of a run's configuration, has bare names.
    """
    sections = {cls: f"{name}." for name, cls in SECTIONS.items()}
    made = {
        name: (sections.get(cls, "") + name, each)
        for cls in configs
        for name, each in settings_of(cls).items()
        if each.flags
    }

    def decorate(command: Command) -> Command:
        def run(**values: Any) -> Any:
            given = {}
            for name, (key, each) in made.items():
                value = values.pop(name)
                if value not in (None, [], ()):
                    given[key] = each.parse(value, each.label)
            return command(**values, settings=given)

        signature = inspect.signature(command, eval_str=True)
        parameters = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(each)
            )
            for name, (_, each) in made.items()
        ]
        own = [p for p in signature.parameters.values() if p.name != "settings"]
        parameters += [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        parameters.sort(key=_panel_number)
        run.__doc__, run.__name__ = command.__doc__, command.__name__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def option(*flags: str, help: str, panel: str | None = None, metavar: str = " ") -> Any:
    return typer.Option(
        *flags, help=console.plain(help), rich_help_panel=panel, metavar=metavar, show_default=False
    )


def _annotation(each: Setting) -> Any:
    """How Typer reads the option of a setting: as text, which the setting parses itself."""
    kind: Any = bool if each.kind is bool else list[str] if each.many else str
    return Annotated[kind | None, option_of(each)]


def option_of(each: Setting) -> Any:
    return typer.Option(
        *each.flags,
        help=console.plain(each.description),
        rich_help_panel=each.panel,
        metavar=each.value_name or " ",
        show_default=False,
        autocompletion=_completion(each.choices) if each.choices else None,
    )


def _completion(names: Sequence[str]) -> Callable[[str], list[str]]:
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def _panel_number(parameter: inspect.Parameter) -> int:
    panel = getattr(parameter.annotation.__metadata__[0], "rich_help_panel", None)
    return PANELS.index(panel) if panel in PANELS else -1


def combined(
    given: Mapping[str, Any], *, preset: str | None, config: str | None, pairs: Sequence[str]
) -> dict[str, Any]:
    """The settings of a run: a preset's, over them those of a file, over them the options, then ``--set``."""
    options = {**given, **_pairs(pairs)}
    file = qualified(flattened(_settings_file(Path(config)))) if config else {}
    if LENGTHS & options.keys():  # another training length replaces the file's
        file = {key: value for key, value in file.items() if key not in LENGTHS}
    return {**(preset_settings(preset) if preset else {}), **file, **options}


def _pairs(pairs: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {pair}: a name and a value are needed.", "As in --set rope_theta=50000")
        found |= qualified({key.strip(): value})
    return found


def _settings_file(path: Path) -> dict[str, Any]:
    """Settings in sections or by bare names, or those of a run's config.json.

    Without a run's derived sizes, which an option may change.
    """
    values = read_json(path)
    if "format" in values:
        sections = {key: value for key, value in values.items() if key in SECTIONS}
        return sections | {"model": RunConfig.from_dict(sections).model.chosen()}
    return values


def run_names(incomplete: str) -> list[str]:
    from gptscratch import paths

    return [run.name for run in paths.list_runs() if run.name.startswith(incomplete)]


Corpus = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CORPUS",
        help="Files, folders, glob patterns, or - for stdin: text, .jsonl, .csv, .tsv, each also as .gz or "
        ".zst, and .parquet; as FILE=WEIGHT, mixed by weight. Without any: a text that comes with Python.",
        show_default=False,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help=f"Model size, one of {', '.join(PRESETS)}; see: gptscratch info --preset small.",
        rich_help_panel=MODEL,
        metavar="NAME",
        show_default=False,
        autocompletion=_completion(list(PRESETS)),
    ),
]
Run = typer.Argument(
    metavar="RUN",
    help="Name of a run, or the folder of a run or checkpoint (default: the newest run).",
    show_default=False,
    autocompletion=run_names,
)
Sort = Annotated[
    str, option("--sort", help="Order of the runs: when, name, loss or size (default: when).", metavar="NAME")
]
ConfigFile = Annotated[
    str | None, option("--config", help="Read settings from a JSON file.", panel=RUN, metavar="FILE")
]
Set = Annotated[
    list[str] | None,
    option(
        "--set",
        help="Set any field of docs/config.md, for example --set rope_theta=50000 (repeatable).",
        panel=RUN,
        metavar="KEY=VALUE",
    ),
]
Device = Annotated[str | None, option_of(settings_of(TrainConfig)["device"])]
Dtype = Annotated[str | None, option_of(settings_of(TrainConfig)["dtype"])]
Quantize = Annotated[
    str | None,
    option(
        "--quantize",
        help="Quantize the weights (on a CPU): float16, int8 or int4.",
        panel=HARDWARE,
        metavar="NAME",
    ),
]
Json = Annotated[bool, option("--json", help="Print the result as JSON.", panel=OUTPUT)]
