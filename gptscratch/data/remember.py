"""What the first pass over a large corpus found, kept while its files stay the same."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

import gptscratch
from gptscratch import paths
from gptscratch.data.corpus import Corpus, Scan
from gptscratch.data.split import Section
from gptscratch.data.token_files import Removed
from gptscratch.data.writer import write_whole

_STAMPED = 8 << 20  # bytes, from which on a corpus is known again by its files' sizes and times
_RACY = 2.0  # seconds: a file this fresh may change again without its time changing


@dataclass(frozen=True)
class Remembered:
    """A scan made before."""

    scan: Scan
    same: bool  # the files are as they were then


def is_stamped(corpus: Corpus) -> bool:
    """Whether it is files alone, and too large to read them just to see that they are the same."""
    return corpus.total_bytes >= _STAMPED and corpus.newest_change < float("inf")


def is_settled(corpus: Corpus) -> bool:
    """Whether the sizes and times of the files would tell of a change."""
    return is_stamped(corpus) and time.time() - corpus.newest_change > _RACY


def remembered_scan(corpus: Corpus) -> Remembered | None:
    """Of the corpus of this name, as it is or as it once was."""
    if not is_settled(corpus):
        return None
    try:
        values = json.loads(_file(corpus).read_text(encoding="utf-8"))
        if values["version"] != gptscratch.__version__:
            return None
        scan = values["scan"]
        scan["sections"] = tuple(Section(**section) for section in scan["sections"])
        scan["removed"] = tuple(Removed(**step) for step in scan["removed"])
        scan["encodings"] = tuple((name, number) for name, number in scan["encodings"])
        return Remembered(Scan(**scan), values["stamps"] == corpus.stamps_key())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember_scan(corpus: Corpus, scan: Scan) -> None:
    """Where the cache directory cannot be written, nothing is kept."""
    if not is_settled(corpus):
        return
    values = {
        "version": gptscratch.__version__,
        "stamps": corpus.stamps_key(),
        "scan": dataclasses.asdict(scan),
    }
    with contextlib.suppress(OSError):
        paths.tokens_dir().mkdir(parents=True, exist_ok=True)
        write_whole(_file(corpus), json.dumps(values))


def _file(corpus: Corpus) -> Path:
    return paths.tokens_dir() / f"{corpus.reading_key()}.scan.json"
