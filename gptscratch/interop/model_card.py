"""The README.md of an exported folder: what the model is, how to use it, its corpus, settings and figures."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

import gptscratch
from gptscratch.config import TrainConfig
from gptscratch.data.sources import split_weights
from gptscratch.data.token_files import Manifest, read_manifest
from gptscratch.errors import CorpusError
from gptscratch.interop.hub import HUB
from gptscratch.interop.source import Source
from gptscratch.runs.run import read_facts
from gptscratch.runs.summary import FINE_TUNING, RunDescription, describe_run
from gptscratch.units import count, duration, plural, size

_TEXT = """\
---
library_name: transformers
pipeline_tag: text-generation
{metadata}tags:
- gptscratch
---

# {name}

{origin} with gptscratch {version} and is stored as {architecture} in {dtype}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # of this file
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
ids = tokenizer("Once upon a time", return_tensors="pt")
text = model.generate(**ids, max_new_tokens=100, do_sample=True, temperature=0.8)
print(tokenizer.decode(text[0]))
```
"""
_TRAINED = """\
A GPT with {parameters} parameters that continues text like its training corpus. It is a base model, and was
not trained to answer questions or to follow instructions. It was trained"""
_FINE_TUNED = "A GPT with {parameters} parameters. It was fine-tuned from {started_from}"
_IMPORTED = "A GPT with {parameters} parameters. It was imported from a {model_type} model"


def model_card(source: Source, architecture: str, dtype: str) -> str:
    """In Markdown, with the metadata that Hugging Face's hub reads."""
    described, imported = describe_run(source.run), source.record.imported
    started_from = _started_from(source)
    origin = (_IMPORTED if imported else _FINE_TUNED if started_from else _TRAINED).format(
        parameters=count(described.model.parameters), started_from=started_from, **(imported or {})
    )
    base_model = _on_the_hub((imported or {}).get("source", source.record.base_model))
    text = _TEXT.format(
        name=source.name,
        origin=origin,
        metadata=f"base_model: {base_model}\n" if base_model else "",
        version=gptscratch.__version__,
        architecture=architecture,
        dtype=dtype,
    )
    tables = {"Model": _model(source)}
    if not imported:
        manifest = None
        with contextlib.suppress(CorpusError):
            manifest = read_manifest(Path(source.record.tokens))
        tables["Training corpus"] = _corpus(source, manifest)
        tables["Training"] = _training(source, described)
        tables["Validation"] = _validation(described)
    return text + "".join(_table(title, rows) for title, rows in tables.items())


def _started_from(source: Source) -> str:
    """The run that fine-tuning began with, without its folder; empty where there was none."""
    named = Path(str(read_facts(source.run / FINE_TUNING).get("init_from") or ""))
    name = named.parent.parent.name if named.parent.name == "checkpoints" else named.name
    place = source.record.base_model
    return f"{name} (imported from {_on_the_hub(place) or Path(place).name})" if name and place else name


def _on_the_hub(place: str | None) -> str:
    """``hf:owner/model@revision`` -> ``owner/model``; empty for a model in a folder."""
    found = re.fullmatch(rf"{HUB}([\w.-]+/[\w.-]+)(@.*)?", place or "")
    return found[1] if found else ""


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows if value]
    return "\n".join(["", f"## {title}", "", "| | |", "|---|---|", *lines, ""]) if lines else ""


def _model(source: Source) -> list[tuple[str, str]]:
    config, tokenizer = source.config, source.tokenizer
    return [
        ("layers", f"{config.n_layer}"),
        ("attention heads", f"{config.n_head}, {plural(config.n_kv_head, 'key-value head')}"),
        ("width", f"d_model {config.d_model}, d_ff {config.d_ff}, head_dim {config.head_dim}"),
        ("block", f"{config.norm}, {config.activation}, {config.position} positions"),
        ("embeddings", "tied" if config.tie_embeddings else "untied"),
        ("context length", plural(config.context_length, "token")),
        ("tokenizer", f"{tokenizer.kind}, {config.vocab_size:,} tokens"),
    ]


def _corpus(source: Source, manifest: Manifest | None) -> list[tuple[str, str]]:
    """Names of files without their folders."""
    names, _ = split_weights(source.record.config.data.corpus)
    rows = [("files", ", ".join(Path(name).name for name in names))]
    if manifest is not None:
        text = size(manifest.train.bytes + manifest.val.bytes)
        rows += [
            ("size", f"{text}, {manifest.characters:,} characters, {plural(manifest.documents, 'document')}"),
            ("training tokens", f"{manifest.train.tokens:,}"),
            ("validation tokens", f"{manifest.val.tokens:,}"),
        ]
    return [*rows, ("hash", source.record.corpus_hash)]


def _training(source: Source, described: RunDescription) -> list[tuple[str, str]]:
    train, summary = source.record.config.train, described.summary
    return [
        ("steps", f"{summary.step:,}"),
        ("tokens", f"{summary.tokens:,}"),
        ("time", duration(summary.seconds)),
        ("batch", f"{train.batch_size} sequences of {source.config.context_length} tokens"),
        (
            "optimizer",
            f"{train.optimizer}, learning rate {train.learning_rate:.3g}, {train.lr_schedule} schedule",
        ),
        ("adapters", _adapters(train)),
        ("dropout", f"{source.config.dropout:g}"),
        ("R-Drop", f"weight {train.r_drop:g}" if train.r_drop else ""),
        ("seed", f"{train.seed}"),
    ]


def _adapters(train: TrainConfig) -> str:
    if train.lora_rank is None:
        return ""
    return f"LoRA of rank {train.lora_rank} for {', '.join(train.lora_targets)}, alpha {train.lora_alpha:g}"


def _validation(described: RunDescription) -> list[tuple[str, str]]:
    loss, bits = described.summary.best_val_loss, described.val_bits_per_byte
    accuracy, found = described.val_accuracy, described.fine_tuned
    before = found.get("before")
    kept = [found[name]["val_loss"] for name in ("keep_after", "keep_before") if name in found]
    loss_text = f"{loss:.4f} nats per token" if loss is not None else ""
    if before and loss_text:
        loss_text += f" ({before['val_loss']:.4f} before fine-tuning)"
    return [
        ("loss", loss_text),
        ("bits per byte", f"{bits:.4f}" if bits is not None else ""),
        ("accuracy of the most likely token", f"{accuracy:.1%}" if accuracy is not None else ""),
        ("loss on a text to be kept", "{:.4f} ({:.4f} before)".format(*kept) if len(kept) == 2 else ""),
    ]
