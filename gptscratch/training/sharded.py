"""A model whose parameters, gradients and optimizer state are divided among processes: PyTorch's FSDP2.

Each process computes the gradients of its part of a batch. The parameters of a block are gathered while it
computes, and freed again. Source: Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data
Parallel", arXiv:2304.11277.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from gptscratch.accelerate.training import accelerate_training
from gptscratch.config import ModelConfig
from gptscratch.data.document_batches import Batch
from gptscratch.distributed import World
from gptscratch.model.gpt import GPT
from gptscratch.runs.tensors import own_rows
from gptscratch.training.loss import IGNORE
from gptscratch.training.optimizer import LossScale, Muon
from gptscratch.training.replica import LowPrecisionReplica


class ShardedMuon(Muon):
    """Muon, with the matrices of a group shared among the processes, of which each has some rows of all."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        self.ranks = dist.get_world_size()
        super().__init__(*given, **settings)

    def orthogonalized(self, matrices: Tensor, rows: int) -> Tensor:
        """Each process gathers the rows of its share, and sends back those of the others' results."""
        count, own_rows, columns = matrices.shape
        shares = [len(part) for part in torch.arange(count).tensor_split(self.ranks)]
        share = shares[dist.get_rank()]
        most = math.ceil(rows / self.ranks)
        heights = [min(most, max(0, rows - rank * most)) for rank in range(self.ranks)]
        here = [share * height * columns for height in heights]  # numbers of the share, by their process
        there = [n * own_rows * columns for n in shares]  # numbers here, by the process that takes them
        gathered = matrices.new_empty(sum(here))
        dist.all_to_all_single(gathered, matrices.flatten(), here, there)
        blocks = [
            b.view(share, h, columns) for b, h in zip(torch.split(gathered, here), heights, strict=True)
        ]
        found = super().orthogonalized(torch.cat(blocks, dim=1), rows)  # (share, rows, columns)
        result = found.new_empty(matrices.numel())
        flat = torch.cat([block.flatten() for block in torch.split(found, heights, dim=1)])
        dist.all_to_all_single(result, flat, there, here)
        return result.view_as(matrices)


class ShardedReplica(LowPrecisionReplica):
    """The interface of ``LowPrecisionReplica`` for a sharded model, whose parameters are cast when gathered.

    The gradients of each micro-batch are summed over the processes, in float32: kept until the last one, they
    would take the memory that sharding saves. All processes make the same number of micro-batches.

    Attributes:
        model: its parameters are DTensors in float32. It is evaluated in the number format of training.
    """

    is_sharded = True
    muon = ShardedMuon

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        dtype: torch.dtype,
        *,
        mask_at: int | None = None,
        r_drop: float = 0.0,
        world: World,
    ) -> None:
        """The random numbers of the parameters are those that ``GPT(config)`` has."""
        model = sharded(config, device, dtype, world)
        super().__init__(model, torch.float32, mask_at=mask_at, r_drop=r_drop, world=world)
        self.evaluated = self.model
        self.loss_scale = LossScale(device) if dtype == torch.float16 else None

    def compile(self, rows: int, tokens: int, on_failure: Callable[[str], None]) -> None:
        """Not done: where it failed in one process alone, the others would wait for it."""
        del rows, tokens
        on_failure("--compile has no effect with --parallel fsdp.")

    def copy_weights(self) -> None:
        """Free what is still gathered: an update changed the rows since, or a checkpoint was loaded."""
        self.model.reshard()  # type: ignore[operator]

    def share(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As many rows for each rank; some may have no target."""
        missing = -len(inputs) % self.world.size
        inputs = np.concatenate((inputs, inputs[[0] * missing]))
        targets = np.concatenate((targets, np.full_like(targets[[0] * missing], IGNORE)))
        return super().share(inputs, targets)

    def share_batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """As many batches for each rank; some may have no target."""
        remaining = iter(batches)
        while together := list(islice(remaining, self.world.size)):
            inputs, targets = together[min(self.world.rank, len(together) - 1)]
            yield inputs, targets if self.world.rank < len(together) else np.full_like(targets, IGNORE)
        self.model.reshard()  # type: ignore[operator]  # else it would end after a backward pass only

    def sum_over_ranks(self, loss: Tensor) -> None:
        self.world.add_up([loss])

    @torch.no_grad()
    def clip_grads(self, max_norm: float) -> Tensor:
        grads = self.grads()
        norm = torch.nn.utils.get_total_norm(grads).square()
        self.world.add_up([norm])
        norm.sqrt_()
        torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))  # as clip_grad_norm_
        return norm

    def saved(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """An optimizer's state with its rows as parts of tensors that are sharded like their parameters."""
        whole, parameters = dict(state), dict[str, Any](self.model.named_parameters())
        for name, tensor in state.items():
            if tensor.ndim:
                like = parameters[name.rpartition(".")[0]]
                whole[name] = DTensor.from_local(
                    tensor, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
                )
        return whole


def sharded(config: ModelConfig, device: torch.device, dtype: torch.dtype, world: World) -> GPT:
    """A model of which this process has a part of the rows of each parameter, initialized as ``GPT(config)``.

    No process ever holds more than one parameter as a whole, and none waits for another. ``dtype`` is that of
    the gathered parameters.
    """
    kept = _Initialization(world)
    with torch.device("meta"), kept:
        model = GPT(config)
    initial = {name: kept.rows[parameter] for name, parameter in model.named_parameters()}
    mesh = init_device_mesh(device.type, (world.size,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for module in (*model.blocks, model):  # the rest of the model is gathered from its start to its end
        part: FSDPModule = fully_shard(module, mesh=mesh, mp_policy=policy)
        part.set_gradient_divide_factor(1.0)  # the sum over the processes, not the mean
        part.set_force_sum_reduction_for_comms(True)  # without which gloo would have to multiply
    register_fsdp_forward_method(model, "hidden")
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            own_rows(parameter).copy_(initial[name])
    return accelerate_training(model)


class _Initialization(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Initializes each meta tensor as a tensor of its own, from the global generator, and keeps some rows."""

    def __init__(self, world: World) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.world = world
        self.rows: dict[Tensor, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func.overloadpacket not in _IN_PLACE:
            return func(*args, **(kwargs or {}))
        full = torch.empty(args[0].shape, device="cpu")
        func(full, *args[1:], **(kwargs or {}))
        parts = *full.chunk(self.world.size), *[full[:0]] * self.world.size
        self.rows[args[0]] = parts[self.world.rank].clone()
        return args[0]


_IN_PLACE = {torch.ops.aten.normal_, torch.ops.aten.uniform_, torch.ops.aten.fill_, torch.ops.aten.zero_}
