"""Muon and AdamW as their equations, over plain lists of tensors, and the loss scale of float16.

They are not torch.optim.Optimizer: docs/decisions/own-optimizers.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptscratch import sizing
from gptscratch.config import TrainConfig
from gptscratch.device import fast_dtype
from gptscratch.runs.tensors import own_rows

# Five rounds with these coefficients bring every singular value into about [0.7, 1.2].
# Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_STEPS_TO_GROW = 2000  # with finite gradients, after which the loss scale is doubled


class Updates(Protocol):
    """A part of an optimizer, with parameters of its own."""

    state: dict[str, Tensor]

    def update(self, lr_scale: float, finite: Tensor) -> None: ...


class Optimizer:
    """Updates parameters in place, from their gradients.

    Attributes:
        state: named tensors that a checkpoint keeps; ``step`` changes them in place.
        rate_factor: of all learning rates.
    """

    rate_factor = 1.0

    def __init__(self, *parts: Updates) -> None:
        self.parts = parts
        self.state = {name: tensor for part in parts for name, tensor in part.state.items()}

    @torch.no_grad()
    def step(self, lr_scale: float, finite: Tensor) -> None:
        """One update, at ``lr_scale`` times the peak learning rate.

        ``finite``: () bool, on the parameters' device; where it is False no parameter and no moment changes,
        and the host does not wait for its value.
        """
        for part in self.parts:
            part.update(lr_scale * self.rate_factor, finite)


def make_optimizer(
    model: nn.Module,
    config: TrainConfig,
    loss_scale: LossScale | None = None,
    *,
    muon: type[Muon] | None = None,
) -> Optimizer:
    """One optimizer over all of the model's parameters that are trained.

    ``muon`` takes the matrices of ``model.blocks`` and leaves the rest (embeddings, lm_head, norms, biases)
    to AdamW at its own learning rate; ``adamw`` takes everything. Decay is decoupled and spares vectors.
    ``muon``: a kind of Muon whose work is shared by several processes.
    """
    rest = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parts: list[Updates] = []
    learning_rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "muon":
        matrices = {n: p for n, p in rest.items() if n.startswith("blocks.") and p.ndim == 2}
        rest = {n: p for n, p in rest.items() if n not in matrices}
        fast = config.muon_dtype == "auto"
        dtype = fast_dtype(next(model.parameters()).device) if fast else getattr(torch, config.muon_dtype)
        kind = muon or Muon
        part = kind(
            matrices, learning_rate, config.momentum,
            weight_decay=decay, dtype=dtype, block_rows=config.muon_block_rows,
        )  # fmt: skip
        parts.append(part)
        learning_rate = config.adamw_learning_rate
    if rest:  # adapters are matrices alone
        parts.append(AdamW(rest, learning_rate, (config.beta1, config.beta2), weight_decay=decay))
    return Optimizer(*parts, *([loss_scale] if loss_scale else []))


class AdamW:
    """Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", by torch's fused kernel."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.95),
        *,
        weight_decay: float = 0.0,
        epsilon: float = 1e-8,
    ) -> None:
        self.learning_rate, self.betas, self.epsilon = learning_rate, betas, epsilon
        self.state: dict[str, Tensor] = {}
        for name, parameter in parameters.items():
            self.state[f"{name}.first"] = torch.zeros_like(own_rows(parameter))
            self.state[f"{name}.second"] = torch.zeros_like(own_rows(parameter))
            self.state[f"{name}.count"] = torch.zeros((), device=parameter.device)
        matrices = {name: p for name, p in parameters.items() if p.ndim >= 2}
        others = {name: p for name, p in parameters.items() if p.ndim < 2}
        self.groups = [(matrices, weight_decay), (others, 0.0)]
        # The fused kernel of Apple's GPUs ignores found_inf and reports nothing.
        device = next(iter(parameters.values())).device
        self.waits_for_finite = device.type not in ("cpu", "cuda")

    def update(self, lr_scale: float, finite: Tensor) -> None:
        if self.waits_for_finite and not finite:
            return
        for parameters, weight_decay in self.groups:
            grads = {name: own_rows(p.grad) for name, p in parameters.items() if p.grad is not None}
            if not grads:
                continue
            own = [own_rows(parameters[name]) for name in grads]
            first, second, count = (
                [self.state[f"{name}.{part}"] for name in grads] for part in ("first", "second", "count")
            )
            torch._foreach_add_(count, finite.float())
            torch._fused_adamw_(
                own, list(grads.values()), first, second, [], count,
                lr=self.learning_rate * lr_scale, beta1=self.betas[0], beta2=self.betas[1],
                weight_decay=weight_decay, eps=self.epsilon, amsgrad=False, maximize=False,
                found_inf=(~finite).float(),
            )  # fmt: skip


