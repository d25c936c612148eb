"""What the import contracts in pyproject.toml cannot express: printing, and reading the environment."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import gptscratch

ROOT = Path(gptscratch.__file__).parent
READS_THE_ENVIRONMENT = {
    "distributed.py",
    "paths.py",  # GPTSCRATCH_HOME
    "accelerate/process.py",  # the threads of OpenMP
    "cli/app.py",  # the shell asks for completions by a variable
}


def names_in(*kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Each node of these kinds, with its file."""
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, kinds):
                yield file.relative_to(ROOT).as_posix(), node


def test_only_the_command_line_prints() -> None:
    printing = {
        file
        for file, node in names_in(ast.Call)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing
    assert {file for file in printing if not file.startswith("cli/")} == set()


def test_the_environment_is_read_in_few_files() -> None:
    found = {
        file
        for file, node in names_in(ast.Attribute)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
    }
    assert found == READS_THE_ENVIRONMENT


def test_no_import_is_relative() -> None:
    relative = {
        file for file, node in names_in(ast.ImportFrom) if isinstance(node, ast.ImportFrom) and node.level
    }
    assert relative == set()
