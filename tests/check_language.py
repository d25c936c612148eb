"""Finds the phrases of tests/language.txt in code and documents: ``python tests/check_language.py``.

Names, comments and strings of Python files are checked like prose, so the check covers messages and help
texts as well. Fenced ``text`` blocks of Markdown hold output of programs and are left out.
"""

from __future__ import annotations

import bisect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
RULES = Path(__file__).with_name("language.txt")
CHECKED = ("*.md", "*.toml", ".ci/*", "gptscratch/**/*.py", "tests/**/*.py", "examples/**/*.*", "docs/**/*.*")
TEXT = {".md", ".py", ".toml", ".sh", ""}
OUTPUT = re.compile(r"^```text\n.*?^```$", re.MULTILINE | re.DOTALL)
WORD = re.compile(r"[^\s_\"'`#|*]+")


class Rule(NamedTuple):
    pattern: re.Pattern[str]
    advice: str


class Finding(NamedTuple):
    file: str
    line: int
    phrase: str
    advice: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.phrase!r}: write {self.advice}"


@cache
def rules() -> tuple[tuple[Rule, ...], frozenset[tuple[str, str]]]:
    """The rules, and the exceptions as (file, phrase)."""
    found, exceptions = [], set()
    for line in RULES.read_text(encoding="utf-8").splitlines():
        if line.startswith("# except "):
            file, _, phrase = line.removeprefix("# except ").partition(": ")
            exceptions.add((file, phrase.lower()))
        elif line and not line.startswith("#"):
            pattern, _, advice = line.partition(" -> ")
            whole = rf"(?<![^\W\d])(?:{pattern.strip()})(?![^\W\d])"
            found.append(Rule(re.compile(f"(?i:{whole})"), advice))
    return tuple(found), frozenset(exceptions)


def findings(text: str, file: str = "") -> Iterator[Finding]:
    """Every phrase of ``text`` that a rule forbids, with its line."""
    text = OUTPUT.sub(lambda block: "\n" * block[0].count("\n"), text)
    words = list(WORD.finditer(text))
    starts, position = [], 0
    for word in words:
        starts.append(position)
        position += len(word[0]) + 1
    flat = " ".join(word[0] for word in words) + " "
    known, exceptions = rules()
    for rule in known:
        for match in rule.pattern.finditer(flat):
            phrase = match[0].strip()
            if (file, phrase.lower()) not in exceptions:
                word = words[bisect.bisect_right(starts, match.start()) - 1]
                yield Finding(file, text[: word.start()].count("\n") + 1, phrase, rule.advice)


def checked_files() -> list[Path]:
    files = {
        file for pattern in CHECKED for file in ROOT.glob(pattern) if file.suffix in TEXT and file.is_file()
    }
    return sorted(files - {Path(__file__), ROOT / "tests" / "test_language.py"})


def main(arguments: list[str]) -> int:
    """Check the files given, or all; the exit code is 1 if there are findings."""
    chosen = {Path(word).resolve() for word in arguments}
    found = [
        finding
        for file in checked_files()
        if not chosen or file in chosen
        for finding in sorted(
            findings(file.read_text(encoding="utf-8"), file.relative_to(ROOT).as_posix()),
            key=lambda finding: finding.line,
        )
    ]
    print(*found, sep="\n", end="\n" * bool(found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
