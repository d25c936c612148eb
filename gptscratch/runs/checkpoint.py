"""Checkpoints: safetensors and JSON, never a pickle; complete or absent.

A checkpoint is written under a temporary name, flushed to the disk and renamed; before it is deleted it is
renamed too. So a folder with a state.json is complete. best.json and last.json name a checkpoint.

A run that trains LoRA adapters has the fixed parameters once, in its base.safetensors, and the adapters in
the adapter.safetensors of each checkpoint, which names the hash of that base.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gptscratch import paths, sizing
from gptscratch.device import pick_device, pick_dtype
from gptscratch.errors import CheckpointError
from gptscratch.files import new_file, new_folder, remove_folder, remove_leftovers, write_json
from gptscratch.model import lora
from gptscratch.model.gpt import GPT
from gptscratch.runs.run import FORMAT, RunRecord, disk_errors_in, read_facts, read_run, read_versioned
from gptscratch.runs.tensors import (
    hash_of,
    load_into,
    load_metadata,
    load_shapes,
    own_rows,
    row_range,
    save_tensors,
)

WEIGHTS, ADAPTER, BASE = "model.safetensors", "adapter.safetensors", "base.safetensors"


def save_checkpoint(
    run: Path,
    model: GPT,
    optimizer_state: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    best: Mapping[str, Any] | None = None,
    keep: int,
    base: str | None = None,
) -> Path:
    """Write a checkpoint, name it in last.json (and in best.json, with these facts), and delete old ones.

    Args:
        state: numbers that a resume needs, among them ``step`` and ``best_step``.
        best: what is known of this checkpoint, where it is the best one so far.
        keep: how many of the newest checkpoints stay, in addition to the best one.
        base: the hash of the run's base.safetensors, where the model has adapters: they alone are saved.

    Raises:
        RunError: the disk is full or cannot be written to; what was saved before is untouched.
    """
    folder = paths.checkpoint_dir(run, state["step"])
    with disk_errors_in(run, f"saving step {state['step']}"):
        # Otherwise it was saved already, with the same parameters: a resume deletes later checkpoints.
        if not paths.is_checkpoint(folder):
            if not run.is_dir():
                raise FileNotFoundError(run)  # a folder of checkpoints alone would be half a run
            if folder.exists():
                remove_folder(folder)  # a process was killed while it deleted this one
            with new_folder(folder) as temporary:
                trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
                if base is None:
                    save_tensors(temporary / WEIGHTS, trained)
                else:
                    save_tensors(temporary / ADAPTER, trained, base=base)
                save_tensors(temporary / "optimizer.safetensors", optimizer_state)
                write_json(temporary / "state.json", {"format": FORMAT, **state})
        _point(run, "last", state["step"])
        if best is not None:
            _point(run, "best", state["step"], **best)
        _prune(run, keep=keep, best_step=state["best_step"])
    return folder


def finish(
    run: Path, *, step: int, best_step: int, best: Mapping[str, Any], peak_memory: int | None = None
) -> None:
    """Note the final evaluation of the best checkpoint, and that training ended at ``step``.

    ``peak_memory``: bytes that the training took at most, for comparison with the plan.
    """
    with disk_errors_in(run, "writing best.json and last.json"):
        _point(run, "best", best_step, **best)
        _point(run, "last", step, finished=True, peak_memory_bytes=peak_memory)


def is_finished(run: Path, step: int) -> bool:
    """Whether training ended at this step and the best checkpoint had its final evaluation."""
    last = read_facts(run / "last.json")
    return last.get("finished") is True and last.get("step") == step


def rewind(run: Path, state: Mapping[str, Any], *, keep: int) -> bool:
    """Delete what was saved after ``state``; returns whether the best checkpoint until then still exists.

    last.json comes first: if this is interrupted, the next resume starts from ``state`` too.
    """
    with disk_errors_in(run, f"resuming {run.name}"):
        _point(run, "last", state["step"])
        has_best = paths.is_checkpoint(paths.checkpoint_dir(run, state["best_step"]))
        if not has_best:  # there was none yet, or a better one took its place later
            (run / "best.json").unlink(missing_ok=True)
        elif read_facts(run / "best.json").get("step") != state["best_step"]:
            _point(run, "best", state["best_step"], val_loss=state["best_val_loss"])
        for step, folder in paths.checkpoints(run):
            if step > state["step"]:
                remove_folder(folder)
        _prune(run, keep=keep, best_step=state["best_step"])
    return has_best


def _point(run: Path, which: str, step: int, **facts: Any) -> None:
    """Write best.json or last.json."""
    name = paths.checkpoint_dir(run, step).name
    write_json(run / f"{which}.json", {"checkpoint": name, "step": step, **facts})


def _prune(run: Path, *, keep: int, best_step: int) -> None:
    """Delete all but the newest checkpoints and the best one, and what a killed process left."""
    saved = paths.checkpoints(run)
    for step, folder in saved[: max(0, len(saved) - keep)]:
        if step != best_step:
            remove_folder(folder)
    remove_leftovers(run)
    remove_leftovers(run / "checkpoints")
    for folder in (run / "checkpoints").glob("step-*"):
        if folder.is_dir() and not paths.is_checkpoint(folder):
            shutil.rmtree(folder, ignore_errors=True)


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The numbers that a resume needs.

    Raises:
        CheckpointError: state.json is damaged, of another step or of a newer format.
    """
    state = read_versioned(checkpoint / "state.json")
    step = state.get("step")
    if type(step) is not int or paths.checkpoint_dir(Path(), step).name != checkpoint.resolve().name:
        raise CheckpointError(f"{checkpoint / 'state.json'} is damaged: its step is {step!r}.")
    return state


