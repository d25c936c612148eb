"""What a run starts from: its folder and name, its token files, another run's shape, its own past."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptscratch import paths
from gptscratch.config import RunConfig, flattened, qualified
from gptscratch.data.sources import split_weights
from gptscratch.errors import ConfigError
from gptscratch.runs import checkpoint
from gptscratch.runs.run_folder import RunBusyError, held, is_unused
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
