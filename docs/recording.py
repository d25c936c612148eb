"""Makes docs/recording.svg, the picture in the README, from a real run: ``python docs/recording.py``.

It runs the commands in a new, empty GPTSCRATCH_HOME and draws the terminal as it looks at the end.
``--minutes 5`` is the default of gptscratch train, so this takes a bit longer than five minutes.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 92
ESCAPE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")


def screen(output: str) -> list[str]:
    """The lines of a terminal after ``output``, with carriage returns, erasing and cursor moves applied."""
    lines, row = [""], 0
    position = 0
    while position < len(output):
        escape = ESCAPE.match(output, position)
        if escape:
            if escape[2] == "A":
                row = max(0, row - int(escape[1] or 1))
            elif escape[2] == "K":
                lines[row] = ""
            elif escape[2] == "m":
                lines[row] += escape[0]
            position = escape.end()
        elif output[position] == "\n":
            row += 1
            lines += [""] * (row == len(lines))
            position += 1
        elif output[position] == "\r":
            # What follows replaces the line; "\r\n" only ends it.
            if not output.startswith("\r\n", position):
                lines[row] = ""
            position += 1
        else:
            lines[row] += output[position]
            position += 1
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def record(commands: list[str], home: str) -> str:
    """The SVG of these commands and what they print."""
    environment = {**os.environ, "GPTSCRATCH_HOME": home, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for command in commands:
        done = subprocess.run(
            shlex.split(command),
            env={**environment, "TERM": "xterm-256color"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=True,
        )
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        for line in screen(done.stdout.decode().replace(home, "~/.cache/gptscratch")):
            console.print(Text.from_ansi(line), soft_wrap=True)
        console.print()
    picture = console.export_svg(title="gptscratch")
    # Rich refers to fonts on a server; the picture must not need the network.
    picture = re.sub(r"@font-face \{.*?\}\n", "", picture, flags=re.DOTALL)
    return picture.replace("Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", default="", help='more options of gptscratch train, e.g. "--minutes 1"')
    parser.add_argument("--sample", default='--prompt "The " --seed 1 --max-tokens 300')
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("recording.svg"))
    given = parser.parse_args()
    commands = [f"gptscratch train {given.train}".strip(), f"gptscratch sample {given.sample}".strip()]
    with tempfile.TemporaryDirectory() as home:
        given.out.write_text(record(commands, home), encoding="utf-8")


if __name__ == "__main__":
    main()
