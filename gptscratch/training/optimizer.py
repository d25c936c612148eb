"""Muon and AdamW as their equations, over plain lists of tensors.

They are not torch.optim.Optimizer: importing that loads the compiler (more than a second, a tenth of a
short run), and state that is a flat dict of named tensors goes into safetensors as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from gptscratch import sizing
from gptscratch.device import fast_dtype
from gptscratch.errors import CheckpointError

# Five rounds with these coefficients bring every singular value into about [0.7, 1.2].
# Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_STEPS_TO_GROW = 2000  # of finite gradients, after which the loss scale is doubled


class Optimizer(Protocol):
    """What the trainer needs of one."""

    def step(self, scale: float, finite: Tensor) -> None:
        """Update the parameters in place, from their ``.grad``, at ``scale`` times the peak rate.

        ``finite``: () bool, on the parameters' device; where it is False nothing changes. The host does not
        wait for its value.
        """

    def state(self) -> dict[str, Tensor]:
        """The live state by name; nothing is copied."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what ``state()`` gave, among other things.

        Raises:
            CheckpointError: a tensor is missing or of another shape.
        """


def make_optimizer(
    model: nn.Module,
    *,
    optimizer: str,
    learning_rate: float,
    adamw_learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    momentum: float,
) -> Optimizer:
    """One optimizer over all of the model's parameters.

    ``muon`` takes the matrices of ``model.blocks`` and leaves the rest (embeddings, lm_head, norms, biases)
    to AdamW at its own rate; ``adamw`` takes everything. Decay is decoupled and spares vectors.
    Muon multiplies in the fastest type of the model's device.
    """
    named = dict(model.named_parameters())
    matrices = {n: p for n, p in named.items() if n.startswith("blocks.") and p.ndim == 2}
    if optimizer == "adamw":
        return AdamW(named, learning_rate=learning_rate, betas=betas, weight_decay=weight_decay)
    rest = {n: p for n, p in named.items() if n not in matrices}
    return Together(
        Muon(
            matrices,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            dtype=fast_dtype(next(model.parameters()).device),
        ),
        AdamW(rest, learning_rate=adamw_learning_rate, betas=betas, weight_decay=weight_decay),
    )


class AdamW:
    """Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", by torch's fused kernel."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        epsilon: float = 1e-8,
    ) -> None:
        self.parameters = dict(parameters)
        self.learning_rate = learning_rate
        self.betas = betas
        self.weight_decay = weight_decay
        self.epsilon = epsilon
        self.first = {n: torch.zeros_like(p) for n, p in self.parameters.items()}
        self.second = {n: torch.zeros_like(p) for n, p in self.parameters.items()}
        self.count = {n: torch.zeros((), device=p.device) for n, p in self.parameters.items()}
        # The fused kernel of Apple's GPUs ignores found_inf, without a word.
        self.waits_for_finite = any(p.device.type not in ("cpu", "cuda") for p in self.parameters.values())

    @torch.no_grad()
    def step(self, scale: float, finite: Tensor) -> None:
        if self.waits_for_finite and not finite:
            return
        counted, skipped = finite.float(), (~finite).float()
        for decays in (True, False):
            gradients = {
                n: p.grad
                for n, p in self.parameters.items()
                if p.grad is not None and (p.ndim >= 2) is decays
            }
            if not gradients:
                continue
            names = list(gradients)
            counts = [self.count[n] for n in names]
            torch._foreach_add_(counts, counted)
            torch._fused_adamw_(
                [self.parameters[n] for n in names],
                list(gradients.values()),
                [self.first[n] for n in names],
                [self.second[n] for n in names],
                [],
                counts,
                lr=self.learning_rate * scale,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=self.weight_decay if decays else 0.0,
                eps=self.epsilon,
                amsgrad=False,
                maximize=False,
                found_inf=skipped,
            )

    def state(self) -> dict[str, Tensor]:
        return {
            f"{n}.{part}": tensors[n]
            for part, tensors in (("first", self.first), ("second", self.second), ("count", self.count))
            for n in self.parameters
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        _copy(state, self.state())


class Muon:
    """Momentum whose update is orthogonalised; all matrices of one shape go through it as one batch.

    Source: Jordan et al. 2024; the scale max(1, rows / columns)^0.5 is theirs, too.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        learning_rate: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """``dtype``: of the products that orthogonalize the update."""
        self.parameters = dict(parameters)
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.dtype = dtype
        self.groups: dict[torch.Size, list[str]] = defaultdict(list)
        for name, parameter in self.parameters.items():
            self.groups[parameter.shape].append(name)
        self.velocity = {
            shape: torch.zeros(len(names), *shape, device=self.parameters[names[0]].device)
            for shape, names in self.groups.items()
        }

    @torch.no_grad()
    def step(self, scale: float, finite: Tensor) -> None:
        for shape, names in self.groups.items():
            some = max(1, sizing.MUON_AT_ONCE // shape.numel())
            for start in range(0, len(names), some):
                parameters = [self.parameters[n] for n in names[start : start + some]]
                self._update(parameters, self.velocity[shape][start : start + some], scale, finite)

    def _update(self, parameters: list[Tensor], velocity: Tensor, scale: float, finite: Tensor) -> None:
        """Matrices of one shape, (rows, columns) each, and their velocity (N, rows, columns)."""
        rate = self.learning_rate * scale
        gradient = torch.stack([p.grad for p in parameters if p.grad is not None])  # (N, rows, columns)
        gradient = torch.where(finite, gradient, velocity)  # so that velocity stays what it is
        velocity.lerp_(gradient, 1.0 - self.momentum)
        update = orthogonalized(gradient.lerp_(velocity, self.momentum), self.dtype)  # Nesterov's look ahead
        update = update.to(parameters[0].dtype) * finite
        if self.weight_decay:
            torch._foreach_mul_(parameters, torch.where(finite, 1.0 - rate * self.weight_decay, 1.0))
        step = rate * max(1.0, update.size(1) / update.size(2)) ** 0.5
        torch._foreach_add_(parameters, list(update.unbind(0)), alpha=-step)

    def state(self) -> dict[str, Tensor]:
        return {
            f"{name}.velocity": self.velocity[shape][i]
            for shape, names in self.groups.items()
            for i, name in enumerate(names)
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        _copy(state, self.state())


class Together:
    """Several optimizers as one; each holds its own parameters."""

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts

    def step(self, scale: float, finite: Tensor) -> None:
        for part in self.parts:
            part.step(scale, finite)

    def state(self) -> dict[str, Tensor]:
        return {name: tensor for part in self.parts for name, tensor in part.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for part in self.parts:
            part.load(state)


class LossScale:
    """By how much a loss is multiplied so that its gradients fit into float16, and divided out of them again.

    Halved where a gradient is not finite, whose update is skipped, and doubled after many that are
    (Micikevicius et al. 2018, "Mixed Precision Training", section 3.2). It is saved with the optimizers'
    state, so that a resumed run scales as the uninterrupted one.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), 2.0**14, device=device)  # a power of two, always: products are exact
        self.finite_steps = torch.zeros((), device=device)

    @torch.no_grad()
    def step(self, scale: float, finite: Tensor) -> None:
        del scale
        self.finite_steps.add_(1.0).mul_(finite)
        grows = self.finite_steps >= _STEPS_TO_GROW
        self.scale.mul_(torch.where(finite, torch.where(grows, 2.0, 1.0), 0.5)).clamp_(1.0, 2.0**24)
        self.finite_steps.mul_(~grows)

    def state(self) -> dict[str, Tensor]:
        return {"loss_scale": self.scale, "loss_scale.finite_steps": self.finite_steps}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """A state from training in another type has none; then it begins as in a new run."""
        if "loss_scale" in state:
            _copy(state, self.state())


def orthogonalized(matrices: Tensor, dtype: torch.dtype = torch.float32, rounds: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, by a quintic Newton-Schulz iteration.

    Args:
        matrices: (N, rows, columns), of any float type.
        dtype: of the products. Half precision is enough, and slow where the hardware has no products of it.

    Returns:
        (N, rows, columns) in ``dtype``: singular values near 1, singular vectors as they were.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrices.mT if matrices.size(-2) > matrices.size(-1) else matrices
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)  # float16 does not hold every gradient
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if matrices.size(-2) > matrices.size(-1) else x


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        if name not in source or source[name].shape != tensor.shape:
            raise CheckpointError(f"The optimizer's state does not fit: {name} is missing or misshapen.")
    for name, tensor in target.items():
        tensor.copy_(source[name])
