"""The token files that a run was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from gptscratch import paths
from gptscratch.data.prepare import Prepared, prepare
from gptscratch.data.token_files import Manifest, open_tokens
from gptscratch.errors import CheckpointError
from gptscratch.runs.run import RunRecord
from gptscratch.tokenizer import Tokenizer


def split_of(manifest: Manifest) -> dict[str, Any]:
    """What must not change between a run and its resume, in addition to the text and the tokenizer."""
    return {
        "train_tokens": manifest.train.tokens,
        "val_tokens": manifest.val.tokens,
        "weights": [share.weight for share in manifest.corpora],
    }


def tokens_of_run(run: Path, record: RunRecord) -> Prepared:
    """The run's token files, made again from its corpus if they are gone.

    Raises:
        CheckpointError: they hold other tokens than those that the run was trained on.
        TokenizerError: the run's own tokenizer.json is damaged or missing.
    """
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    folder = Path(record.tokens)
    if (folder / "manifest.json").is_file():
        tokens = open_tokens(folder)
        prepared = Prepared(folder, Tokenizer.load(folder), tokens, tokens.manifest, True)
    elif "-" in record.config.data.corpus:
        raise CheckpointError(f"The token files of {run.name} are gone, and its corpus came from stdin.")
    else:
        prepared = prepare(replace(record.config.data, tokenizer=str(run / "tokenizer.json")))
    changed = _changed(record, tokenizer, prepared)
    if changed:
        raise CheckpointError(
            f"{changed} of {run.name} changed since the run began: it cannot be resumed.",
            f"Start a new run from its weights: gptscratch train CORPUS --init-from {paths.typed(run)}",
        )
    return prepared


def _changed(record: RunRecord, tokenizer: Tokenizer, prepared: Prepared) -> str:
    if prepared.manifest.corpus_hash != record.corpus_hash:
        return "The corpus"
    if prepared.tokenizer.hash != tokenizer.hash:
        return "The tokenizer of the token files"
    if record.split is not None and split_of(prepared.manifest) != record.split:
        return "The split into training and validation text"
    return ""
