"""What a device can do is found out, not assumed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gptscratch import device
from gptscratch.config import TrainConfig
from gptscratch.device import (
    can_compile,
    cpu_features,
    fast_dtype,
    has_fast_bfloat16,
    is_out_of_memory,
    on_device,
    pick_device,
    pick_dtype,
    seed_step,
    slow_dtype_warning,
)
from gptscratch.errors import ConfigError
from gptscratch.training.events import Notice
from gptscratch.training.trainer import resume

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
OLD_PROCESSOR = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


def on_old_processor(code: str) -> str:
    """What a process prints whose libraries use AVX2 only."""
    environment = {**os.environ, **OLD_PROCESSOR, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_with_avx2_only_float32_is_chosen() -> None:
    code = "import torch; from gptscratch.device import pick_dtype as pick; "
    assert on_old_processor(code + "print(pick('auto', torch.device('cpu')))") == "torch.float32"


@pytest.mark.parametrize(
    ("used", "reported", "is_fast"),
    [
        ("AVX512", {"avx512_bf16": True}, True),
        ("AVX512", {"amx_bf16": True}, True),
        ("AVX512", {}, False),
        ("AVX2", {"avx512_bf16": True}, False),
        ("DEFAULT", {}, False),
    ],
)
def test_bfloat16_is_fast_where_the_processor_has_it_and_torch_uses_it(
    used: str, reported: dict[str, bool], is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: used)
    nothing = {"avx512_bf16": False, "amx_bf16": False}
    monkeypatch.setattr(device, "cpu_features", lambda: nothing | reported)
    assert has_fast_bfloat16(CPU) == is_fast
    assert pick_dtype("auto", CPU) == (torch.bfloat16 if is_fast else torch.float32)


def test_an_older_torch_reports_bfloat16_too(monkeypatch: pytest.MonkeyPatch) -> None:
    older = SimpleNamespace(_is_avx512_bf16_supported=lambda: True, _is_amx_tile_supported=lambda: False)
    monkeypatch.setattr(torch, "cpu", older)
    assert cpu_features.__wrapped__() == {"avx512_bf16": True, "amx_bf16": False, "cpu_name": ""}


@pytest.mark.parametrize("fast", [True, False])
def test_slow_bfloat16_is_kept_with_a_warning(
    fit: Callable[..., object], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda _: fast)
    assert (slow_dtype_warning(torch.bfloat16, CPU) is None) == fast
    assert slow_dtype_warning(torch.float32, CPU) is None
    events: list[object] = []
    fit(dtype="bfloat16", steps=2, name="narrow", on_event=events.append)
    resume("narrow", steps=3, on_event=events.append)
    warnings = [event for event in events if isinstance(event, Notice) and "bfloat16" in event.text]
    assert len(warnings) == (0 if fast else 2)


def test_a_gpu_without_bfloat16_works_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported, wanted in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)  # noqa: ARG005, B023
        assert fast_dtype(CUDA) == pick_dtype("auto", CUDA) == wanted


def test_apples_gpu_works_in_float32() -> None:
    assert fast_dtype(MPS) == torch.float32


def test_a_cuda_device_may_be_named_by_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert TrainConfig(device="cuda:1").device == "cuda:1"
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    assert pick_device("auto") == torch.device("cuda")
    with pytest.raises(ConfigError, match="found no cuda:2 device"):
        pick_device("cuda:2")


@pytest.mark.parametrize("name", ["cpu:1", "cuda:", "cuda:x", "tpu", "cuda1"])
def test_a_device_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="it must be one of"):
        TrainConfig(device=name)
    if name != "cuda:":  # the same as cuda
        with pytest.raises(ConfigError, match="found no"):
            pick_device(name)


def test_a_dtype_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="float32, bfloat16, float16"):
        pick_dtype("int9", CPU)


def test_only_pinned_memory_is_copied_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, object]] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        calls.append(("pinned", None))
        return tensor

    def to(tensor: torch.Tensor, where: torch.device, non_blocking: bool = False) -> torch.Tensor:
        calls.append((where.type, non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    for place in (CUDA, MPS, CPU):
        on_device(np.arange(3), place)
    assert calls == [("pinned", None), ("cuda", True), ("mps", False), ("cpu", False)]


@pytest.mark.parametrize(("message", "wanted"), [
    ("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to", True),
    ("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried to", True),
    ("MPS backend out of memory (MPS allocated: 17.93 GB, other allocations: 1.08 MB)", True),
    ("CUDA error: out of memory", True),
    ("CUDA error: an illegal memory access was encountered", False),
])  # fmt: skip
def test_memory_that_runs_out_is_recognized_on_every_device(message: str, wanted: bool) -> None:
    assert is_out_of_memory(RuntimeError(message)) is wanted


def test_on_a_cpu_a_tensor_shares_the_arrays_memory() -> None:
    array = np.arange(3)
    tensor = on_device(array, CPU)
    array[1] = 7
    assert tensor.tolist() == [0, 7, 2]


@pytest.mark.parametrize(("triton", "capability", "wanted"), [
    (True, (7, 0), True), (True, (9, 0), True), (True, (6, 1), False), (False, (9, 0), False),
])  # fmt: skip
def test_compiling_takes_triton_and_a_gpu_that_it_knows(
    monkeypatch: pytest.MonkeyPatch, triton: bool, capability: tuple[int, int], wanted: bool
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object() if triton else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert can_compile(CUDA) is wanted
    assert not can_compile(CPU)
    assert not can_compile(MPS)


def test_each_step_of_each_rank_has_its_own_random_numbers_every_time() -> None:
    def numbers(seed: int, step: int, rank: int) -> tuple[float, ...]:
        seed_step(seed, step, rank)
        return tuple(torch.rand(4).tolist())

    places = [(1, 2, 0), (1, 2, 1), (1, 3, 0), (2, 2, 0)]
    found = [numbers(*place) for place in places]
    assert len(set(found)) == len(places)
    assert [numbers(*place) for place in places] == found
