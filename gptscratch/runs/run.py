"""config.json, which describes a run, and the small files of JSON next to it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gptscratch
from gptscratch import paths
from gptscratch.config import LENGTHS, RunConfig, all_settings, qualified, read_json
from gptscratch.errors import CheckpointError, ConfigError, RunError, require

# The format of config.json and state.json. 1 had other names of settings and order of batches; 2 shuffled
# every corpus in memory, where 3 computes the order of more than four million rows.
FORMAT = 3
TOKENIZER_CONFIG = "tokenizer_config.json"  # in the folder of a run: the names in interop/token_names.py
_KEPT = (
    "train.optimizer", "train.batch_size", "train.documents", "train.keep_file",
    "train.lora_rank", "train.lora_alpha", "train.lora_targets", "train.lora_dropout",
)  # fmt: skip  # settings of training that a resume cannot change


@dataclass(frozen=True)
class RunRecord:
    """The content of a run's config.json."""

    config: RunConfig
    corpus_hash: str
    tokens: str  # the folder of its token files
    end_of_text: int | None  # id of the token between documents
    parameters: int
    split: Mapping[str, Any] | None = None  # how the corpus was split; runs of older versions lack it
    stop_ids: tuple[int, ...] = ()  # what ends a text besides end_of_text: as in the model it started from
    imported: Mapping[str, Any] | None = None  # where imported weights are from; such a run has no corpus
    base_model: str | None = None  # the source of the imported model that fine-tuning began with
    base: str | None = None  # the hash of base.safetensors, in a run that trains adapters
    val_hash: str | None = None  # of a validation text with files of its own; older versions lack it
    format: int = FORMAT

    @property
    def ending_ids(self) -> tuple[int, ...]:
        """The ids that end a text, the one of its documents first; none: the corpus was one text."""
        ids = dict.fromkeys((self.end_of_text, *self.stop_ids))
        return tuple(i for i in ids if i is not None)

    def to_dict(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name != "config"}
        return {**self.config.to_dict(), **own, "version": gptscratch.__version__}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunRecord:
        """Raises ConfigError where a value is missing or wrong."""
        rest = dict(values)
        rest.pop("version", None)
        own = {field.name: rest.pop(field.name, None) for field in fields(cls) if field.name != "config"}
        own["stop_ids"] = _stop_ids(own)
        record = cls(config=RunConfig.from_dict(rest), **own)
        end, train, vocab_size = record.end_of_text, record.config.train, record.config.model.vocab_size
        valid = {
            "corpus_hash": isinstance(record.corpus_hash, str),
            "val_hash": record.val_hash is None or isinstance(record.val_hash, str),
            "tokens": isinstance(record.tokens, str),
            "end_of_text": end is None or (type(end) is int and 0 <= end < vocab_size),
            "parameters": type(record.parameters) is int and record.parameters >= 0,
            "base_model": record.base_model is None or isinstance(record.base_model, str),
            "base": record.base is None or isinstance(record.base, str),
            "split": record.split is None or _is_split(record.split),
            "stop_ids": all(type(i) is int and 0 <= i < vocab_size for i in record.stop_ids),
            "imported": record.imported is None or _is_import(record.imported),
        }
        for name, is_valid in valid.items():
            require(is_valid, f"{name} is {own[name]!r}.")
        lengths = [getattr(train, name.removeprefix("train.")) for name in LENGTHS]
        require(any(lengths) or record.imported is not None, "the training length is missing.")
        return record


def _is_split(values: Any) -> bool:
    counts = (
        [values.get(f"{side}_tokens") for side in ("train", "val")] if isinstance(values, dict) else [None]
    )
    return all(type(number) is int and number >= 0 for number in counts)


def _is_import(values: Any) -> bool:
    names = ("source", "model_type")
    return isinstance(values, dict) and all(isinstance(values.get(name), str) for name in names)


def _stop_ids(own: Mapping[str, Any]) -> tuple[Any, ...]:
    """Imported runs of older versions have them with their source."""
    imported = own["imported"] if isinstance(own["imported"], dict) else {}
    found = own["stop_ids"] or imported.get("stop_ids", ())
    return tuple(found) if isinstance(found, list | tuple) else (found,)


def read_run(run: Path) -> RunRecord:
    """Raises CheckpointError where config.json is damaged or of a newer format; as ``require_own_files``."""
    require_own_files(run)
    values = read_versioned(run / "config.json")
    try:
        return RunRecord.from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"{run / 'config.json'} is damaged: {error.message}") from None


def require_own_files(run: Path) -> None:
    """Check that no link leads out of a run's folder: all that a command reads, changes or deletes is in it.

    Raises:
        CheckpointError: one does.
    """
    folder = Path(os.path.realpath(run))
    for root, folders, files in os.walk(run):  # rglob fails where a checkpoint is deleted meanwhile
        for file in (Path(root, name) for name in (*folders, *files)):
            if file.is_symlink() and not Path(os.path.realpath(file)).is_relative_to(folder):
                raise CheckpointError(
                    f"{file} is a link that leads out of the run's folder.",
                    "Replace it by what it leads to. The whole folder of a run may be a link.",
                )


def resume_config(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """A run's settings with the changes that a resume may make: those of training.

    Raises:
        ConfigError: another setting would change.
    """
    changes = qualified(settings)
    fixed = [all_settings()[key].label for key in changes if not key.startswith("train.") or key in _KEPT]
    require(not fixed, f"A resumed run keeps its {', '.join(fixed)}.", "Start a new run to change it.")
    lengths = dict.fromkeys(LENGTHS) if LENGTHS & changes.keys() else {}
    return config.with_settings(lengths | changes)


def read_versioned(file: Path) -> dict[str, Any]:
    """The object in config.json or state.json.

    Raises:
        CheckpointError: it cannot be read, or a newer gptscratch wrote it.
    """
    try:
        values = read_json(file)
    except ConfigError as error:
        reason = error.message.removeprefix(f"{file} ")
        raise CheckpointError(f"{file} is damaged or missing: it {reason}") from None
    number = values.get("format")
    if type(number) is not int:
        raise CheckpointError(f"{file} is damaged, or not from a run: it has no format number.")
    if number > FORMAT:
        raise CheckpointError(
            f"{file} has format {number}; this gptscratch reads up to {FORMAT}.", "Update gptscratch."
        )
    return values


def read_facts(file: Path) -> dict[str, Any]:
    """A small JSON object of a run; empty where it is missing or damaged."""
    try:
        return read_json(file)
    except ConfigError:
        return {}


@contextlib.contextmanager
def disk_errors_in(run: Path, doing: str) -> Iterator[None]:
    """Turn an error of the disk (no space, no permission) into a RunError that says what is saved."""
    try:
        yield
    except OSError as error:
        if not (run / "config.json").is_file():
            raise RunError(f"The folder {run} was deleted or moved during training.") from None
        saved = "Nothing of this run was saved yet."
        for step, _ in paths.checkpoints(run):
            saved = f"It is saved up to step {step:,}: gptscratch train --resume {paths.typed(run)}"
        raise RunError(f"The disk reported an error while {doing}: {error}.", saved) from None
