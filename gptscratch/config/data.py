"""The text, its tokens, and what is held out."""

from __future__ import annotations

from dataclasses import dataclass

from gptscratch.config.setting import ADVANCED, DATA, TOKENIZER, check_settings, planned, setting
from gptscratch.errors import require

CLEAN = ("html", "lowercase", "punctuation", "nfc", "nfkc", "whitespace", "dedup", "neardup", "min-length:N")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The location of the text, its documents, its tokens, and the validation set."""

    corpus: tuple[str, ...] = setting(
        (), None, 'Files, folders, patterns or "-" for stdin; to mix them by weight, each as FILE=WEIGHT.'
    )
    glob: str | None = setting(
        None,
        DATA,
        'Files to read in a folder, for example "*.md".',
        metavar="PATTERN",
        default_is="all text files",
    )
    text_column: str | None = setting(
        None,
        DATA,
        "Column that holds the text in a jsonl, csv, tsv or parquet file.",
        metavar="NAME",
        default_is="text, or the only one",
    )
    separator: str | None = setting(
        None, ADVANCED, "String that separates documents in a file.", default_is="<|endoftext|>, if it occurs"
    )
    encoding: str = setting(
        "utf-8",
        DATA,
        "Text encoding; auto detects it for each file. A byte-order mark has priority.",
        metavar="NAME",
    )
    encoding_errors: str = setting(
        "strict", ADVANCED, "Bytes that cannot be decoded: strict (stop) or replace (read U+FFFD).",
        choices=("strict", "replace"),
    )  # fmt: skip
    clean: tuple[str, ...] = setting(
        (), DATA, "Clean each document with this step (repeatable, in order)", metavar="STEP", choices=CLEAN
    )
    tokenizer: str | None = planned(
        None, TOKENIZER, "char, byte, word, bpe, or a tokenizer.json or run to reuse.", metavar="KIND"
    )
    vocab_size: int | None = planned(
        None, TOKENIZER, "Target size of the vocabulary.", at_least=1, at_most=1 << 24
    )
    lowercase: bool = setting(False, TOKENIZER, "Convert the text to lower case.")
    min_frequency: int | None = setting(
        None, ADVANCED, "Word tokenizer: words rarer than N become unknown.", at_least=1, default_is="2"
    )
    val_fraction: float | None = setting(
        None, DATA, "Fraction of the text held out for validation.", above=0, below=1,
        default_is="0.1, at most 20 MB",
    )  # fmt: skip
    val_file: str | None = setting(
        None, DATA, "Use this file for validation, and hold nothing out.", metavar="FILE"
    )

    def __post_init__(self) -> None:
        check_settings(self)
        require(
            self.val_file is None or self.val_fraction is None,
            "val_fraction (--val-fraction) has no effect with val_file (--val-file).",
            "Give one of them.",
        )
        require(len(set(self.clean)) == len(self.clean), "A step of --clean is given twice.")
