"""The text, its tokens, and what is held back."""

from __future__ import annotations

from dataclasses import dataclass

from gptscratch.config.checks import require, require_choice

CLEAN = ("html", "lowercase", "punctuation", "nfc", "nfkc", "whitespace", "dedup", "neardup", "min-length")

MOST_ENTRIES = 1 << 24  # of a vocabulary, far more than any has; each takes memory while a tokenizer trains


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the text is, what a document is, how it becomes tokens, and what is held back."""

    corpus: tuple[str, ...] = ()  # files, folders, patterns, "-"; all "file=weight"; none: Python's library
    glob: str = ""  # which files of a folder; empty: what looks like text
    text_column: str = ""  # of a jsonl, csv or tsv; empty: "text"
    separator: str = ""  # between documents of one file; empty: <|endoftext|> where it occurs
    encoding: str = "utf-8"  # or "auto": guessed file by file; a byte-order mark wins over it
    encoding_errors: str = (
        "strict"  # bytes that the encoding does not know: "strict" stops, "replace" reads U+FFFD
    )
    clean: tuple[str, ...] = ()  # steps over each document, in order: see CLEAN; "min-length:N" characters
    tokenizer: str = ""  # char, byte, word, bpe or a path; empty: chosen by the corpus's size
    vocab_size: int = 0  # wanted entries; 0: chosen by the tokenizer and the corpus's size
    lowercase: bool = False
    min_frequency: int = 0  # a word seen less often is unknown; 0: chosen
    val_fraction: float = -1.0  # of the corpus, held back for validation; -1: a tenth, but at most 20 MB
    val_file: str = ""  # a corpus of its own for validation; nothing is held back then

    def __post_init__(self) -> None:
        require(self.vocab_size >= 0, f"vocab_size is {self.vocab_size}: it must be at least 1.")
        require(
            self.vocab_size <= MOST_ENTRIES,
            f"vocab_size is {self.vocab_size:,}: it must be at most {MOST_ENTRIES:,}.",
        )
        require(self.min_frequency >= 0, f"min_frequency is {self.min_frequency}: it must not be negative.")
        require_choice("encoding_errors", self.encoding_errors, ("strict", "replace"))
        is_share = self.val_fraction == -1.0 or 0.0 < self.val_fraction < 1.0
        require(is_share, f"val_fraction is {self.val_fraction}: it must be in (0, 1).")
        require(
            not self.val_file or self.val_fraction == DataConfig.val_fraction,
            "val_fraction has no effect beside val_file.",
            "Give one of --val-fraction, --val-file.",
        )
        for step in self.clean:
            _require_clean_step(step)
        require(len(set(self.clean)) == len(self.clean), "a step of clean is named twice.")


def _require_clean_step(step: str) -> None:
    name, _, least = step.partition(":")
    require_choice("clean", name, CLEAN)
    if name == "min-length":
        require(least.isdecimal(), f"clean is {step!r}: a number is missing.", "For example: min-length:100")
    else:
        require(step == name, f"clean is {step!r}: {name} takes no number.")
