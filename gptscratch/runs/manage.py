"""Delete and rename runs; list and delete token files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gptscratch import paths
from gptscratch.data import token_folder
from gptscratch.data.sources import reads_stdin
from gptscratch.data.token_files import Manifest, read_manifest
from gptscratch.errors import ConfigError, UserError, disk_errors, require
from gptscratch.files import remove_folder, remove_leftovers, write_json
from gptscratch.runs.folder import held
from gptscratch.runs.run import read_facts, read_run, read_versioned
from gptscratch.runs.run_tokens import remembered


@dataclass(frozen=True, kw_only=True)
class TokenFolder:
    """A folder of token files in the cache directory."""

    name: str
    folder: str
    size_bytes: int
    changed: float  # seconds since 1970
    manifest: Manifest | None  # None: damaged
    runs: tuple[str, ...]  # that were trained on it; outside of the cache directory by their paths
    from_stdin: bool  # a part of the text: the files cannot be made again


def find_in_cache(name: str) -> Path:
    """The folder of a run, also of a damaged one, that ``delete_run`` and ``rename_run`` take.

    Raises:
        UserError: there is no such run, or it is outside the cache directory.
    """
    folder = paths.runs_dir() / name
    if name == paths.usable_name(name) and folder.is_dir():
        return folder
    run = paths.find_run(name)
    if paths.typed(run) != run.name:
        raise ConfigError(f"{run} is not in the cache directory.", "Delete or rename this folder yourself.")
    return run.resolve()


def delete_run(run: Path) -> None:
    """Delete a run's folder.

    Raises:
        RunBusyError: the run is being trained.
        RunError: the disk reports an error.
    """
    with held(run):
        pass
    with disk_errors(f"deleting {run}"):
        remove_leftovers(run.parent, run.name)
        if run.is_symlink():
            run.unlink()
        else:
            remove_folder(run)


def rename_run(run: Path, name: str) -> Path:
    """Give a run another name; returns its new folder.

    Raises:
        ConfigError: the name is taken or cannot be that of a run.
        RunBusyError: the run is being trained.
        RunError: the disk reports an error.
    """
    target = paths.run_dir(name)
    require(not target.exists(), f"{target} exists already.", "Choose another name.")
    with held(run):
        pass
    with disk_errors(f"renaming {run}"):
        run.rename(target)
        with contextlib.suppress(UserError):  # a damaged config.json stays as it is
            write_json(target / "config.json", read_versioned(target / "config.json") | {"name": name})
    return target


def list_token_folders() -> list[TokenFolder]:
    """Every folder of token files in the cache directory, the largest first."""
    users: dict[str, list[Path]] = {}
    for run in paths.list_runs():
        users.setdefault(Path(str(read_facts(run / "config.json").get("tokens"))).name, []).append(run)
    folders = (folder for folder in paths.tokens_dir().glob("[!.]*") if folder.is_dir())
    found = [_described(folder, [*users.get(folder.name, []), *remembered(folder)]) for folder in folders]
    return sorted(found, key=lambda each: each.size_bytes, reverse=True)


def delete_token_folders(folders: Iterable[TokenFolder]) -> None:
    """Raises RunError where the disk reports an error."""
    token_folder.remove_leftovers(paths.tokens_dir())
    for each in folders:
        with disk_errors(f"deleting {each.folder}"):
            remove_folder(Path(each.folder))


def _described(folder: Path, runs: list[Path]) -> TokenFolder:
    manifest, from_stdin = None, False
    with contextlib.suppress(UserError):
        manifest = read_manifest(folder)
        from_stdin = manifest.from_stdin
    for run in runs:  # the manifests of older versions do not say it
        with contextlib.suppress(UserError):
            from_stdin |= reads_stdin(read_run(run).config.data)
    files = [file.stat() for file in folder.iterdir() if file.is_file()]
    return TokenFolder(
        name=folder.name,
        folder=str(folder),
        size_bytes=sum(file.st_size for file in files),
        changed=max((file.st_mtime for file in files), default=0.0),
        manifest=manifest,
        runs=tuple(run.name if run.parent == paths.runs_dir() else str(run) for run in runs),
        from_stdin=from_stdin,
    )
