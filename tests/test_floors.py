"""Some packages, the environment and printing are used in one place only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gptscratch

ROOT = Path(gptscratch.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(file: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it; type checkers' own imports are left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for branch in [
        n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)
    ]:
        branch.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            module = node.module or ""
            for alias in node.names:
                whole = ROOT.parent / Path(*module.split("."), alias.name)
                is_module = whole.with_suffix(".py").is_file() or (whole / "__init__.py").is_file()
                yield f"{module}.{alias.name}" if is_module else module


def ours(file: Path) -> set[str]:
    return {n.removeprefix("gptscratch.") for n in imports_of(file) if n.startswith("gptscratch.")}


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("typer", "cli"), ("rich", "cli"), ("click", "cli"),
        ("torch.distributed", "distributed checkpoint"), ("transformers", "interop"),
        ("platformdirs", "paths"),
    ],
)  # fmt: skip
def test_a_guest_stays_in_its_rooms(package: str, homes: str) -> None:
    for file in FILES:
        guests = [n for n in imports_of(file) if n == package or n.startswith(f"{package}.")]
        at_home = any(name_of(file) == home or name_of(file).startswith(f"{home}.") for home in homes.split())
        assert at_home or not guests, file


def test_the_environment_is_touched_in_three_places() -> None:
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        assert not names & {"environ", "getenv", "putenv"} or name_of(file) in (
            "paths",
            "distributed",
            "accelerate.process",
            "cli.app",  # the shell asks for completions by a variable
        ), file


def test_only_the_command_line_prints() -> None:
    for file in FILES:
        calls = [
            n.func for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)
        ]
        prints = any(isinstance(f, ast.Name) and f.id == "print" for f in calls)
        assert not prints or name_of(file).startswith("cli."), file
