"""What a run starts from: its folder and name, its token files, another run's shape, its own past."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gptscratch import paths
from gptscratch.config import RunConfig, flattened, qualified
from gptscratch.data.prepare import Prepared, prepare
from gptscratch.data.sources import split_weights
from gptscratch.data.token_files import Manifest, open_tokens
from gptscratch.errors import CheckpointError, ConfigError
from gptscratch.runs import checkpoint
from gptscratch.runs.run_folder import RunBusyError, held, is_unused
from gptscratch.tokenizer import Tokenizer
from gptscratch.training.budget import UNITS, require_length


@contextlib.contextmanager
def new_run(config: RunConfig, out: str | Path | None, *, replace: bool = False) -> Iterator[Path]:
    """The folder of a new run, held until the end. A name that was not given is made from the corpus's.

    The folder is made at once, so that no other process takes the name while the corpus is prepared.

    Raises:
        ConfigError: a run is there already and ``replace`` is false, or the folder holds something else.
        RunBusyError: another process trains a run in this folder.
    """
    with contextlib.ExitStack() as stack:
        if out is not None or config.name:
            run = Path(out).expanduser() if out is not None else paths.run_dir(config.name)
            if not checkpoint.is_run(run):
                checkpoint.require_free(run)  # before a file is made in a folder of something else
            stack.enter_context(held(run))
            checkpoint.require_free(run, replace=replace)
        else:
            run = _unused_folder(config, stack)
        yield run


def _unused_folder(config: RunConfig, stack: contextlib.ExitStack) -> Path:
    names, _ = split_weights(config.data.corpus)
    first = names[0] if names else "python"
    stem = paths.usable_name("stdin" if first == "-" else Path(first).resolve().name.split(".")[0])
    for number in itertools.count(1):
        run = paths.run_dir(stem if number == 1 else f"{stem}-{number}")
        with contextlib.suppress(RunBusyError), contextlib.ExitStack() as attempt:
            if is_unused(run):
                attempt.enter_context(held(run))
                if is_unused(run):
                    stack.enter_context(attempt.pop_all())
                    return run
    raise AssertionError  # the numbers do not end


def split_of(manifest: Manifest) -> dict[str, Any]:
    """What must not change between a run and its resume, in addition to the text and the tokenizer."""
    return {
        "train_tokens": manifest.train.tokens,
        "val_tokens": manifest.val.tokens,
        "weights": [share.weight for share in manifest.corpora],
    }


def same_tokens(run: Path, record: checkpoint.RunRecord) -> Prepared:
    """The run's token files, made again from its corpus if they are gone.

    Raises:
        CheckpointError: they hold other tokens than those that the run was trained on.
        TokenizerError: the run's own tokenizer.json is damaged or missing.
    """
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    folder = Path(record.tokens)
    if (folder / "manifest.json").is_file():
        tokens = open_tokens(folder)
        prepared = Prepared(folder, Tokenizer.load(folder), tokens, tokens.manifest, None, True)
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


def _changed(record: checkpoint.RunRecord, tokenizer: Tokenizer, prepared: Prepared) -> str:
    if prepared.manifest.corpus_hash != record.corpus_hash:
        return "The corpus"
    if prepared.tokenizer.hash != tokenizer.hash:
        return "The tokenizer of the token files"
    if record.split is not None and split_of(prepared.manifest) != record.split:
        return "The split into training and validation text"
    return ""


def like_run(init_from: str | Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, completed with the shape and the tokenizer of a checkpoint.

    Raises:
        ConfigError: one of them differs from the checkpoint's.
    """
    run, _ = paths.find_checkpoint(init_from)
    theirs = flattened({"model": checkpoint.read_run(run).config.to_dict()["model"]})
    free = ("model.dropout",)
    for key, value in settings.items():
        if key.startswith("model.") and key not in free and theirs[key] != value:
            raise ConfigError(f"{key} is {value}, but in {run.name} it is {theirs[key]}.", "Leave it out.")
    if settings.get("data.tokenizer"):
        raise ConfigError("--init-from brings its own tokenizer.", "Leave --tokenizer out.")
    theirs.pop("model.vocab_size")
    return {**theirs, **settings, "data.tokenizer": str(run / "tokenizer.json")}


def extended(config: RunConfig, settings: dict[str, Any]) -> RunConfig:
    """A run's config with changes that a resumed run may have: the trainer's."""
    changes = qualified(settings)
    kept = ("train.optimizer", "train.documents")
    fixed = [key for key in changes if not key.startswith("train.") or key in kept]
    if fixed:
        raise ConfigError(f"A resumed run keeps its {', '.join(fixed)}.", "Start a new run to change it.")
    require_length(changes)
    horizons = {f"train.{unit}": 0 for unit in (*UNITS, "max_steps")}
    longer = config.with_settings({**(horizons if horizons.keys() & changes.keys() else {}), **changes})
    checkpoint.require_planned(longer)
    return longer
