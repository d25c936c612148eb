"""AdamW and Muon against torch's own and against the published algorithm, matrix by matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gptscratch.config import ModelConfig, TrainConfig
from gptscratch.errors import CheckpointError
from gptscratch.model.gpt import GPT
from gptscratch.runs.checkpoint import load_optimizer
from gptscratch.runs.tensors import save_tensors
from gptscratch.training import optimizer as module
from gptscratch.training.optimizer import (
    AdamW,
    Muon,
    Optimizer,
    Updates,
    make_optimizer,
    orthogonalized,
)

SHAPES = {"tall": (24, 8), "flat": (8, 24), "flat 2": (8, 24), "square": (16, 16), "two blocks": (100, 70)}
STEPS = 6
FINITE = torch.tensor(True)


def parameters(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=chance) for name, shape in shapes.items()}


def run(
    optimizer: Optimizer | Updates, tensors: dict[str, Tensor], steps: int = STEPS, first: int = 0
) -> dict[str, Tensor]:
    optimizer = optimizer if isinstance(optimizer, Optimizer) else Optimizer(optimizer)
    for step in range(first, first + steps):
        chance = torch.Generator().manual_seed(100 + step)
        for tensor in tensors.values():
            tensor.grad = torch.randn(tensor.shape, generator=chance) * (1 + step)
        optimizer.step(scale(step), FINITE)
    return tensors


def scale(step: int) -> float:
    return 1.0 - 0.1 * step


def run_theirs(
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
    tensors: dict[str, Tensor],
    split: Callable[[Tensor], Sequence[Tensor]] = lambda tensor: [tensor],
) -> dict[str, Tensor]:
    theirs = {name: [torch.nn.Parameter(part) for part in split(t)] for name, t in tensors.items()}
    optimizer = make([part for parts in theirs.values() for part in parts])
    peaks = [group["lr"] for group in optimizer.param_groups]
    for step in range(STEPS):
        chance = torch.Generator().manual_seed(100 + step)
        for name, tensor in tensors.items():
            grads = split(torch.randn(tensor.shape, generator=chance) * (1 + step))
            for part, grad in zip(theirs[name], grads, strict=True):
                part.grad = grad
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * scale(step)
        optimizer.step()
    return {name: torch.cat([part.detach() for part in parts]) for name, parts in theirs.items()}


def test_adamw_is_torchs_with_decay_on_matrices_only() -> None:
    shapes = {**SHAPES, "vector": (8,), "bias": (24,)}
    tensors = parameters(shapes)
    found = run(AdamW(tensors, learning_rate=0.05, betas=(0.8, 0.95), weight_decay=0.3), tensors)

    def theirs(given: list[Tensor]) -> torch.optim.Optimizer:
        groups = [
            {"params": [p for p in given if p.ndim == 2], "weight_decay": 0.3},
            {"params": [p for p in given if p.ndim == 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=0.05, betas=(0.8, 0.95))

    torch.testing.assert_close(found, run_theirs(theirs, parameters(shapes)))


def test_where_the_fused_kernel_ignores_that_a_gradient_is_not_finite_it_is_not_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors = parameters(SHAPES)
    adamw = AdamW(tensors, learning_rate=0.1)
    assert not adamw.waits_for_finite
    meta = {name: torch.empty(shape, device="meta") for name, shape in SHAPES.items()}
    assert AdamW(meta, learning_rate=0.1).waits_for_finite
    real = torch._fused_adamw_

    def on_apple(*given: Any, found_inf: Tensor, **options: Any) -> None:
        del found_inf
        real(*given, **options)

    monkeypatch.setattr(torch, "_fused_adamw_", on_apple)
    adamw.waits_for_finite = True
    for tensor in tensors.values():
        tensor.grad = torch.full_like(tensor, torch.nan)
    adamw.update(1.0, torch.tensor(False))
    torch.testing.assert_close(tensors, parameters(SHAPES), rtol=0, atol=0)
    assert not any(tensor.any() for tensor in adamw.state.values())


def blocks(matrix: Tensor, rows: int) -> tuple[Tensor, ...]:
    """With ``rows`` rows each, at most as many as there are columns; 0: the whole matrix."""
    return matrix.split(min(rows, *matrix.shape)) if rows else (matrix,)


def published_muon(gradients: list[Tensor], weight: Tensor, *, lr: float, momentum: float) -> Tensor:
    """Jordan et al. 2024 as in their listing, one matrix, in float32."""
    buffer = torch.zeros_like(weight)
    for step, g in enumerate(gradients):
        buffer = momentum * buffer + (1 - momentum) * g
        update = (1 - momentum) * g + momentum * buffer
        a, b, c = 3.4445, -4.7750, 2.0315
        x = update / (update.norm() + 1e-7)
        x = x.T if x.size(0) > x.size(1) else x
        for _ in range(5):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        x = x.T if weight.size(0) > weight.size(1) else x
        weight = weight - lr * scale(step) * max(1, weight.size(0) / weight.size(1)) ** 0.5 * x
    return weight


@pytest.mark.parametrize("rows", [0, 64])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.03)])
def test_muon_is_the_published_algorithm_for_matrices_and_for_blocks(
    dtype: torch.dtype, tolerance: float, rows: int
) -> None:
    tensors = parameters(SHAPES)
    gradients: dict[str, list[Tensor]] = {name: [] for name in SHAPES}
    for step in range(STEPS):
        chance = torch.Generator().manual_seed(100 + step)
        for name, shape in SHAPES.items():
            gradients[name].append(torch.randn(shape, generator=chance) * (1 + step))
    before = parameters(SHAPES)
    found = run(Muon(tensors, learning_rate=0.1, momentum=0.9, dtype=dtype, block_rows=rows), tensors)
    for name, start in before.items():
        parts = zip(*(blocks(gradient, rows) for gradient in gradients[name]), strict=True)
        wanted = torch.cat([
            published_muon(list(part), block, lr=0.1, momentum=0.9)
            for part, block in zip(parts, blocks(start, rows), strict=True)
        ])  # fmt: skip
        way = (wanted - start).norm()
        assert (found[name] - wanted).norm() < tolerance * way


@pytest.mark.parametrize("rows", [0, 64])
def test_muon_is_torchs_with_a_parameter_for_each_block(rows: int) -> None:
    tensors = parameters(SHAPES)
    found = run(Muon(tensors, learning_rate=0.1, weight_decay=0.2, block_rows=rows), tensors)

    def make(given: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Muon(given, lr=0.1, momentum=0.95, weight_decay=0.2, nesterov=True)

    theirs = run_theirs(make, parameters(SHAPES), lambda tensor: blocks(tensor, rows))
    torch.testing.assert_close(found, theirs, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 48, 16), (3, 16, 48), (2, 32, 32)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(noise, full_matrices=False)
    matrices = u * torch.linspace(0.1, 5.0, min(shape[1:])) @ vh
    found = orthogonalized(1e6 * matrices, dtype)  # beyond float16's range
    assert (found.dtype, found.shape) == (dtype, shape)
    found = found.float()
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert (u.mT @ found @ vh.mT).diagonal(dim1=-2, dim2=-1).min() > 0.5  # U and V of the input


@pytest.mark.parametrize("at_once", [1, 200, 1 << 24])
def test_muon_moves_the_same_however_many_matrices_it_works_on_at_once(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    shapes = {f"matrix {i}": (8, 12) for i in range(5)}
    tensors = parameters(shapes)
    muon = Muon(tensors, learning_rate=0.1, weight_decay=0.1, at_once=at_once)
    calls: list[int] = []
    real = module.orthogonalized

    def counting(matrices: Tensor, *options: Any) -> Tensor:
        calls.append(len(matrices))
        return real(matrices, *options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "orthogonalized", counting)
        found = run(muon, tensors, steps=3)
    assert calls == {1: [1] * 5, 200: [2, 2, 1], 1 << 24: [5]}[at_once] * 3
    tensors = parameters(shapes)
    wanted = run(Muon(tensors, learning_rate=0.1, weight_decay=0.1), tensors, steps=3)
    torch.testing.assert_close(found, wanted)


def test_a_gradient_of_zero_moves_nothing() -> None:
    tensors = parameters(SHAPES)
    muon = Muon(tensors, learning_rate=0.1)
    for tensor in tensors.values():
        tensor.grad = torch.zeros_like(tensor)
    muon.update(1.0, FINITE)
    torch.testing.assert_close(tensors, parameters(SHAPES), rtol=0, atol=0)


def test_the_gradient_itself_is_left_alone() -> None:
    tensors = parameters(SHAPES)
    run(Muon(tensors, learning_rate=0.1), tensors, steps=1)
    chance = torch.Generator().manual_seed(100)
    for tensor in tensors.values():
        assert tensor.grad is not None
        assert torch.equal(tensor.grad, torch.randn(tensor.shape, generator=chance))


def tiny_model() -> GPT:
    torch.manual_seed(0)
    return GPT(ModelConfig(vocab_size=11, n_layer=2, n_head=2, d_model=16, bias=True, norm="layernorm"))


def made(model: GPT, kind: str) -> Optimizer:
    rates = {"learning_rate": 0.02, "adamw_learning_rate": 0.01}
    return make_optimizer(model, TrainConfig(optimizer=kind, momentum=0.9, **rates))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_multiplies_in_the_fastest_type_of_the_device(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(module, "fast_dtype", lambda device: dtype)  # noqa: ARG005
    optimizer = made(tiny_model(), "muon")
    assert isinstance(optimizer.parts[0], Muon)
    assert optimizer.parts[0].dtype == dtype


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_every_parameter_belongs_to_exactly_one_optimizer_and_moves(kind: str) -> None:
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = made(model, kind)
    run(optimizer, dict(model.named_parameters()), steps=2)
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    owners = [name.rpartition(".")[0] for name in optimizer.state if name.endswith((".velocity", ".first"))]
    assert sorted(owners) == sorted(before)
    matrices = [name for name, p in before.items() if name.startswith("blocks.") and p.ndim == 2]
    under_muon = [name.rpartition(".")[0] for name in optimizer.state if name.endswith(".velocity")]
    assert under_muon == (sorted(matrices, key=under_muon.index) if kind == "muon" else [])


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_loaded_state_continues_bit_for_bit(tmp_path: Path, kind: str) -> None:
    straight = tiny_model()
    run(made(straight, kind), dict(straight.named_parameters()), steps=6)

    broken = tiny_model()
    first = made(broken, kind)
    run(first, dict(broken.named_parameters()), steps=3)
    save_tensors(tmp_path / "optimizer.safetensors", first.state)
    second = made(broken, kind)
    load_optimizer(second.state, tmp_path)
    run(second, dict(broken.named_parameters()), steps=3, first=3)
    for actual, theirs in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(actual, theirs)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_state_of_another_shape_is_refused_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    optimizer = made(tiny_model(), kind)
    state = {name: tensor + 1 for name, tensor in optimizer.state.items()}
    for wrong in ({}, state | {"lm_head.weight.first": torch.zeros(3)}):
        save_tensors(tmp_path / "optimizer.safetensors", wrong)
        with pytest.raises(CheckpointError, match="optimizer"):
            load_optimizer(optimizer.state, tmp_path)
    assert not optimizer.state["lm_head.weight.first"].any()
