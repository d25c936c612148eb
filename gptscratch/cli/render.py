"""Output of ``train`` and ``info``: plans, results, runs and models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.tree import Tree

from gptscratch import paths
from gptscratch.cli.console import NO_BREAK, facts, notice, out, print_json, show
from gptscratch.config import SECTIONS, RunConfig
from gptscratch.sizing import adapter_parameters
from gptscratch.units import count, duration, plural, size, timestamp

if TYPE_CHECKING:
    from gptscratch.config import TrainConfig
    from gptscratch.data.token_files import Manifest
    from gptscratch.runs.summary import ModelDescription, RunDescription, RunSummary
    from gptscratch.training.planning.planner import Plan
    from gptscratch.training.trainer import TrainResult

Lines = list[tuple[str, str]]  # a label and a text each


def plan_lines(plan: Plan, manifest: Manifest) -> Lines:
    model, train = plan.config.model, plan.config.train
    text = size(manifest.train.bytes + manifest.val.bytes)
    if manifest.split == "documents":
        text += f" in {count(manifest.train.documents + manifest.val.documents)} documents"
    split = f"{count(manifest.train.tokens)} tokens for training, {count(manifest.val.tokens)} for validation"
    shape = f"{plural(model.n_layer, 'layer')}, d_model {model.d_model}, {plural(model.n_head, 'head')}"
    if model.n_kv_head != model.n_head:
        shape += f" on {plural(model.n_kv_head, 'key-value head')}"
    rows = f"{train.batch_size} x {model.context_length}"
    if train.micro_batch_size != train.batch_size:
        rows += f", {train.micro_batch_size} x {model.context_length} at once"
    steps = plural(plan.steps, "step") if train.steps else f"about {plural(plan.steps, 'step')}"
    placed = {
        "packed": "one after the other, with an end-of-text token between them",
        "masked": "one after the other, and none attends to another",
        "padded": f"one per sequence, {plan.padding:.0%} of which is padding",
    }
    lines = [("corpus", f"{text}: {split}")]
    if manifest.end_of_text is not None:
        lines.append(("documents", placed[train.documents]))
    lines += [
        ("tokenizer", f"{tokenizer(manifest)}, {manifest.characters_per_token:.2f} characters per token"),
        ("model", f"{count(plan.parameters)} parameters: {shape}, context {model.context_length}"),
        ("training", f"{steps} of {count(plan.tokens_per_step)} tokens ({rows}): "
                     f"{count(plan.tokens)} tokens, {plan.epochs:.3g} epochs"),
        ("optimizer", f"{train.optimizer}, learning rate {train.learning_rate:.3g}, "
                      f"schedule {train.lr_schedule}{', R-Drop' if train.r_drop else ''}"),
    ]  # fmt: skip
    memory = f"about {duration(plan.seconds)} and {size(plan.memory_bytes)} of memory"
    return [*lines, *_adapters(plan.config), ("cost", f"{memory}, {_machine(train)}")]


def _adapters(config: RunConfig) -> Lines:
    """A line for a run that trains adapters alone."""
    train = config.train
    if train.lora_rank is None:
        return []
    number = count(adapter_parameters(config.model, train.lora_rank, train.lora_targets))
    what = f"LoRA of rank {train.lora_rank} for {', '.join(train.lora_targets)}"
    return [("adapters", f"{what}: {number} parameters are trained, the others are fixed")]


def tokenizer(manifest: Manifest) -> str:
    text = f"{manifest.tokenizer_kind} with {manifest.vocab_size:,} entries"
    if not manifest.lossy:
        return text
    known = manifest.tokenizer_kind in ("word", "char", "byte", "bpe")
    return f"{text} (lossy: {'white space or case' if known else 'some text'} is not kept)"


def _machine(train: TrainConfig) -> str:
    """The value that "auto" has on this machine."""
    from gptscratch.device import pick_device, pick_dtype

    device = pick_device(train.device)
    return f"on {device.type} in {str(pick_dtype(train.dtype, device)).removeprefix('torch.')}"


def result(result: TrainResult, *, json: bool) -> None:
    values = dataclasses.asdict(result) | {"run": result.run.name, "folder": str(result.run.resolve())}
    scores = values.pop("evaluation") or {}
    show({**scores, **values}, _result_lines(result), json=json)


def _result_lines(result: TrainResult) -> Lines:
    lines, best, name = [], result.evaluation, paths.typed(result.run)
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
        lines += _fine_tuned(dataclasses.asdict(result.fine_tuned))
    done = f"{plural(result.step, 'step')}, {count(result.tokens)} tokens, {duration(result.seconds)}"
    lines += [("trained", done), ("run", str(result.run.resolve()))]
    if not result.interrupted:
        return [*lines, ("next", f"gptscratch sample {name}")]
    again = f"gptscratch train --resume {name}"
    lines.append(("next", f"saved at step {result.step:,}; continue with: {again}"))
    return [*lines, ("", f"or decay the learning rate to 0 and finish: {again} --cooldown")]


def _fine_tuned(found: Mapping[str, Any]) -> Lines:
    """The losses before and after fine-tuning, where both are known."""
    pairs = [("fine-tuned", found.get("before"), found.get("after")),
             ("keep file", found.get("keep_before"), found.get("keep_after"))]  # fmt: skip
    return [
        (name, f"loss {old['val_loss']:.4f} before, {new['val_loss']:.4f} after, bits per byte "
               f"{old['val_bits_per_byte']:.4f} before, {new['val_bits_per_byte']:.4f} after")
        for name, old, new in pairs
        if old and new
    ]  # fmt: skip


def runs(found: Sequence[RunSummary], *, json: bool) -> None:
    if json:
        print_json(found)
        return
    if not found:
        notice("There are no runs yet. Make one: gptscratch train corpus.txt")
    for run in found:
        if run.problem is not None:
            notice(f"{run.name} is damaged: {run.problem}")
        if not run.parameters:  # its config.json cannot be read
            continue
        loss = "no evaluation yet" if run.best_val_loss is None else f"val loss {run.best_val_loss:.4f}"
        out.print(f"[bold]{escape(run.name)}[/]  [dim]{timestamp(run.changed)}[/]")
        parts = f"{count(run.parameters)} parameters, {count(run.tokens)} tokens, {size(run.size_bytes)}"
        out.print(f"  {loss}, {parts}")


def run(described: RunDescription, *, json: bool) -> None:
    summary = described.summary
    lines = [("run", f"{summary.name}, {timestamp(summary.changed)}"), ("folder", summary.folder)]
    config = RunConfig.from_dict({name: described.config.get(name, {}) for name in SECTIONS})
    settings = _settings(config)
    if isinstance(imported := described.config.get("imported"), dict):
        lines.append(("imported", f"{imported.get('source')}, a {imported.get('model_type')} model"))
        lines.append(settings[0])
    else:
        lines += [*_trained(described), *_adapters(config), *settings]
    show(described, lines, json=json)
    if json:
        return
    if summary.problem is not None:
        notice(f"{summary.name} is damaged: {summary.problem}")
    model(described.model, title=summary.name, json=False)


def _trained(described: RunDescription) -> Lines:
    summary, plan = described.summary, described.plan
    loss = "-" if summary.best_val_loss is None else f"{summary.best_val_loss:.4f} nats/token"
    if described.val_bits_per_byte is not None and described.val_accuracy is not None:
        loss += f", {described.val_bits_per_byte:.4f} bits/byte, accuracy {described.val_accuracy:.1%}"
    if summary.best_step is not None:
        loss += f" (step {summary.best_step:,})"
    work = f"{plural(summary.step, 'step')}, {count(summary.tokens)} tokens, {duration(summary.seconds)}"
    saved = ", ".join(f"{step:,}" for step in described.checkpoints) or "none yet"
    lines = [
        ("val loss", loss),
        *_fine_tuned(described.fine_tuned),
        ("trained", work),
        ("checkpoints", saved),
    ]
    if plan:
        work = f"{plan['steps']:,} steps, {count(plan['tokens'])} tokens, {plan['epochs']:.3g} epochs"
        cost = f"about {duration(plan['seconds'])} and {size(plan['memory_bytes'])} of memory"
        lines.append(("planned", f"{work}, {cost}"))
    return lines


def _settings(config: RunConfig) -> Lines:
    """The settings that were given or chosen."""
    lines = []
    for section in SECTIONS:
        values = vars(getattr(config, section)).items()
        shown = [f"{name}={value}" for name, value in values if value not in ("", (), None)]
        lines.append((section, "  ".join(part.replace(" ", NO_BREAK) for part in shown)))
    return lines


def model(described: ModelDescription, *, title: str, json: bool) -> None:
    if json:
        print_json(described)
        return
    tree = Tree(f"[bold]{escape(title)}[/]  {described.parameters:,} parameters", guide_style="dim")
    _grow(tree, described.shapes)
    out.print(tree)
    flops, training = described.forward_flops_per_token, described.training_flops_per_token
    rows = f"{described.micro_batch_size} x {described.config.context_length} tokens at once"
    to_train, to_sample = described.training_memory_bytes, described.sampling_memory_bytes
    facts(out, [
        ("FLOPs", f"{count(flops)} per token, {count(training)} in training"),
        ("memory", f"{size(to_train)} to train ({rows}), {size(to_sample)} to sample"),
    ])  # fmt: skip


def _grow(tree: Tree, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Add parameters by the parts of their dotted names; the first block is shown for all of them."""
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        part, _, rest = name.partition(".")
        groups.setdefault(part, {})[rest] = shape
    for part, inner in groups.items():
        total = f"[dim]{sum(map(math.prod, inner.values())):,}[/]"
        if len(inner) == 1:
            (shape,) = inner.values()
            tree.add(f"{part}  [cyan]{' x '.join(map(str, shape))}[/]  {total}")
        elif part == "blocks":
            first = {name: shape for name, shape in inner.items() if name.startswith("0.")}
            _grow(tree.add(f"blocks  [cyan]{len(inner) // len(first)} times[/]  {total}"), first)
        else:
            _grow(tree.add(f"{part}  {total}"), inner)
