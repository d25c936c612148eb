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

from gptscratch.device import fast_dtype
from gptscratch.errors import CheckpointError

# Five rounds with these coefficients bring every singular value into about [0.7, 1.2].
# Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Optimizer(Protocol):
    """What the trainer needs of one."""

    def step(self, scale: float) -> None:
        """Update the parameters in place, from their ``.grad``, at ``scale`` times the peak rate."""

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

    @torch.no_grad()
    def step(self, scale: float) -> None:
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
            torch._foreach_add_(counts, 1)
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
    def step(self, scale: float) -> None:
        rate = self.learning_rate * scale
        for shape, names in self.groups.items():
            parameters = [self.parameters[n] for n in names]
            gradient = torch.stack([p.grad for p in parameters if p.grad is not None])  # (N, rows, columns)
            velocity = self.velocity[shape].lerp_(gradient, 1.0 - self.momentum)
            update = orthogonalized(
                gradient.lerp_(velocity, self.momentum), self.dtype
            )  # Nesterov's look ahead
            if self.weight_decay:
                torch._foreach_mul_(parameters, 1.0 - rate * self.weight_decay)
            step = rate * max(1.0, shape[0] / shape[1]) ** 0.5
            torch._foreach_add_(parameters, list(update.to(parameters[0].dtype).unbind(0)), alpha=-step)

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

    def step(self, scale: float) -> None:
        for part in self.parts:
            part.step(scale)

    def state(self) -> dict[str, Tensor]:
        return {name: tensor for part in self.parts for name, tensor in part.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for part in self.parts:
            part.load(state)


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
