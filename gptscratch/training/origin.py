"""What a run starts from: its folder and name, its token files, another run's shape, its own past."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from gptscratch import checkpoint, paths
from gptscratch.config import RunConfig, flattened, qualified
from gptscratch.data.prepare import Prepared, prepare
from gptscratch.data.shards import open_tokens
from gptscratch.data.sources import split_weights
from gptscratch.errors import CheckpointError, ConfigError
from gptscratch.tokenizer import Tokenizer


def run_folder(config: RunConfig, out: str | Path | None) -> Path:
    """Where a new run goes; a name that was not given is made from the corpus's and never taken twice."""
    if out is not None:
        return Path(out).expanduser()
    if config.name:
        return paths.run_dir(config.name)
    names, _ = split_weights(config.data.corpus)
    first = names[0] if names else "python"
    stem = "stdin" if first == "-" else Path(first).resolve().name.split(".")[0].strip("*?[] ") or "run"
    name, number = stem, 2
    while paths.run_dir(name).exists():
        name, number = f"{stem}-{number}", number + 1
    return paths.run_dir(name)


def same_tokens(run: Path, record: checkpoint.RunRecord) -> Prepared:
    """The run's token files, made again from its corpus if they are gone."""
    folder = Path(record.tokens)
    if (folder / "manifest.json").is_file():
        tokens = open_tokens(folder)
        return Prepared(folder, Tokenizer.load(folder), tokens, tokens.manifest, None, True)
    if "-" in record.config.data.corpus:
        raise CheckpointError(f"The token files of {run.name} are gone, and its corpus came from stdin.")
    return prepare(replace(record.config.data, tokenizer=str(run / "tokenizer.json")))


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
    horizons = {f"train.{unit}": 0 for unit in ("steps", "epochs", "tokens", "minutes", "max_steps")}
    return config.with_settings({**(horizons if horizons.keys() & changes.keys() else {}), **changes})
