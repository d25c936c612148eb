"""metrics.jsonl: written line by line, read after a crash, rewound for a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gptscratch.errors import RunError
from gptscratch.runs.metrics import append_metrics, read_metrics, rewind_metrics

LOGGED = [{"step": step, "train_loss": 2.0} for step in range(7)]
EVALUATED = [{"step": step, "val_loss": 2.0} for step in range(7)]


def test_each_line_is_on_disk_at_once(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for number in (1, 2, 3):
        append_metrics(file, LOGGED[number])
        assert len(file.read_text().splitlines()) == number
    assert read_metrics(file) == LOGGED[1:4]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    assert read_metrics(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(("step", "was_evaluated"), [(4, True), (3, False), (5, False)])
def test_rewinding_forgets_what_will_be_reported_again(
    tmp_path: Path, step: int, was_evaluated: bool
) -> None:
    file = tmp_path / "metrics.jsonl"
    for record in (LOGGED[2], EVALUATED[2], LOGGED[4], EVALUATED[4], LOGGED[6], EVALUATED[6]):
        append_metrics(file, record)
    assert rewind_metrics(file, step) is was_evaluated
    kept = [(r["step"], "val_loss" in r) for r in read_metrics(file)]
    assert kept == [(2, False), (2, True)] + ([] if step == 3 else [(4, False), (4, True)])


def test_a_file_that_cannot_be_written_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match=r"writing metrics\.jsonl"):
        append_metrics(tmp_path / "metrics.jsonl", LOGGED[1])


def test_the_final_evaluation_of_an_earlier_step_is_forgotten_too(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for record in (LOGGED[2], EVALUATED[2], LOGGED[4], EVALUATED[4], EVALUATED[2]):
        append_metrics(file, record)
    assert rewind_metrics(file, 4)
    kept = [(r["step"], "val_loss" in r) for r in read_metrics(file)]
    assert kept == [(2, False), (2, True), (4, False), (4, True)]


@pytest.mark.parametrize(
    "damage", [b"[]", b'{"tokens": 3}', b'{"step": "1"}', b"null", b"\xff\xfe", b"[" * 100_000, b'{"ste']
)
def test_a_damaged_line_is_left_out_and_the_others_are_kept(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "train_loss": 2}\n' + damage + b'\n{"step": 2, "train_loss": 1}\n')
    rewind_metrics(path, 2)
    assert [r["step"] for r in read_metrics(path)] == [1, 2]


@pytest.mark.parametrize("step", [3, 2000, 4998])
def test_rewinding_a_long_file_keeps_what_came_before(tmp_path: Path, step: int) -> None:
    file = tmp_path / "metrics.jsonl"
    records = [
        {"step": i, "train_loss" if kind else "val_loss": 1.0} for i in range(1, 5000) for kind in (1, 0)
    ]
    records.append({"step": 17, "val_loss": 1.0})
    file.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"ste')
    assert rewind_metrics(file, step)
    assert read_metrics(file) == records[: 2 * step]
    before = file.stat()
    assert rewind_metrics(file, step)
    assert file.stat().st_ino == before.st_ino
