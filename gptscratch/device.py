"""Which device and which number format; memory, seeding, and settings of torch in this process."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptscratch.errors import ConfigError, RunError, require

_GROUP = ("max", "current", "stat")
_OLDER = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # CPU, Windows, MPS and CUDA
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def pick_device(name: str) -> torch.device:
    """``auto`` takes CUDA, then Apple's MPS, then the CPU; ``cuda:1`` is the second CUDA device.

    Raises:
        ConfigError: a device that is asked for and is not there.
    """
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if name == "auto":
        name = next(kind for kind, count in there.items() if count)
    kind, _, index = name.partition(":")
    if not (index or "0").isdecimal() or int(index or 0) >= there.get(kind, 0):
        raise ConfigError(f"PyTorch found no {name} device.", "Leave --device out, or take --device cpu.")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type of the matrix products; ``auto`` is ``fast_dtype``.

    Raises:
        ConfigError: an unknown name, or float16 on a CPU, which has no fast float16 products.
    """
    names = ("float32", "bfloat16", "float16")
    require(name in ("auto", *names), f"--dtype is {name!r}: it must be one of auto, {', '.join(names)}.")
    if name == "float16" and device.type == "cpu":
        raise ConfigError("float16 is slow on a CPU and overflows.", "Take --dtype bfloat16 or float32.")
    dtype: torch.dtype = fast_dtype(device) if name == "auto" else getattr(torch, name)
    return dtype


def fast_dtype(device: torch.device) -> torch.dtype:
    """The narrowest float type whose matrix products the hardware computes natively.

    CUDA devices before Ampere (V100, T4, RTX 20) multiply float16 fast, and neither bfloat16 nor TF32.
    """
    if has_fast_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are clearly faster than in float32 there.

    On a CPU by what it reports, not by timing: every process that continues a run must decide the same. The
    ratios are 2.1 with AVX-512 BF16 and 0.2 with AVX2 (tests/benchmarks/fast_paths.py).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        features = cpu_features()
        return uses_avx512() and bool(features["avx512_bf16"] or features["amx_bf16"])
    return False


def uses_avx512() -> bool:
    """Whether torch uses AVX-512 here: environment variables can disable it."""
    return "AVX512" in str(torch.backends.cpu.get_cpu_capability())


@cache
def cpu_features() -> Mapping[str, Any]:
    """``torch.cpu.get_capabilities()``, with what is asked for here in every version of torch."""
    older = {name: getattr(torch.cpu, function, bool) for name, function in _OLDER.items()}
    found = getattr(torch.cpu, "get_capabilities", lambda: {name: asks() for name, asks in older.items()})()
    return {"avx512_bf16": False, "amx_bf16": False, "cpu_name": "", **found}


def slow_dtype_warning(dtype: torch.dtype, device: torch.device) -> str | None:
    """A note for a user who chose a type in which this device is slower than in float32."""
    if dtype != torch.bfloat16 or device.type != "cpu" or has_fast_bfloat16(device):
        return None
    return "This processor has no fast bfloat16 products: --dtype float32 is several times faster here."


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs for this GPU: Triton, and Volta or newer."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (7, 0)


def on_device(array: NDArray[np.int64], device: torch.device) -> Tensor:
    """The array as a tensor there; on a CPU they share their memory.

    Only a copy from pinned memory to CUDA may still run when this returns: torch keeps that memory until the
    copy is done. Any other source may be freed, and its memory used again, before it was read.
    """
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def set_up(device: torch.device, *, spare_memory: bool = False) -> None:
    """Settings of this process for speed that change no result that matters.

    ``spare_memory``: what is freed on a CPU is returned at once, which costs time.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
    if device.type == "cpu":
        torch.set_flush_denormal(True)  # Adam's second moments underflow, and denormals are slow
        # glibc returns large blocks when they are freed, and each page is cleared again in the next step, a
        # tenth to a fifth of its time. Here it keeps them, once what is free now was returned.
        with contextlib.suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL("libc.so.6")
            libc.malloc_trim(0)
            libc.mallopt(_MMAP_THRESHOLD, 1 << (16 if spare_memory else 25))
            libc.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def peak_memory(device: torch.device | None = None) -> int:
    """The most bytes that this process has had at once on a device; 0 where that is not known.

    None is the CPU; it is not known on Windows and of MPS.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device is not None and device.type != "cpu":
        return 0
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def free_memory(device: torch.device) -> int:
    """Bytes that a model may take on the device; 0 where that is not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return min(filter(None, (_free_system_memory(), _free_group_memory())), default=0)


def _free_system_memory() -> int:
    """The available memory on Linux, elsewhere all memory of the machine; 0 on Windows."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def _free_group_memory(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """The memory below a container's limit (cgroup version 2), without file caches; 0: no limit."""
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        limit, used, parts = ((folder / f"memory.{name}").read_text(encoding="ascii") for name in _GROUP)
        cached = dict(line.split() for line in parts.splitlines()).get("inactive_file", "0")
        return max(1, int(limit) - int(used) + int(cached))
    return 0


def is_out_of_memory(error: BaseException) -> bool:
    """By its type, or by its message: only the allocator of CUDA has a type of its own for it."""
    is_typed = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_typed or any(text in str(error) for text in _NO_MEMORY)


@contextlib.contextmanager
def out_of_memory(when: str) -> Iterator[None]:
    """Turn memory that runs out, where nothing smaller can be tried, into one clear line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"Out of memory {when}.",
            "Try a smaller --context-length, --d-model or --layers, or end other programs.",
        ) from None


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Make the randomness of a step (dropout) a function of the step, so that a resumed run has the same.

    Each rank has its own: it computes other rows.
    """
    torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + rank) % 2**63)
