"""Notices about options without effect, and about files that were read otherwise than they may look."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptscratch.config import DataConfig
from gptscratch.data.notices import notices
from gptscratch.data.prepare import prepare

FILES = {
    "a.txt": "one two three four\n" * 9,
    "a.csv": "id,text\n" + "1,one two\n" * 9,
    "a.jsonl": '{"text": "one two"}\n' * 9,
    "only.jsonl": '{"body": "one two"}\n' * 9,
    "array.json": '\n[{"text": "one two three"}]\n' * 9,
    "a.json": "one two three four\n" * 9,
}


@pytest.mark.parametrize(
    ("names", "settings", "expected"),
    [
        (["a.txt"], {}, ""),
        (["a.json"], {}, ""),
        (["a.csv", "a.jsonl"], {"separator": "--"}, "--separator has no effect"),
        (["a.csv", "a.txt"], {"separator": "--", "text_column": "text"}, ""),
        (["a.txt"], {"text_column": "body"}, "--text-column has no effect"),
        (["a.txt"], {"glob": "*.txt"}, "--glob has no effect"),
        (["."], {"glob": "a.txt"}, ""),
        (["only.jsonl"], {}, "is read as the text: 'body'"),
        (["only.jsonl"], {"text_column": "body"}, ""),
        (["array.json"], {}, "convert it to JSON lines"),
    ],
)
def test_what_was_read_otherwise_than_asked_or_expected_is_said(
    names: list[str],
    settings: dict[str, str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    config = DataConfig(corpus=tuple(names), tokenizer="char", **settings)
    for _ in range(2):  # read, and found again
        found = notices(config, prepare(config).manifest)
        assert len(found) == bool(expected)
        assert expected in "".join(found)
