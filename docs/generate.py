"""Writes docs/cli.md and docs/config.md from the code: ``python docs/generate.py``.

With ``--check`` nothing is written; the exit code is 1 where a page is not what the code says.
No torch is needed: the options are read from the Typer app, the fields from the text of gptscratch/config/.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

from gptscratch.cli.app import app
from gptscratch.config import SECTIONS, data, model, run, sample, train

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py: change the code, not this page. -->\n"


class Knob(NamedTuple):
    """One option or argument of a command."""

    name: str  # of the Python parameter
    flags: str  # as typed; an argument's metavar
    group: str
    help: str


class Field(NamedTuple):
    """One field of a config class."""

    name: str
    kind: str
    default: str
    meaning: str


def cli_page() -> str:
    lines = [
        "# The command line",
        "",
        NOTE,
        "`gptscratch COMMAND --help` prints the same. What stands in brackets is the default; an option",
        "without one is chosen by the plan, which `gptscratch train --dry-run` shows. Every other setting of",
        "[config.md](config.md) can be given with `--set key=value`.",
        "",
        "Exit codes: 0 fine, 1 failed, 2 the user's input, 130 interrupted. Results go to stdout, everything",
        "else to stderr.",
    ]
    for command in app.registered_commands:
        assert command.callback is not None
        text = inspect.getdoc(command.callback) or ""
        lines += ["", f"## gptscratch {command.name}", "", *_escaped(text).split("\n")]
        knobs = list(knobs_of(command.callback))
        for group in dict.fromkeys(knob.group for knob in knobs):
            lines += ["", f"### {command.name}: {group}", "", "| option | meaning |", "|---|---|"]
            lines += [f"| {_code(k.flags)} | {_cell(k.help)} |" for k in knobs if k.group == group]
    return "\n".join(lines) + "\n"


def knobs_of(callback: Any) -> Iterator[Knob]:
    """The parameters of a command, arguments first."""
    hints = get_type_hints(callback, include_extras=True)
    found = []
    for name, parameter in inspect.signature(callback).parameters.items():
        hint = hints[name]
        if get_origin(hint) is not Annotated:  # Python 3.10 makes a hint optional where the default is None
            hint = get_args(hint)[0]
        kind, info = get_args(hint)[:2]
        if isinstance(info, ArgumentInfo):
            shown = info.metavar or f"[{name.upper()}]" + "..." * (list in _kinds(kind))
            found.insert(0, Knob(name, shown, "Arguments", info.help or ""))
        elif isinstance(info, OptionInfo):
            group = getattr(info, "rich_help_panel", None) or "Options"
            default = parameter.default
            text = (info.help or "").replace(r"\[", "[")
            if type(default) in (int, float, str):
                text = f"{text.rstrip('.')} [{default}]."
            found.append(Knob(name, _flags(name, kind, info), str(group), text))
    yield from found


def _flags(name: str, kind: Any, info: OptionInfo) -> str:
    first = [info.default] if isinstance(info.default, str) else []  # inside Annotated it is a flag
    flags = ", ".join((*first, *(info.param_decls or ()))) or f"--{name.replace('_', '-')}"
    if bool in _kinds(kind):
        return flags
    known = {int: "N", float: "X"}
    value = info.metavar or next((known[k] for k in _kinds(kind) if k in known), "TEXT")
    return f"{flags} {value}"


def _kinds(kind: Any) -> set[Any]:
    """``list[str] | None`` -> {list}"""
    parts = get_args(kind) if NoneType in get_args(kind) else (kind,)
    return {get_origin(part) or part for part in parts} - {NoneType}


def config_page() -> str:
    flags = flags_of_settings()
    lines = [
        "# Every setting",
        "",
        NOTE,
        "A setting is given by `--preset NAME`, `--config FILE.json`, its own flag, or `--set key=value`",
        "(repeatable; `--set data.vocab_size=512` where a bare name would not be clear); the later ones of",
        "these win over the earlier. In Python: `train(corpus, n_layer=6)`. A 0 or -1 that stands for",
        '"not given" is filled in by the plan; a run\'s config.json holds what was chosen.',
    ]
    for module in (model, data, train, sample, run):
        for cls in ast.parse(inspect.getsource(module)).body:
            if isinstance(cls, ast.ClassDef) and cls.decorator_list:  # a dataclass
                lines += section_of(module, cls, flags)
    return "\n".join(lines) + "\n"


def section_of(module: ModuleType, cls: ast.ClassDef, flags: dict[tuple[str, str], str]) -> Iterator[str]:
    section = cls.name.removesuffix("Config").lower()
    yield from ("", f"## {cls.name}", "", _escaped(ast.get_docstring(cls) or ""))
    yield from ("", "| field | type | default | flag | meaning |", "|---|---|---|---|---|")
    for f in fields_of(module, cls):
        key = f"{section}.{f.name}" if section in SECTIONS else f.name
        flag = _code(flags.get((section, f.name), ""))
        yield "| " + " | ".join((_code(key), _code(f.kind), _code(f.default), flag, _cell(f.meaning))) + " |"


def fields_of(module: ModuleType, cls: ast.ClassDef) -> Iterator[Field]:
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(module)).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
    choices = choices_of(module)
    for node in cls.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        name, default = node.target.id, ast.unparse(node.value) if node.value else ""
        meaning = comments.get(node.end_lineno or 0, "")
        if name in choices:
            meaning = "; ".join(filter(None, (meaning, f"one of: {', '.join(choices[name])}")))
        default = "" if default.startswith("field(") else default
        yield Field(name, ast.unparse(node.annotation), default, meaning)


def choices_of(module: ModuleType) -> dict[str, tuple[str, ...]]:
    """What each field may be, from the checks in ``__post_init__``."""
    found = {}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id == "require_choice" and isinstance(node.args[0], ast.Constant):
            what = node.args[2]
            names = getattr(module, what.id) if isinstance(what, ast.Name) else ast.literal_eval(what)
            found[str(node.args[0].value)] = tuple(names)
    return found


def flags_of_settings() -> dict[tuple[str, str], str]:
    """(section, field) -> the flag of ``train`` or ``sample`` that sets it."""
    found = {}
    for command in app.registered_commands:
        assert command.callback is not None
        for knob in knobs_of(command.callback):
            flag = next((part for part in knob.flags.replace(",", " ").split() if part.startswith("--")), "")
            if command.name == "sample":
                found["sample", knob.name] = flag
            elif command.name == "train":
                section = next((s for s in ("data", *SECTIONS) if _has(s, knob.name)), "run")
                found[section, knob.name] = flag
    return found


def _has(section: str, name: str) -> bool:
    return name in {f.name for f in dataclasses.fields(SECTIONS[section])}


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def _cell(text: str) -> str:
    return _escaped(text).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Docstrings mark code with two backticks, Markdown with one; angle brackets would be tags."""
    return text.replace("``", "`").replace("<|endoftext|>", "`<|endoftext|>`").replace("\\`", "`")


PAGES = {"cli.md": cli_page, "config.md": config_page}


def main(check: bool) -> int:
    stale = 0
    for name, page in PAGES.items():
        file, text = DOCS / name, page()
        if check and (not file.is_file() or file.read_text(encoding="utf-8") != text):
            print(f"docs/{name} is not what the code says. Run: python docs/generate.py", file=sys.stderr)
            stale = 1
        elif not check:
            file.write_text(text, encoding="utf-8", newline="\n")
    return stale


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
