"""A run and the token files that it is trained on."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

from gptscratch import paths, sizing
from gptscratch.config import RunConfig
from gptscratch.data.prepare import Prepared, open_prepared, prepare
from gptscratch.data.sources import reads_stdin
from gptscratch.errors import CheckpointError, CorpusError
from gptscratch.runs.run import RunRecord, read_facts
from gptscratch.tokenizer import Tokenizer

_RUNS = "runs.jsonl"  # in a folder of token files: the paths of runs outside of the cache directory


def record_of(config: RunConfig, prepared: Prepared, source: RunRecord | None = None) -> RunRecord:
    """The record of a run with these settings on these token files.

    What ended a text in ``source``, whose parameters the run has, ends it there too.
    """
    manifest = prepared.manifest
    endings = () if source is None else source.ending_ids
    end_of_text = next(iter(endings), None) if manifest.end_of_text is None else manifest.end_of_text
    return RunRecord(
        config=config,
        corpus_hash=manifest.corpus_hash,
        val_hash=manifest.val_hash or None,
        tokens=str(prepared.folder.resolve()),
        end_of_text=end_of_text,
        stop_ids=tuple(i for i in endings if i != end_of_text),
        base_model=None if source is None else (source.imported or {}).get("source", source.base_model),
        parameters=sizing.count_parameters(config.model).total,
        split={
            "train_tokens": manifest.train.tokens,
            "val_tokens": manifest.val.tokens,
            "weights": [share.weight for share in manifest.corpora],
        },
    )


def remember(tokens: Path, run: Path) -> None:
    """Note in token files of the cache directory that a run needs them which is not there itself."""
    run, cached = run.resolve(), tokens.resolve().parent == paths.tokens_dir().resolve()
    if cached and paths.typed(run) != run.name and run not in remembered(tokens):
        with contextlib.suppress(OSError), (tokens / _RUNS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(str(run)) + "\n")


def remembered(tokens: Path) -> list[Path]:
    """The runs that were noted in token files and are still where they were."""
    lines: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        lines = (tokens / _RUNS).read_text(encoding="utf-8").splitlines()
    found: list[Path] = []
    for line in dict.fromkeys(lines):
        with contextlib.suppress(OSError, ValueError, TypeError):
            run = Path(json.loads(line))
            if Path(str(read_facts(run / "config.json").get("tokens"))).name == tokens.name:
                found.append(run)
    return found


def require_trained(run: Path, record: RunRecord) -> None:
    """Raises CheckpointError for an imported run."""
    if record.imported is not None:
        raise CheckpointError(
            f"{run.name} was imported: there is no training to continue, and no training text.",
            f"Start a new run from its weights: gptscratch train CORPUS --init-from {paths.typed(run)}",
        )


def tokens_of_run(run: Path, record: RunRecord) -> Prepared:
    """The run's token files, made again from its corpus if they are gone or damaged.

    Raises:
        CheckpointError: they hold other tokens than those that the run was trained on.
        TokenizerError: the run's own tokenizer.json is damaged or missing.
    """
    require_trained(run, record)
    tokenizer = Tokenizer.load(run)
    try:
        prepared = open_prepared(Path(record.tokens), tokenizer)
    except CorpusError as error:
        if reads_stdin(record.config.data):
            raise CheckpointError(f"{error.message} The corpus of {run.name} came from stdin.") from None
        prepared = prepare(replace(record.config.data, tokenizer=str(run / "tokenizer.json")))
    found = record_of(record.config, prepared)
    if found.corpus_hash != record.corpus_hash:
        changed = "The corpus"
    elif prepared.tokenizer.hash != tokenizer.hash:
        changed = "The tokenizer of the token files"
    elif record.split not in (None, found.split):
        changed = "The split into training and validation text"
    else:
        remember(prepared.folder, run)
        return prepared
    raise CheckpointError(
        f"{changed} of {run.name} changed since the run began: its training text cannot be used.",
        f"Start a new run from its weights: gptscratch train CORPUS --init-from {paths.typed(run)}",
    )
