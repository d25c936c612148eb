"""Where things lie on disk: the cache root, run folders, and finding a checkpoint by name or path.

    <home>/runs/<name>/{config.json, tokenizer.json, metrics.jsonl, best.json, last.json}
    <home>/runs/<name>/checkpoints/step-00001000/{model.safetensors, optimizer.safetensors, state.json}
    <home>/tokens/<hash>/{train.bin, val.bin, manifest.json}

A run is a folder, and its name is the folder's name.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import platformdirs

from gptscratch.errors import CheckpointError, ConfigError, did_you_mean, listed

_STEP = re.compile(r"step-(\d{8,})")


def home() -> Path:
    """The root of everything that is kept: ``GPTSCRATCH_HOME``, or the user's cache directory."""
    given = os.environ.get("GPTSCRATCH_HOME")
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("gptscratch", False))


def runs_dir() -> Path:
    return home() / "runs"


def tokens_dir() -> Path:
    return home() / "tokens"


def run_dir(name: str) -> Path:
    """The folder of the run with this name, existing or not.

    Raises:
        ConfigError: the name would leave the runs folder.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise ConfigError(f"{name!r} is no name for a run.", "To put a run elsewhere, use --out DIR.")
    return runs_dir() / name


def checkpoint_dir(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """The run's checkpoints as (step, folder), oldest first."""
    found = []
    for folder in (run / "checkpoints").glob("step-*"):
        match = _STEP.fullmatch(folder.name)
        if match and (folder / "state.json").is_file():
            found.append((int(match[1]), folder))
    return sorted(found)


def list_runs() -> list[Path]:
    """Every run in the cache directory, newest first."""
    found = [config.parent for config in runs_dir().glob("*/config.json")]
    return sorted(found, key=_last_change, reverse=True)


def find_run(name_or_path: str | Path | None = None) -> Path:
    """A run's folder by its name, by its path, or (None) the newest.

    Raises:
        CheckpointError: there is no such run; the hint lists those there are.
    """
    runs = list_runs()
    if name_or_path is None:
        if not runs:
            raise CheckpointError("There are no runs yet.", "Make one: gptscratch train corpus.txt")
        return runs[0]
    path = Path(name_or_path).expanduser()
    if (path / "config.json").is_file():
        return path
    named = runs_dir() / str(name_or_path)
    if (named / "config.json").is_file():
        return named
    names = [run.name for run in runs]
    here = f"Runs here: {listed(names) or 'none yet'}."
    if path.exists():
        raise CheckpointError(f"{path} is not a run: it has no config.json.", here)
    near = did_you_mean(str(name_or_path), names)
    raise CheckpointError(f"There is no run {str(name_or_path)!r}.", f"{near} {here}".lstrip())


def find_checkpoint(name_or_path: str | Path | None = None, which: str = "best") -> tuple[Path, Path]:
    """(run folder, checkpoint folder) by run name, run folder or checkpoint folder; None: the newest
    run that has a checkpoint.

    ``which`` is ``"best"`` or ``"last"`` and matters only where a run is named.

    Raises:
        CheckpointError: nothing is there, or the run has no checkpoint yet.
    """
    if name_or_path is not None:
        path = Path(name_or_path).expanduser()
        if _STEP.fullmatch(path.resolve().name) and path.is_dir():
            return path.resolve().parent.parent, path
    run = find_run(name_or_path)
    if name_or_path is None:
        run = next((done for done in list_runs() if checkpoints(done)), run)
    pointer = run / f"{which}.json"
    if pointer.is_file():
        try:
            folder = run / "checkpoints" / str(json.loads(pointer.read_text(encoding="utf-8"))["checkpoint"])
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(f"{pointer} is damaged.", f"Name a folder of {run}/checkpoints.") from None
        if folder.is_dir():
            return run, folder
    saved = checkpoints(run)
    if not saved:
        raise CheckpointError(f"The run {run.name} has no checkpoint yet.", f"It lies in {run}.")
    return run, saved[-1][1]


def _last_change(run: Path) -> float:
    newest = run / "last.json"
    return (newest if newest.is_file() else run / "config.json").stat().st_mtime
