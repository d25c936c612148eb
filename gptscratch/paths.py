"""Paths: the cache directory, run folders, and finding a checkpoint by name or path.

    <home>/runs/<name>/{config.json, tokenizer.json, metrics.jsonl, best.json, last.json}
    <home>/runs/<name>/checkpoints/step-00001000/{model.safetensors, optimizer.safetensors, state.json}
    <home>/tokens/<hash>/{train.bin, val.bin, manifest.json}

A run is a folder, and its name is the folder's name.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from gptscratch.errors import CheckpointError, ConfigError, did_you_mean, listed

_STEP = re.compile(r"step-(\d{8,18})")
_LONGEST_NAME = 100  # bytes; file systems take 255


def home() -> Path:
    """The root of everything that is kept: ``GPTSCRATCH_HOME``, or the user's cache directory."""
    given = os.environ.get("GPTSCRATCH_HOME")
    return expanded(given) if given else Path(platformdirs.user_cache_dir("gptscratch", False))


def expanded(path: str | Path) -> Path:
    """The path with ``~`` replaced; one that names an unknown user stays as it is, and may be a file."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - that of Path raises RuntimeError


def runs_dir() -> Path:
    return home() / "runs"


def tokens_dir() -> Path:
    return home() / "tokens"


def run_dir(name: str) -> Path:
    """The folder of the run with this name, existing or not.

    Raises:
        ConfigError: the name cannot be that of a folder, or cannot be typed as an argument.
    """
    if name != usable_name(name):
        shown = f"{name[:40]}..." if len(name) > 40 else name
        raise ConfigError(
            f"{shown!r} cannot be the name of a run.",
            f'A name has at most {_LONGEST_NAME} bytes, no line breaks, none of / \\ : * ? " < > |, and does '
            "not start with a dash or a dot. To put a run elsewhere, use --out DIR.",
        )
    return runs_dir() / name


def usable_name(text: str, end: str = "") -> str:
    """The text as the name of a run, with an end in ASCII; one that is usable comes back as it is."""
    printable = "".join(c for c in text if c.isprintable() and c not in '/\\:*?"<>|')
    short = printable.encode()[: _LONGEST_NAME - len(end)].decode(errors="ignore")
    return (short.lstrip("-. ").rstrip(". ") or "run") + end


def names_from(text: str) -> Iterator[str]:
    """Names of runs without end: "book", "book-2", "book-3"."""
    yield usable_name(text)
    for number in itertools.count(2):
        yield usable_name(text, f"-{number}")


def typed(run: Path) -> str:
    """The name of the run on the command line, or its path if it is not in the cache directory."""
    return run.name if run.resolve().parent == runs_dir().resolve() else str(run)


def checkpoint_dir(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """The run's checkpoints as (step, folder), oldest first."""
    found = []
    for folder in (run / "checkpoints").glob("step-*"):
        match = _STEP.fullmatch(folder.name)
        if match and is_checkpoint(folder):
            found.append((int(match[1]), folder))
    return sorted(found)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a whole checkpoint: its state.json is the last file to be written."""
    return is_file(folder / "state.json")


def is_file(path: Path) -> bool:
    """``path.is_file()``, and false where the path cannot even be asked about (a name too long)."""
    return os.path.isfile(path)  # noqa: PTH113


def list_runs() -> list[Path]:
    """Every run in the cache directory, newest first."""
    found = [config.parent for config in runs_dir().glob("[!.]*/config.json")]
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
    name = str(name_or_path)
    folders = [expanded(name), runs_dir() / name]
    if found := [folder for folder in folders if is_file(folder / "config.json")]:
        # A model that was imported may be in a folder of the same name, without checkpoints.
        return next((folder for folder in found if (folder / "checkpoints").is_dir()), found[0])
    names = [run.name for run in runs]
    hint = f"{did_you_mean(name, names)} Runs here: {listed(names) or 'none yet'}.".lstrip()
    with contextlib.suppress(OSError):
        for folder in filter(Path.exists, folders):
            raise CheckpointError(f"{folder} is not a run: it has no config.json.", hint)
    raise CheckpointError(f"There is no run {name!r}.", hint)


def find_checkpoint(name_or_path: str | Path | None = None, which: str = "best") -> tuple[Path, Path]:
    """(run folder, checkpoint folder) by run name, run folder or checkpoint folder.

    Without a name it is the newest run that has a checkpoint. ``which`` (``"best"`` or ``"last"``) matters
    where no checkpoint is named.

    Raises:
        CheckpointError: nothing is there, or the run has no checkpoint yet.
    """
    if name_or_path is not None:
        path = expanded(name_or_path)
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: a link that leads to itself
            if _STEP.fullmatch(path.resolve().name) and path.is_dir():
                return path.resolve().parent.parent, path
    run = find_run(name_or_path)
    if name_or_path is None:
        run = next((done for done in list_runs() if checkpoints(done)), run)
    pointed = _pointed(run, which)
    if pointed is not None:
        return run, pointed
    saved = checkpoints(run)
    if not saved:
        if any(run.glob("*.safetensors")):
            raise CheckpointError(
                f"{run} is a model of another program.", f"Import it first: gptscratch import {run}"
            )
        again = f"--name {run.name}" if typed(run) == run.name else f"--out {run}"
        raise CheckpointError(
            f"The run {run.name} has no checkpoint yet.",
            f"If it is not being trained now, start it again: gptscratch train CORPUS {again}",
        )
    return run, saved[-1][1]


def _pointed(run: Path, which: str) -> Path | None:
    """The checkpoint that best.json or last.json names; None where it was deleted, or there is no file."""
    pointer = run / f"{which}.json"
    if not is_file(pointer):
        return None
    try:
        name = json.loads(pointer.read_text(encoding="utf-8"))["checkpoint"]
        if not _STEP.fullmatch(name):  # a path would lead out of the run's folder
            raise ValueError(name)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{pointer} is damaged.", f"Name a folder of {run}/checkpoints.") from None
    folder = run / "checkpoints" / name
    return folder if is_checkpoint(folder) else None


def _last_change(run: Path) -> float:
    newest = run / "last.json"
    return (newest if newest.is_file() else run / "config.json").stat().st_mtime
