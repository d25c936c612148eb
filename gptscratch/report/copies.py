"""How much of its training text a model repeats: the longest copied span of texts that it generates."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptscratch import paths
from gptscratch.errors import UserError
from gptscratch.generation.generator import Generator
from gptscratch.generation.memorization import CopiedSpan, longest_copy, with_training_tokens
from gptscratch.runs.run import read_run

N_TEXTS = 3
N_TOKENS = 200  # in each
_MOST_TOKENS = 20_000_000  # of training text: sorting more of them takes minutes
_WINDOWS = 50  # of the validation text, for comparison
LONG = 80  # tokens: unlike texts seldom share a longer span


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Texts of the best checkpoint, each with its longest span that is in the training text."""

    texts: Sequence[tuple[str, CopiedSpan]]
    natural: int | None  # tokens: the median over validation texts of the same length; None: too short
    leaked: float = 0.0  # the share of those texts that have a long span in the training text


def measure_copies(run: Path) -> Copies | str:
    """Generate texts and search them in the training tokens; a reason in words where that cannot be done."""
    try:
        record = read_run(run)
        if not (Path(record.tokens) / "manifest.json").is_file() or not record.tokens:
            return "The token files of this run are gone."
        train_tokens = (record.split or {}).get("train_tokens", 0)
        if train_tokens > _MOST_TOKENS and not (Path(record.tokens) / "train.suffixes").is_file():
            name = shlex.quote(paths.typed(run))
            return f"The training text is long: gptscratch sample {name} --novelty searches it."
        generator = with_training_tokens(Generator.load(run))
    except UserError as error:
        return error.message
    found = list(generator.sample(num_samples=N_TEXTS, max_tokens=N_TOKENS, seed=0))
    texts = [(each.text, longest_copy(generator, each.text)) for each in found if each.text]
    shared = _shared_spans(generator, Path(record.tokens))
    if not shared:
        return Copies(texts=texts, natural=None)
    leaked = sum(length >= LONG for length in shared) / len(shared)
    return Copies(texts=texts, natural=int(np.median(shared)), leaked=leaked)


def _shared_spans(generator: Generator, folder: Path) -> list[int]:
    """The longest spans that validation texts of the same length share with the training text."""
    assert generator.training is not None
    val = np.fromfile(folder / "val.bin", generator.training.tokens.dtype)
    if len(val) < 2 * N_TOKENS:
        return []
    starts = np.linspace(0, len(val) - N_TOKENS, min(_WINDOWS, len(val) // N_TOKENS)).astype(int)
    return [generator.training.longest(val[start : start + N_TOKENS].tolist())[1] for start in starts]
