"""A model of another program as a run: ``gptscratch import``, and ``train --init-from`` with such a model.

The parameters are copied one at a time and keep their number format, so that memory holds the largest of them
only. A run is complete or absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gptscratch import paths
from gptscratch.config import ModelConfig, RunConfig, TrainConfig, read_json
from gptscratch.errors import (
    CheckpointError,
    ConfigError,
    TokenizerError,
    UserError,
    disk_errors,
    require,
)
from gptscratch.files import new_folder, remove_folder, write_json
from gptscratch.interop.foreign import SUPPORTED, ForeignModel
from gptscratch.interop.hf_import import read_hf
from gptscratch.interop.hub import HUB, download
from gptscratch.interop.nanogpt import read_nanogpt
from gptscratch.interop.token_names import read_names
from gptscratch.runs.folder import held, require_free
from gptscratch.runs.run import FORMAT, TOKENIZER_CONFIG, RunRecord, read_run
from gptscratch.runs.tensors import save_streamed
from gptscratch.sizing import count_parameters
from gptscratch.tokenizer import Tokenizer
from gptscratch.tokenizer.load import load_library_tokenizer

_WITH_TOKEN = 0.9  # of the model's ids: embeddings are padded to a multiple of some power of two, not further


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The run that was made."""

    run: Path
    source: str
    model_type: str
    model: ModelConfig
    parameters: int
    dtype: str
    tokenizer: str  # its kind
    entries: int  # of the tokenizer


def import_run(
    source: str | Path, *, name: str | None = None, tokenizer: str | Path | None = None, replace: bool = False
) -> Imported:
    """Make a run of a model of another program.

    Args:
        source: a folder in Hugging Face's format, a ckpt.pt of nanoGPT, or ``hf:owner/model[@revision]``.
        name: of the run; None: that of the folder or of the model on the hub.
        tokenizer: a tokenizer.json, or a folder with one; None: that of the model's folder.
        replace: allow a run of this name to be replaced.

    Raises:
        UserError: the model is not supported, or a file is missing or damaged; nothing is left half-written.
    """
    path, place = _located(source)
    run = paths.run_dir(name or paths.usable_name(_name(source, path)))
    require_free(run, replace=replace)
    foreign = read_nanogpt(path) if path.is_file() else read_hf(path)
    library = load_library_tokenizer(_tokenizer_path(path, foreign, tokenizer))
    library.no_truncation()
    library.no_padding()
    tokenizer_json = library.to_str(pretty=True)  # with the template of its post-processor
    own = Tokenizer(library)
    _require_fit(own, foreign.config)
    record = RunRecord(
        config=RunConfig(model=foreign.config, train=TrainConfig(optimizer="adamw"), name=run.name),
        corpus_hash="",
        tokens="",
        end_of_text=_end_of_text(own, foreign),
        parameters=count_parameters(foreign.config).total,
        stop_ids=tuple(foreign.stop_ids),
        imported={"source": place, "model_type": foreign.model_type},
    )
    with disk_errors(f"writing {run}"):
        _write(run, record, foreign, tokenizer_json, read_names(path, own))
    return Imported(
        run=run,
        source=place,
        model_type=foreign.model_type,
        model=foreign.config,
        parameters=record.parameters,
        dtype=str(foreign.dtype).removeprefix("torch."),
        tokenizer=own.kind,
        entries=own.vocab_size,
    )


def is_foreign(source: str) -> bool:
    """Whether a path or name is a model of another program, not a run or checkpoint of gptscratch."""
    path = paths.expanded(source)
    return source.startswith(HUB) or path.suffix == ".pt" or _is_hf(path)


def imported_before(source: str) -> Path | None:
    """The run that was made of this source, if the source has not changed since."""
    path, place = _located(source)
    changed = max(file.stat().st_mtime for file in (path.iterdir() if path.is_dir() else [path]))
    for run in paths.list_runs():
        try:
            imported = read_run(run).imported or {}
        except UserError:
            continue
        if imported.get("source") == place and changed < (run / "config.json").stat().st_mtime:
            return run
    return None


def free_name(source: str) -> str:
    """The name for a run of this source; with a number, where there is a run of that name."""
    names = paths.names_from(_name(source, paths.expanded(source)))
    return next(name for name in names if not paths.run_dir(name).exists())


