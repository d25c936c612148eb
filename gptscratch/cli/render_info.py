"""Output of ``info`` and ``tokenize``: runs, models and token files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from gptscratch.cli.render import facts, lossy, notice, out, print_json
from gptscratch.cli.render_stats import losses
from gptscratch.config import SECTIONS, RunConfig
from gptscratch.units import count, duration, plural, size, timestamp

if TYPE_CHECKING:
    from gptscratch.data.prepare import Prepared
    from gptscratch.data.token_files import Manifest
    from gptscratch.runs.summary import ModelDescription, RunDescription, RunSummary


def prepared(prepared: Prepared, *, json: bool) -> None:
    if json:
        print_json({"folder": str(prepared.folder), **_manifest_facts(prepared.manifest)})
        return
    token_files(prepared.manifest, json=False)
    facts(out, [("folder", f"{prepared.folder}{' (existed already)' if prepared.reused else ''}")])


def token_files(manifest: Manifest, *, json: bool) -> None:
    values = _manifest_facts(manifest)
    if json:
        print_json(values)
        return
    split = f"{manifest.train.tokens:,} to train, {manifest.val.tokens:,} to validate"
    facts(
        out,
        [
            ("tokenizer", f"{manifest.tokenizer_kind} with {manifest.vocab_size:,} entries{lossy(manifest)}"),
            ("documents", f"{values['documents']:,} in {plural(manifest.files, 'file')}"),
            ("characters", f"{values['characters']:,}"),
            ("tokens", f"{values['tokens']:,}: {split}"),
            ("per token", f"{manifest.characters_per_token:.3f} characters"),
            ("unknown", f"{manifest.unknown_rate:.3%} of the tokens"),
            *losses(manifest.removed, manifest.replaced, manifest.skipped),
        ],
    )


def runs(found: Sequence[RunSummary], *, json: bool) -> None:
    if json:
        print_json(found)
        return
    if not found:
        notice("There are no runs yet. Make one: gptscratch train corpus.txt")
    table = Table("run", "parameters", "val loss", "tokens seen", "size", "when", box=None, pad_edge=False)
    for run in found:
        if run.problem is not None:
            notice(f"{run.name} is damaged: {run.problem}")
        if not run.parameters:  # its config.json cannot be read
            continue
        loss = "-" if run.best_val_loss is None else f"{run.best_val_loss:.4f}"
        seen, changed = count(run.tokens), timestamp(run.changed)
        table.add_row(escape(run.name), count(run.parameters), loss, seen, size(run.size_bytes), changed)
    if table.row_count:
        out.print(table)


def run(described: RunDescription, *, json: bool) -> None:
    if json:
        print_json(described)
        return
    summary = described.summary
    loss = "-" if summary.best_val_loss is None else f"{summary.best_val_loss:.4f} nats/token"
    if described.val_bits_per_byte is not None and described.val_accuracy is not None:
        loss += f", {described.val_bits_per_byte:.4f} bits/byte, accuracy {described.val_accuracy:.1%}"
    if summary.best_step is not None:
        loss += f" (step {summary.best_step:,})"
    work = f"{plural(summary.step, 'step')}, {count(summary.tokens)} tokens, {duration(summary.seconds)}"
    settings = _settings(RunConfig.from_dict({name: described.config.get(name, {}) for name in SECTIONS}))
    lines = [
        ("val loss", loss),
        ("trained", work),
        ("checkpoints", ", ".join(f"{step:,}" for step in described.checkpoints) or "none yet"),
        *_planned(described.plan),
        *settings,
    ]
    if isinstance(imported := described.config.get("imported"), dict):
        source, kind = imported.get("source"), imported.get("model_type")
        lines = [("imported", f"{source}, a {kind} model"), settings[0]]
    run = [("run", f"{summary.name}, {timestamp(summary.changed)}"), ("folder", summary.folder)]
    facts(out, run + lines)
    if summary.problem is not None:
        notice(f"{summary.name} is damaged: {summary.problem}")
    model(described.model, title=summary.name, json=False)


def _settings(config: RunConfig) -> list[tuple[str, str]]:
    """The settings that were given or chosen."""
    sections = {section: vars(getattr(config, section)) for section in SECTIONS}
    return [
        (
            section,
            "  ".join(f"{name}={value}" for name, value in values.items() if value not in ("", (), None)),
        )
        for section, values in sections.items()
    ]


def _planned(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """The plan of the run."""
    if not plan:
        return []
    work = f"{plan['steps']:,} steps, {count(plan['tokens'])} tokens, {plan['epochs']:.3g} epochs"
    cost = f"about {duration(plan['seconds'])} and {size(plan['memory_bytes'])} of memory"
    return [("planned", f"{work}, {cost}")]


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
    lines = [
        ("FLOPs", f"{count(flops)} per token, {count(training)} in training"),
        ("memory", f"{size(to_train)} to train ({rows}), {size(to_sample)} to sample"),
    ]
    facts(out, lines)


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


def _manifest_facts(manifest: Manifest) -> dict[str, Any]:
    values = dataclasses.asdict(manifest)
    names = ("vocab_size", "documents", "lossy", "files", "skipped", "replaced", "removed", "train", "val")
    both = ("characters", "bytes", "tokens", "unknown")
    values["documents"] = values["documents"] or manifest.train.documents + manifest.val.documents
    return {
        "tokenizer": manifest.tokenizer_kind,
        **{name: values[name] for name in names},
        **{name: values["train"][name] + values["val"][name] for name in both},
        "characters_per_token": manifest.characters_per_token,
        "unknown_rate": manifest.unknown_rate,
    }
