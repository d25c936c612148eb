"""Output for the user: results on stdout, everything else on stderr."""

from __future__ import annotations

import dataclasses
import json as json_
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gptscratch import paths
from gptscratch.cli.console import err, error, facts, notice, out
from gptscratch.sizing import adapter_parameters
from gptscratch.units import count, duration, plural, size

__all__ = ["err", "error", "facts", "notice", "out", "plan", "plan_lines", "print_json", "result"]

if TYPE_CHECKING:
    from gptscratch.config import ModelConfig, TrainConfig
    from gptscratch.data.token_files import Manifest
    from gptscratch.training.events import FineTuned
    from gptscratch.training.planning.planner import Plan
    from gptscratch.training.trainer import TrainResult


def print_json(value: Any) -> None:
    """Any mix of dataclasses, paths and what JSON knows; a number that is not finite becomes null."""

    def plain(part: Any) -> Any:
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            part = dataclasses.asdict(part)
        if isinstance(part, Mapping):
            return {key: plain(each) for key, each in part.items()}
        if isinstance(part, list | tuple):
            return [plain(each) for each in part]
        if isinstance(part, float):
            return part if math.isfinite(part) else None
        return part if part is None or isinstance(part, str | int) else str(part)

    print(json_.dumps(plain(value), indent=2))


def plan_lines(plan: Plan, manifest: Manifest) -> list[tuple[str, str]]:
    model, train = plan.config.model, plan.config.train
    tokens = plan.tokens_per_step
    text = size(manifest.train.bytes + manifest.val.bytes)
    if manifest.split == "documents":
        text += f" in {count(manifest.train.documents + manifest.val.documents)} documents"
    split = f"{count(manifest.train.tokens)} tokens for training, {count(manifest.val.tokens)} for validation"
    shape = f"{plural(model.n_layer, 'layer')}, d_model {model.d_model}, {plural(model.n_head, 'head')}"
    if model.n_kv_head and model.n_kv_head != model.n_head:
        shape += f" on {plural(model.n_kv_head, 'key-value head')}"
    rows = f"{train.batch_size} x {model.context_length}"
    if train.micro_batch_size != train.batch_size:
        rows += f", {train.micro_batch_size} x {model.context_length} at once"
    steps = (
        f"{'' if train.steps else 'about '}{plural(plan.steps, 'step')} of {count(tokens)} tokens ({rows})"
    )
    placed = {
        "packed": "one after the other, with an end-of-text token between them",
        "masked": "one after the other, and none attends to another",
        "padded": f"one per sequence, {plan.padding:.0%} of which is padding",
    }
    documents = [("documents", placed[train.documents])] if manifest.end_of_text is not None else []
    return [
        ("corpus", f"{text}: {split}"),
        *documents,
        ("tokenizer", f"{manifest.tokenizer_kind} with {manifest.vocab_size:,} entries, "
                      f"{manifest.characters_per_token:.2f} characters per token{lossy(manifest)}"),
        ("model", f"{count(plan.parameters)} parameters: {shape}, context {model.context_length}"),
        ("training", f"{steps}: {count(plan.tokens)} tokens, {plan.epochs:.3g} epochs"),
        ("optimizer", f"{train.optimizer}, learning rate {train.learning_rate:.3g}, "
                      f"schedule {train.lr_schedule}"),
        *_adapters(model, train),
        ("cost", f"about {duration(plan.seconds)} and {size(plan.memory_bytes)} of memory, "
                 f"{_machine(train)}"),
    ]  # fmt: skip


def _adapters(model: ModelConfig, train: TrainConfig) -> list[tuple[str, str]]:
    if train.lora_rank is None:
        return []
    number = count(adapter_parameters(model, train.lora_rank, train.lora_targets))
    return [("adapters", f"LoRA of rank {train.lora_rank} for {', '.join(train.lora_targets)}: "
                         f"{number} parameters are trained, the others are fixed")]  # fmt: skip


def fine_tuned(found: FineTuned) -> list[tuple[str, str]]:
    """The losses before and after fine-tuning."""
    pairs = [("validation", found.before, found.after), ("keep file", found.keep_before, found.keep_after)]
    return [
        (name, f"loss {before.val_loss:.4f} before, {after.val_loss:.4f} after, "
               f"bits per byte {before.val_bits_per_byte:.4f} before, {after.val_bits_per_byte:.4f} after")
        for name, before, after in pairs
        if before is not None and after is not None
    ]  # fmt: skip


def lossy(manifest: Manifest) -> str:
    if not manifest.lossy:
        return ""
    lost = (
        "white space or case" if manifest.tokenizer_kind in ("word", "char", "byte", "bpe") else "some text"
    )
    return f", lossy: {lost} is not kept"


def _machine(train: TrainConfig) -> str:
    """The value that "auto" has on this machine."""
    from gptscratch.device import pick_device, pick_dtype

    device = pick_device(train.device)
    return f"on {device.type} in {str(pick_dtype(train.dtype, device)).removeprefix('torch.')}"


def plan(plan: Plan, manifest: Manifest, *, json: bool) -> None:
    if json:
        print_json(dataclasses.asdict(plan))
        return
    facts(out, plan_lines(plan, manifest))


def result(result: TrainResult, *, json: bool, quiet: bool) -> None:
    best, name = result.evaluation, paths.typed(result.run)
    if json:
        values = dataclasses.asdict(result) | {"run": result.run.name, "folder": str(result.run.resolve())}
        scores = values.pop("evaluation") or {}
        print_json({**scores, **values})
        return
    if quiet:
        return
    lines = []
    if best is not None:
        lines = [
            ("result", f"validation loss {best.val_loss:.4f} nats per token, "
                       f"{best.val_bits_per_byte:.4f} bits per byte, accuracy {best.val_accuracy:.1%}"),
            ("best", f"step {best.step:,}, evaluated on {best.val_tokens:,} tokens"),
        ]  # fmt: skip
        if best.val_unknown:
            share = best.val_unknown / (best.val_tokens + best.val_unknown)
            lines.append(("unknown", f"{share:.2%} of the validation tokens, which are not evaluated"))
    if result.fine_tuned is not None:
        lines += fine_tuned(result.fine_tuned)
    done = f"{plural(result.step, 'step')}, {count(result.tokens)} tokens, {duration(result.seconds)}"
    lines += [("trained", done), ("run", str(result.run.resolve()))]
    if result.interrupted:
        again = f"gptscratch train --resume {name}"
        lines.append(("next", f"saved at step {result.step:,}; continue with: {again}"))
        lines.append(("", f"or decay the learning rate to 0 and finish: {again} --cooldown"))
    else:
        lines.append(("next", f"gptscratch sample {name}"))
    facts(out, lines)
