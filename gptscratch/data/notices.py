"""What the user should know about how a text was read: options without effect, and what was assumed."""

from __future__ import annotations

from itertools import chain

from gptscratch import paths
from gptscratch.config import DataConfig
from gptscratch.data.sources import split_weights
from gptscratch.data.token_files import Manifest
from gptscratch.errors import listed
from gptscratch.tokenizer import KINDS

_PLAIN = {"text", "json"}


def notices(config: DataConfig, manifest: Manifest) -> list[str]:
    """One line each."""
    return [*_of_tokenizer(config, manifest), *_of_files(config, manifest)]


def _of_tokenizer(config: DataConfig, manifest: Manifest) -> list[str]:
    kind = manifest.tokenizer_kind
    if config.tokenizer not in (None, *KINDS):
        asked = {"--vocab-size": config.vocab_size, "--lowercase": config.lowercase,
                 "--min-frequency": config.min_frequency}  # fmt: skip
        reason = f"has no effect: {config.tokenizer} is a finished tokenizer."
        return [f"{flag} {reason}" for flag, value in asked.items() if value]
    found = []
    if config.min_frequency and kind != "word":
        found.append(f"--min-frequency has no effect with a {kind} tokenizer, only with --tokenizer word.")
    if config.vocab_size and config.vocab_size > manifest.vocab_size:
        size = f"{manifest.vocab_size:,} entries, not {config.vocab_size:,}"
        found.append(f"The vocabulary has {size}: the text gives no more.")
    return found


def _of_files(config: DataConfig, manifest: Manifest) -> list[str]:
    found, formats = [], {*manifest.formats}  # empty in token files of older versions
    if config.separator and formats and not formats & _PLAIN:
        found.append("--separator has no effect: each row of a table is a document.")
    if config.text_column and formats and formats <= _PLAIN:
        found.append("--text-column has no effect: there is no table, such as a .jsonl or .csv file.")
    names = chain(split_weights(config.corpus)[0], [config.val_file] if config.val_file else [])
    if config.glob and not any(paths.expanded(name).is_dir() for name in names):
        found.append("--glob has no effect: no folder is named.")
    if "json" in formats:
        found.append(
            "JSON in .json files is read as plain text, with its brackets and names. "
            "To train on the texts in it, convert it to JSON lines: .jsonl, with one object on each line."
        )
    if manifest.columns:
        shown = listed(f"{column!r:.60}" for column in manifest.columns)
        found.append(f"A table has a single column, which is read as the text: {shown}.")
    return found
