"""The house stands as docs say: imports go strictly down, and some things live in one place only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gptscratch

ROOT = Path(gptscratch.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

F0 = "errors config presets paths sizing threads"
F1 = (
    "linear model tokenizer storage run_folder data sampling repeats novelty device distributed "
    "training.schedule training.optimizer training.state training.loss training.horizon"
)
F2 = (
    "checkpoint generation decode context decoder quantize packing position_tables row_products reply trace "
    "metrics interop training.step training.evaluate training.hooks training.events training.planner "
    "training.rules training.anneal training.notices"
)
FLOORS = {room: floor for floor, rooms in enumerate((F0, F1, F2)) for room in rooms.split()}
# What is named nowhere is a job: F3.
FLOORS |= {"data.encode": 2}
FLOORS |= {
    "data.tokens": 3,
    "data.remember": 3,
    "data.prepare": 3,
    "data.existing": 3,
    "data.stats": 3,
    "data.overlap": 3,
    "cli": 4,
    "__main__": 4,
}

# Neighbours on one floor that may know each other, in this direction.
STAIRS = {
    ("distributed", "device"),
    ("device", "linear"),
    ("model", "linear"),
    ("model", "device"),
    ("training.loss", "linear"),
    ("training.optimizer", "device"),
    ("training.horizon", "training.state"),
    ("checkpoint", "generation"),
    ("generation", "decode"),
    ("generation", "decoder"),
    ("generation", "reply"),
    ("generation", "trace"),
    ("trace", "reply"),
    ("generation", "packing"),
    ("generation", "quantize"),
    ("decode", "decoder"),
    ("decode", "context"),
    ("context", "decoder"),
    ("decoder", "packing"),
    ("decoder", "position_tables"),
    ("decoder", "row_products"),
    ("quantize", "packing"),
    ("metrics", "training.events"),
    ("training.events", "training.planner"),
    ("training.planner", "training.rules"),
    ("training.planner", "training.notices"),
    ("training.notices", "training.rules"),
    ("training.hooks", "checkpoint"),
    ("training.hooks", "training.evaluate"),
    ("training.hooks", "training.events"),
    ("training.hooks", "training.step"),
}


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """The longest name above that the module lies in; its own if none does."""
    parts = module.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in names if name in FLOORS), module)


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


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_strictly_down(file: Path) -> None:
    own = room_of(name_of(file))
    for other in map(room_of, ours(file)):
        if (
            own == other
            or (own, other) in STAIRS
            or (FLOORS.get(own, 3) == FLOORS.get(other, 3) in (0, 3, 4))
        ):
            continue
        assert FLOORS.get(other, 3) < FLOORS.get(own, 3), f"{own} imports {other}"


def test_no_module_is_in_a_circle() -> None:
    # cli's commands reach back into cli.app and cli.sample from inside functions: not held to it yet.
    graph = {name_of(file): ours(file) for file in FILES if room_of(name_of(file)) != "cli"}

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        for other in graph.get(module, ()):
            visit(other, (*path, module))

    for module in graph:
        visit(module, ())


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
            "threads",
            "cli.app",  # the shell asks for completions by a variable
        ), file


def test_the_ground_floor_knows_no_torch() -> None:
    for file in FILES:
        if FLOORS.get(room_of(name_of(file))) == 0:
            assert not {n.partition(".")[0] for n in imports_of(file)} & {"torch", "numpy", "safetensors"}, (
                file
            )


def test_only_the_command_line_prints() -> None:
    for file in FILES:
        calls = [
            n.func for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)
        ]
        prints = any(isinstance(f, ast.Name) and f.id == "print" for f in calls)
        assert not prints or name_of(file).startswith("cli."), file
