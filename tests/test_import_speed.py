"""Nothing heavy is loaded before it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import gptscratch

LIGHT = ["torch", "numpy", "tokenizers", "safetensors", "typer", "rich", "transformers"]


def loaded_by(statement: str, names: list[str]) -> list[str]:
    """Which of these modules a fresh Python holds after a statement."""
    code = f"import sys\n{statement}\nprint([n for n in {names} if n in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return list(eval(done.stderr.strip().splitlines()[-1]))


def test_presets_and_configs_load_nothing_heavy() -> None:
    assert loaded_by("from gptscratch import ModelConfig, PRESETS, UserError", LIGHT) == []


def test_training_loads_neither_the_compiler_nor_the_command_line() -> None:
    heavy = ["torch._dynamo", "torch._inductor", "sympy", "transformers", "typer", "rich"]
    assert loaded_by("import gptscratch.training.trainer", heavy) == []


def test_help_needs_no_torch() -> None:
    for arguments in (["--help"], ["train", "--help"]):
        statement = f"sys.argv = ['gptscratch', *{arguments}]\nfrom gptscratch.cli.app import main\n"
        statement += "try: main()\nexcept SystemExit: pass"
        assert loaded_by(statement, ["torch", "numpy", "tokenizers"]) == []


def test_sampling_loads_no_compiler(tale: Path) -> None:
    use = f"load({str(tale)!r}).accelerated().generate('the', max_tokens=2)"
    assert (
        loaded_by(
            f"from gptscratch import load\n{use}", ["torch._dynamo", "sympy", "transformers", "typer", "rich"]
        )
        == []
    )


def test_no_public_name_is_hidden_by_a_module() -> None:
    """A submodule of the same name would hide a function once it is loaded."""
    for names in (gptscratch.__all__, reversed(gptscratch.__all__)):
        for name in names:
            assert not isinstance(getattr(gptscratch, name), ModuleType), name
