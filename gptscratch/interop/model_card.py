"""The README.md of an exported folder: what the model is, how to use it, its corpus, settings and figures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import gptscratch
from gptscratch.data.sources import split_weights
from gptscratch.data.token_files import Manifest, read_manifest
from gptscratch.errors import CorpusError
from gptscratch.interop.source import Source
from gptscratch.runs.summary import RunDescription, describe_run
from gptscratch.units import count, duration, plural, size

_TEXT = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
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
_IMPORTED = "A GPT with {parameters} parameters. It was imported from a {model_type} model"


def model_card(source: Source, architecture: str, dtype: str) -> str:
    """In Markdown, with the metadata that Hugging Face's hub reads."""
    described, imported = describe_run(source.run), source.record.imported
    origin = (_IMPORTED if imported else _TRAINED).format(
        parameters=count(described.model.parameters), **(imported or {})
    )
    text = _TEXT.format(
        name=source.name,
        origin=origin,
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
        ("dropout", f"{source.config.dropout:g}"),
        ("seed", f"{train.seed}"),
    ]


def _validation(described: RunDescription) -> list[tuple[str, str]]:
    loss, bits = described.summary.best_val_loss, described.val_bits_per_byte
    accuracy = described.val_accuracy
    return [
        ("loss", f"{loss:.4f} nats per token" if loss is not None else ""),
        ("bits per byte", f"{bits:.4f}" if bits is not None else ""),
        ("accuracy of the most likely token", f"{accuracy:.1%}" if accuracy is not None else ""),
    ]
