"""The benchmarks are run by hand; here each one starts, and the quick ones do a tiny job."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parent
SCRIPTS = sorted(file.name for file in FOLDER.glob("[!t]*.py")) + sorted(
    file.name for file in FOLDER.glob("train_*.py")
)
JOBS = {
    "gpu_check.py": (
        "--device cpu --shape small --rows 1 --steps 1 --only all-reduce",
        r"of one rank \| [\d.]+ \|  \|",  # without the plain row there is no difference to it
    ),
    "long_run.py": ("--one --gigabytes 0.00001 --steps 20", '"lines": 2'),
    "peak_memory.py": (f"{sys.executable} -c pass", "peak"),
}  # the options, and a pattern of what is printed


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    spec = importlib.util.spec_from_file_location(f"benchmark_{Path(name).stem}", FOLDER / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in JOBS])
def test_a_benchmark_starts(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(name, monkeypatch)
    if name == "sampling_peers.py":  # a part of sample_speed.py
        return
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", JOBS)
def test_a_benchmark_does_a_tiny_job(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options, wanted = JOBS[name]
    module = load(name, monkeypatch)
    monkeypatch.setattr(sys, "argv", [name, *options.split()])
    try:
        module.main()
    except SystemExit as ended:
        assert not ended.code  # noqa: PT017
    finally:
        torch.set_float32_matmul_precision("highest")  # PyTorch's default, which gpu_check changes
    assert re.search(wanted, capfd.readouterr().out)