def load_model(run: Path, checkpoint: Path, *, device: str, dtype: str, merged: bool = True) -> GPT:
    """The model of a checkpoint, in evaluation mode; adapters are ``merged`` into its weights.

    Raises:
        CheckpointError: it is missing, damaged, of a newer format, or holds numbers that are not finite.
    """
    record = read_run(run)
    require_same_shapes(run, record, checkpoint)
    place = pick_device(device)
    with place, _WithoutInitialization():
        model = GPT(record.config.model)
        if record.base is not None:
            lora.add_adapters_of(model, record.config.train)
    load_parameters(model, run, record, checkpoint)
    model = (lora.merge(model) if merged else model).to(dtype=pick_dtype(dtype, place))
    _require_finite(model, checkpoint)
    return model.eval()


def load_parameters(model: GPT, run: Path, record: RunRecord, checkpoint: Path) -> None:
    """Copy the parameters of a run at a checkpoint into a model of its shape.

    Raises:
        CheckpointError: as ``require_same_shapes``, or the adapters belong to another base.
    """
    require_same_shapes(run, record, checkpoint)
    if record.base is not None:
        if hash_of(run / BASE) != record.base:
            raise CheckpointError(f"{run / BASE} is damaged, or from another run.", "Train the run again.")
        load_into(run / BASE, {name: p for name, p in model.named_parameters() if not p.requires_grad})
    load_trained(model, checkpoint, record.base)


def load_trained(model: GPT, checkpoint: Path, base: str | None) -> None:
    """Copy what a checkpoint holds into a model: all parameters, or the adapters of this base.

    Raises:
        CheckpointError: it is missing or damaged, or a name or a shape differs.
    """
    file = checkpoint / (ADAPTER if base else WEIGHTS)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    _require_shapes(file, {name: tuple(p.shape) for name, p in trained.items()})
    if base is not None and load_metadata(file).get("base") != base:
        raise CheckpointError(f"{file} belongs to another base.safetensors.", "Use another checkpoint.")
    load_into(file, trained)


def load_optimizer(state: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Continue from a saved state; one of a run in another number format may lack the loss scale.

    Raises:
        CheckpointError: as ``load_into``.
    """
    file = checkpoint / "optimizer.safetensors"
    found = load_shapes(file)
    load_into(file, {name: t for name, t in state.items() if name in found or "loss_scale" not in name})


@torch.no_grad()
def copy_parameters(model: GPT, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        parameter = model.get_parameter(name)
        own_rows(parameter).copy_(tensor[row_range(parameter) or ...])


def save_base(run: Path, model: GPT, source: Path | None) -> str:
    """Keep the fixed parameters of a model with adapters in its run's folder; returns the file's hash.

    Args:
        source: a file that holds exactly these parameters, which becomes a second name of that file where the
            file system allows it: it takes no space then, and stays when the other run is deleted.

    Raises:
        RunError: the disk is full or cannot be written to.
    """
    with disk_errors_in(run, f"writing {BASE}"), new_file(run / BASE) as temporary:
        if source is None:
            fixed = {name: p for name, p in model.named_parameters() if not p.requires_grad}
            save_tensors(temporary, fixed)
        else:
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
    return hash_of(run / BASE)


def require_same_shapes(run: Path, record: RunRecord, checkpoint: Path) -> None:
    """Check that a checkpoint fits its run's config.json, before memory is taken for a model.

    Raises:
        CheckpointError: the file is missing or damaged, or a name or a shape differs.
    """
    file = checkpoint / WEIGHTS if record.base is None else run / BASE
    _require_shapes(file, sizing.parameter_shapes(record.config.model))


def _require_shapes(file: Path, wanted: Mapping[str, tuple[int, ...]]) -> None:
    found = load_shapes(file)
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{file.parent} does not fit its run's config.json: {name} is "
                f"{found.get(name, 'missing')}, not {wanted.get(name, 'absent')}."
            )


def _require_finite(model: GPT, checkpoint: Path) -> None:
    for name, parameter in model.named_parameters():
        # The sum is fast; where it overflows, each number is looked at.
        if not parameter.detach().sum().isfinite() and not parameter.isfinite().all():
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{checkpoint} holds numbers that are not finite ({name} in {dtype}).",
                "Use another checkpoint of the run, or train again with a lower learning rate.",
            )


class _WithoutInitialization(TorchFunctionMode):
    """The functions of torch.nn.init do nothing. On "meta", torch's compiler would be imported: a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        is_init = getattr(func, "__module__", "") == "torch.nn.init"
        return None if is_init else func(*args, **(kwargs or {}))
