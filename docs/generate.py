"""Writes docs/cli.md and docs/config.md from the settings and commands: ``python docs/generate.py``.

With ``--check`` nothing is written; the exit code is 1 where a page is not what the code says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from gptscratch.cli.app import app
from gptscratch.config import SECTIONS, RunConfig, SampleConfig
from gptscratch.config.setting import Setting, settings_of

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py: change the code, not this page. -->\n"


def cli_page() -> str:
    lines = [
        "# The command line",
        "",
        NOTE,
        '`gptscratch COMMAND --help` prints the same. A default "chosen" is set by the plan, which',
        "`gptscratch train --dry-run` shows. Every other setting of [config.md](config.md) can be given with",
        "`--set key=value`.",
        "",
        "Exit codes: 0 fine, 1 failed, 2 the user's input, 130 interrupted. Results go to stdout, everything",
        "else to stderr.",
    ]
    for name, command in _commands(typer.main.get_command(app)):
        lines += ["", f"## gptscratch {name}", "", _escaped(command.help)]
        if command.epilog:
            lines += ["", "```text", _plain(command.epilog), "```"]
        panels: dict[str, list[str]] = {}
        for param in command.params:
            panel = "Arguments" if param.param_type_name == "argument" else param.rich_help_panel or "Options"
            panels.setdefault(panel, []).append(f"| {_code(_typed(param))} | {_cell(_plain(param.help))} |")
        for panel, rows in panels.items():
            lines += ["", f"### {name}: {panel}", "", "| option | meaning |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its full name: ``runs``, ``runs rm``."""
    for name, command in group.commands.items():
        yield prefix + name, command
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")


def _typed(param: Any) -> str:
    """``-t, --temperature X``"""
    if param.param_type_name == "argument":
        return str(param.metavar)
    flags = ", ".join((*param.opts, *param.secondary_opts))
    return f"{flags} {param.metavar or ''}".strip()


def config_page() -> str:
    lines = [
        "# Every setting",
        "",
        NOTE,
        "A setting is given by `--preset NAME`, `--config FILE.json`, its own flag, or `--set key=value`",
        "(repeatable; `--set data.vocab_size=512` where a bare name would not be clear); the later ones of",
        'these have priority over the earlier. In Python: `train(corpus, n_layer=6)`. A default "chosen" is',
        "set by the plan; a run's config.json holds what was chosen.",
    ]
    for section, cls in (*SECTIONS.items(), ("", SampleConfig), ("", RunConfig)):
        doc = (cls.__doc__ or "").split("\n")[0]
        lines += ["", f"## {cls.__name__}", "", _escaped(doc)]
        lines += ["", "| field | type | default | flag | meaning |", "|---|---|---|---|---|"]
        lines += [row for name, each in settings_of(cls).items() for row in _row(section, name, each)]
    return "\n".join(lines) + "\n"


def _row(section: str, name: str, each: Setting) -> Iterator[str]:
    kind = (
        f"tuple[{each.kind.__name__}, ...]" if each.many else each.kind.__name__ + " or none" * each.optional
    )
    flags = ", ".join(each.flags).replace("/", ", ")
    key = f"{section}.{name}" if section else name
    cells = (_code(key), _code(kind), _escaped(each.default_text), _code(flags), _cell(each.meaning))
    yield f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def _cell(text: str) -> str:
    return _escaped(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Without the marks that keep rich from reading brackets as markup."""
    return text.replace(r"\[", "[")


def _escaped(text: str) -> str:
    """Docstrings mark code with two backticks, Markdown with one; angle brackets would be tags."""
    return _plain(text).replace("``", "`").replace("<|endoftext|>", "`<|endoftext|>`")


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
