"""Several processes that train one run together, started by torchrun; gloo on CPUs, NCCL between GPUs.

The processes are numbered: rank 0 plans, reports and writes; every rank computes the gradients of some rows
of the batch. With one process torch.distributed is not imported, and every function here does nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from gptscratch.errors import RunError, require

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_BUCKET = 1 << 24  # numbers that are sent at once
_PATIENCE = timedelta(days=30)  # for rank 0, which prepares a corpus or saves while the others wait
_ASKING = timedelta(seconds=10)  # for the agent of torchrun
_MEETING = timedelta(minutes=30)  # until all processes have connected

_T = TypeVar("_T")


class PeerError(RunError):
    """Another process of the run has ended, or the connection to it."""


@dataclass(frozen=True)
class World:
    """The processes that train together, and which of them this one is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine
    local_size: int = 1  # how many of them share this machine
    restarts: int = 0  # of all processes, by torchrun
    patient: Any = None  # the process group whose members wait for rank 0 however long it works

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def place(self, device: torch.device) -> torch.device:
        """The device of this process where the run's is ``device``: each process has a GPU of its own.

        Raises:
            ConfigError: this machine has too few GPUs, or the kind of device cannot be shared.
        """
        if self.size == 1 or device.type == "cpu":
            return device
        import torch

        kind, found = device.type, torch.cuda.device_count()
        require(kind == "cuda", f"Several processes cannot train on {kind}.", "Take --device cpu.")
        require(device.index is None, f"All processes would train on {device}.", "Take --device cuda.")
        require(
            self.local_size <= found,
            f"This machine has {found} GPUs for {self.local_size} processes.",
            f"Take --nproc-per-node {found}, or --device cpu.",
        )
        device = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(device)
        return device

    def broadcast(self, value: _T | None = None) -> _T:
        """What rank 0 gives, however long it takes; it is pickled."""
        if self.size == 1:
            return value  # type: ignore[return-value]
        from torch.distributed import broadcast_object_list

        found = [value]
        with peers():
            broadcast_object_list(found, src=0, group=self.patient)
        return found[0]  # type: ignore[return-value]

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Replace the tensors of all ranks by those of rank 0."""
        if self.size > 1:
            from torch.distributed import broadcast

            with peers():
                for tensor in tensors:
                    broadcast(tensor.detach(), src=0)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, which has the same bits on all of them."""
        if self.size == 1:
            return
        import torch
        from torch.distributed import all_reduce

        with peers():
            for bucket in _buckets(tensors):
                sums = torch.cat([tensor.flatten() for tensor in bucket])
                all_reduce(sums)
                parts = torch.split(sums, [tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def agree(self, values: Sequence[float], flag: bool) -> tuple[list[float], bool]:
        """The values of rank 0, and whether any rank raises the flag. It does not wait for a GPU."""
        if self.size == 1:
            return list(values), flag
        import torch
        from torch.distributed import all_reduce

        own = torch.tensor([*values, 0.0], dtype=torch.float64) * self.is_first
        own[-1] = flag
        with peers():
            all_reduce(own, group=self.patient)
        *found, flags = own.tolist()
        return found, flags > 0

    def wait(self) -> None:
        """Until all ranks are here: after work of rank 0 alone, which may take longer than a step."""
        self.agree((), False)

    def is_first_to_report(self) -> bool:
        """Whether no other process has reported an error: all end for one reason, and one tells it."""
        store = self.store()
        return store is None or store.add(f"gptscratch/{self.restarts}/reported", 1) == 1

    def remember(self, call: str, value: str) -> None:
        """Let a later start by the same torchrun recall the value: the agent keeps it."""
        if self.is_first and (store := self.store()):
            store.set(f"gptscratch/{call}", value)

    def recall(self, call: str) -> str | None:
        """What was remembered before torchrun started the processes again; None: nothing."""
        store = self.store() if self.restarts else None
        key = f"gptscratch/{call}"
        return store.get(key).decode() if store and store.check([key]) else None

    def store(self, timeout: timedelta = _ASKING) -> Any:
        """The key-value store of torchrun's agent, which outlives the processes that it starts."""
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return None
        from torch import distributed

        with contextlib.suppress(RuntimeError):  # the agent has ended
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            return distributed.TCPStore(host, port, is_master=False, timeout=timeout)  # type: ignore[attr-defined]
        return None


ALONE = World()


def world() -> World:
    """The world that torchrun describes in the environment; without torchrun one process."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
    return World(*(int(os.environ.get(name, name.endswith("SIZE"))) for name in names))


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Connect the processes of the world; after an error they stay connected until they exit."""
    found = world()
    if found.size == 1:
        yield found
        return
    import dataclasses

    import torch
    from torch import distributed

    if distributed.is_initialized():  # by the caller, or by an outer ``joined``
        yield dataclasses.replace(found, patient=distributed.new_group(backend="gloo", timeout=_PATIENCE))
        return
    with_cuda = torch.cuda.is_available() and distributed.is_nccl_available()
    own: dict[str, Any] = {}
    if store := found.store(_MEETING):  # with a prefix: it holds the addresses of processes that have ended
        store = distributed.PrefixStore(f"gptscratch/{found.restarts}", store)  # type: ignore[attr-defined]
        own = {"store": store, "rank": found.rank, "world_size": found.size}
    with peers():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if with_cuda else "gloo", **own)
        patient = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    yield dataclasses.replace(found, patient=patient)
    distributed.destroy_process_group()


@contextlib.contextmanager
def peers(*, all_errors: bool = True) -> Iterator[None]:
    """Turn a lost connection into one clear line.

    ``all_errors``: a RuntimeError has no other cause here; else its text must name gloo or NCCL.
    """
    try:
        yield
    except RuntimeError as error:
        if not all_errors and not any(name in str(error).lower() for name in ("gloo", "nccl")):
            raise
        raise PeerError(
            "Another process of this run has ended, and this one cannot continue without it.",
            "The last checkpoint is kept: --resume continues from there, and torchrun --max-restarts does so "
            "by itself.",
        ) from error


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(each.numel() for each in bucket) + tensor.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
