"""What a run that starts from another takes over from it, as settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gptscratch import paths
from gptscratch.config import ModelConfig, all_settings
from gptscratch.data.prepare import Prepared
from gptscratch.errors import require
from gptscratch.runs.run import read_run
from gptscratch.training.planning.heuristics import fine_tuning_context

TOKENIZER = {"data.tokenizer": "--tokenizer", "data.vocab_size": "--vocab-size"}
FREE = ("model.dropout", "model.context_length")  # they change no parameter, or are checked


def settings_from(init_from: str | Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The shape and the tokenizer of a checkpoint, and an optimizer and a context that suit its weights.

    Raises:
        ConfigError: something else was given.
    """
    run, _ = paths.find_checkpoint(init_from)
    config = read_run(run).config
    theirs = {f"model.{name}": value for name, value in asdict(config.model).items()}
    for key, value in given.items():
        if key.startswith("model.") and key not in FREE:
            theirs_is = f"{all_settings()[key].label} is {value}, but in {run.name} it is {theirs[key]}."
            require(theirs[key] == value, theirs_is, "Leave it out: --init-from takes over the shape.")
    for key, flag in TOKENIZER.items():
        keeps = f"{run.name} keeps its own tokenizer and vocabulary: each token has a row of its embedding."
        require(given.get(key) is None, keeps, f"Leave {flag} out.")
    _check_context(config.model, given.get("model.context_length"), run.name)
    theirs["model.context_length"] = fine_tuning_context(config.model)
    shape = {key: value for key, value in theirs.items() if key not in given and key != "model.dropout"}
    # Adapters are trained by AdamW everywhere else; Muon's gain is in full matrices.
    optimizer = "adamw" if given.get("train.lora_rank") else config.train.optimizer
    return {
        "train.optimizer": given.get("train.optimizer", optimizer),
        **shape,
        "data.tokenizer": str(run / "tokenizer.json"),
    }


def shorter_context(init_from: str | Path, model: ModelConfig) -> list[str]:
    """A notice where the new run has a shorter context than the one that it starts from."""
    run, _ = paths.find_checkpoint(init_from)
    theirs, own = read_run(run).config.model.context_length, model.context_length
    text = (
        f"The context length is {own:,} tokens, also in exports of this run; that of {run.name} is "
        f"{theirs:,}. --context-length changes it."
    )
    return [text] if own < theirs else []


def require_embeddings(prepared: Prepared, vocab_size: int) -> None:
    """Raises ConfigError where the text has tokens that the model has no embedding for.

    A tokenizer may have special tokens that an imported model lacks.
    """
    tokenizer, manifest = prepared.tokenizer, prepared.manifest
    unknown = manifest.train.unknown + manifest.val.unknown
    require(
        not unknown or (tokenizer.unk_id or 0) < vocab_size,
        f"The text has {unknown:,} tokens that the model's vocabulary lacks, and it has no token for them.",
        "Remove such characters: gptscratch tokenize --text ... --with RUN shows them.",
    )
    if tokenizer.largest_id >= vocab_size:
        tokens = prepared.tokens
        largest = max(int(part.max(initial=0)) for part in (tokens.train, tokens.val))
        require(
            largest < vocab_size,
            f"The tokenizer gives the text the id {largest}, and the model has {vocab_size} tokens.",
            "The tokenizer.json of the run is damaged, or of another model.",
        )
    require(
        (manifest.end_of_text or 0) < vocab_size,
        "The text has several documents, and the model has no token for the end of a document.",
        "Join them into one file.",
    )


def _check_context(model: ModelConfig, length: int | None, name: str) -> None:
    """Learned positions end; the other kinds are computed for any length."""
    require(
        model.position != "learned" or (length or 0) <= model.context_length,
        f"{name} has learned positions for {model.context_length} tokens: a context of {length} needs more.",
        f"Take --context-length {model.context_length} or less, or leave it out.",
    )