class Muon:
    """Momentum whose update is orthogonalized; matrices of one shape go through it as one batch.

    Source: Jordan et al. 2024; the factor max(1, rows / columns)^0.5 is theirs, too. Blocks of rows in place
    of whole matrices: docs/decisions/own-optimizers.md.
    """

    ranks = 1  # processes that share the work

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        learning_rate: float,
        momentum: float = 0.95,
        *,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
        block_rows: int = 0,
        at_once: int = sizing.MUON_AT_ONCE,
    ) -> None:
        """``dtype``, ``block_rows``: see ``orthogonalized``. ``at_once``: numbers worked on at a time."""
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.dtype, self.block_rows = dtype, block_rows
        self.state: dict[str, Tensor] = {}
        self.groups: list[tuple[list[Tensor], Tensor]] = []  # matrices of a shape, (N, own rows, columns)
        shapes: dict[torch.Size, list[str]] = defaultdict(list)
        for name, parameter in parameters.items():
            shapes[parameter.shape].append(name)
        for shape, names in shapes.items():
            own = own_rows(parameters[names[0]])
            velocity = torch.zeros(len(names), *own.shape, device=own.device)
            self.state |= dict(zip([f"{name}.velocity" for name in names], velocity, strict=True))
            some = max(1, self.ranks * at_once // shape.numel())
            for start in range(0, len(names), some):
                part = slice(start, start + some)
                self.groups.append(([parameters[name] for name in names[part]], velocity[part]))

    def update(self, lr_scale: float, finite: Tensor) -> None:
        learning_rate = self.learning_rate * lr_scale
        for parameters, velocity in self.groups:
            rows, columns = parameters[0].shape
            matrices = [own_rows(parameter) for parameter in parameters]
            gradient = torch.stack([own_rows(p.grad) for p in parameters])  # (N, own rows, columns)
            gradient = torch.where(finite, gradient, velocity)  # which leaves the velocity as it is
            velocity.lerp_(gradient, 1.0 - self.momentum)
            gradient.lerp_(velocity, self.momentum)  # Nesterov's look-ahead
            step = self.orthogonalized(gradient, rows).to(velocity.dtype) * finite
            if self.weight_decay:
                decay = torch.where(finite, 1.0 - learning_rate * self.weight_decay, 1.0)
                torch._foreach_mul_(matrices, decay)
            factor = learning_rate if self.block_rows else learning_rate * max(1.0, rows / columns) ** 0.5
            torch._foreach_add_(matrices, list(step.unbind(0)), alpha=-factor)

    def orthogonalized(self, matrices: Tensor, rows: int) -> Tensor:
        """Those of a group, of which this process has all ``rows``."""
        del rows
        return orthogonalized(matrices, self.dtype, self.block_rows)


def orthogonalized(
    matrices: Tensor, dtype: torch.dtype = torch.float32, block_rows: int = 0, rounds: int = 5
) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, by a quintic Newton-Schulz iteration.

    Args:
        matrices: (N, rows, columns), of any float type.
        dtype: of the products. Half precision is enough, and slow where the hardware has no products of it.
        block_rows: the rows of a block, at most as many as columns; 0: work on whole matrices. An
            element of a block has the root mean square columns^-0.5, that of a whole matrix times
            max(1, rows / columns)^0.5.

    Returns:
        (N, rows, columns) in ``dtype``: singular values near 1, singular vectors as they were.
    """
    a, b, c = _NEWTON_SCHULZ
    _, rows, columns = matrices.shape
    is_tall = rows > columns and not block_rows
    height = min(block_rows or rows, rows, columns)
    x = F.pad(matrices, (0, 0, 0, -rows % height)) if block_rows else matrices  # rows of zeros stay zero
    shape = x.shape
    x = x.mT if is_tall else x.view(shape[:2].numel() // height, height, columns)
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)  # float16 does not hold every gradient
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x.view(shape).narrow(1, 0, rows)


class LossScale:
    """A factor of the loss that keeps its gradients within float16; they are divided by it again.

    Halved where a gradient is not finite, and doubled after many that are (Micikevicius et al. 2018, "Mixed
    Precision Training", section 3.2). It is always a power of two: multiplying by it is exact.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), 2.0**14, device=device)
        self.finite_steps = torch.zeros((), device=device)
        self.state = {"loss_scale": self.scale, "loss_scale.finite_steps": self.finite_steps}

    def update(self, lr_scale: float, finite: Tensor) -> None:
        del lr_scale
        self.finite_steps.add_(1.0).mul_(finite)
        grows = self.finite_steps >= _STEPS_TO_GROW
        self.scale.mul_(torch.where(finite, torch.where(grows, 2.0, 1.0), 0.5)).clamp_(1.0, 2.0**24)
        self.finite_steps.mul_(~grows)