def _write(
    run: Path, record: RunRecord, foreign: ForeignModel, tokenizer_json: str, names: Mapping[str, str]
) -> None:
    """The whole folder; a run that is there already is replaced at the end."""
    with new_folder(run) as temporary:
        checkpoint = paths.checkpoint_dir(temporary, 0)
        checkpoint.mkdir(parents=True)
        weights = checkpoint / "model.safetensors"
        save_streamed(weights, foreign.shapes(), foreign.dtype, _finite_parameters(foreign))
        write_json(checkpoint / "state.json", {"format": FORMAT, "step": 0, "tokens": 0, "seconds": 0.0})
        write_json(temporary / "last.json", {"checkpoint": checkpoint.name, "step": 0})
        write_json(temporary / "config.json", record.to_dict())
        (temporary / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8", newline="\n")
        if names:
            write_json(temporary / TOKENIZER_CONFIG, names)
        if run.exists():
            with held(run):
                remove_folder(run)


def _finite_parameters(foreign: ForeignModel) -> Iterator[Tensor]:
    """Raises CheckpointError where a number is not finite."""
    for name, tensor in foreign.parameters():
        # The sum is fast; where it overflows, each number is looked at.
        if not tensor.sum(dtype=torch.float32).isfinite() and not tensor.isfinite().all():
            raise CheckpointError(f"The weights hold numbers that are not finite ({name}).")
        yield tensor


def _located(source: str | Path) -> tuple[Path, str]:
    """The folder or file, and how it is named in the run.

    Raises:
        ConfigError: there is no such thing, or it is something else.
    """
    name = str(source)
    if name.startswith(HUB):
        folder = download(name.removeprefix(HUB))
        return folder, f"{name.partition('@')[0]}@{folder.name}"
    path = paths.expanded(name)
    hint = f"To download a model of the hub: gptscratch import {HUB}{name}" if name.count("/") == 1 else ""
    require(path.exists(), f"{name} does not exist.", hint)
    if path.is_file():
        require(path.suffix == ".pt", f"{name} is not a ckpt.pt of nanoGPT.", "Name the model's folder.")
    elif not _is_hf(path):
        own = (path / "config.json").is_file() and "format" in read_json(path / "config.json")
        require(not own, f"{name} is a run of gptscratch: nothing has to be imported.", "Use it by its path.")
        raise ConfigError(f"{name} is not a model: it has no config.json with a model_type.", SUPPORTED)
    return path, str(path.resolve())


def _is_hf(path: Path) -> bool:
    try:
        return paths.is_file(path / "config.json") and "model_type" in read_json(path / "config.json")
    except ConfigError:
        return False


def _name(source: str | Path, path: Path) -> str:
    if str(source).startswith(HUB):
        return str(source).partition("@")[0].rpartition("/")[2]
    return path.resolve().parent.name if path.is_file() else path.resolve().name


def _tokenizer_path(path: Path, foreign: ForeignModel, given: str | Path | None) -> str | Path:
    """Raises TokenizerError where there is none that gives the model's ids."""
    if given is not None:
        return given
    if (path / "tokenizer.json").is_file():
        return path
    if foreign.model_type == "gpt2" and (path / "merges.txt").is_file():
        return path  # others split their text in another way than these two files describe
    what = f"{path.name} holds no tokenizer" if path.is_file() else f"{path} has no tokenizer.json"
    raise TokenizerError(
        f"{what}.", f"Name it: gptscratch import {path} --tokenizer PATH (a tokenizer.json, or its folder)."
    )


def _require_fit(tokenizer: Tokenizer, config: ModelConfig) -> None:
    """Raises TokenizerError where the model has no embedding for a token, or for many embeddings no token."""
    if (
        not _WITH_TOKEN * config.vocab_size <= tokenizer.vocab_size
        or tokenizer.largest_id >= config.vocab_size
    ):
        raise TokenizerError(
            f"The tokenizer has {tokenizer.vocab_size:,} entries, and the model's embedding has "
            f"{config.vocab_size:,}.",
            "Take the tokenizer that the model was trained with.",
        )


def _end_of_text(tokenizer: Tokenizer, foreign: ForeignModel) -> int | None:
    own, stop = tokenizer.eot_id, foreign.stop_ids
    if own is not None and own < foreign.config.vocab_size and (own in stop or not stop):
        return own
    return stop[0] if stop else None
