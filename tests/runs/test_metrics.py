"""metrics.jsonl: written line by line, read after a crash, rewound for a resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptscratch.errors import RunError
from gptscratch.runs.metrics import MetricsFile, read_metrics, rewind_metrics
from gptscratch.training.events import Evaluated, Logged, Notice, Sampled


def logged(step: int) -> Logged:
    return Logged(
        step=step, tokens=10 * step, seconds=1.0, train_loss=2.0, learning_rate=0.1, grad_norm=1.0,
        tokens_per_second=5.0, progress=0.5,
    )  # fmt: skip


def evaluated(step: int) -> Evaluated:
    return Evaluated(
        step=step, val_loss=2.0, val_accuracy=0.5, val_perplexity=7.4, val_bits_per_byte=2.9, val_tokens=9
    )


def test_numbers_are_written_and_words_are_not(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for event in (Notice("hm"), logged(1), Sampled(1, "la"), evaluated(1)):
        file(event)
    records = read_metrics(file.path)
    assert [sorted(r) for r in records] == [
        sorted({*vars(logged(1))} - {"progress"}),
        sorted(vars(evaluated(1))),
    ]


def test_each_line_is_on_disk_at_once(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        file(logged(step))
        assert len(file.path.read_text().splitlines()) == step


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    assert read_metrics(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(("step", "was_evaluated"), [(4, True), (3, False), (5, False)])
def test_rewinding_forgets_what_will_be_reported_again(
    tmp_path: Path, step: int, was_evaluated: bool
) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for event in (logged(2), evaluated(2), logged(4), evaluated(4), logged(6), evaluated(6)):
        file(event)
    assert rewind_metrics(file.path, step) is was_evaluated
    kept = [(r["step"], "val_loss" in r) for r in read_metrics(file.path)]
    assert kept == [(2, False), (2, True)] + ([] if step == 3 else [(4, False), (4, True)])


def test_a_file_that_cannot_be_written_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match=r"writing metrics\.jsonl"):
        MetricsFile(tmp_path / "metrics.jsonl")(logged(1))


def test_the_final_evaluation_of_an_earlier_step_is_forgotten_too(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for event in (logged(2), evaluated(2), logged(4), evaluated(4), evaluated(2)):
        file(event)
    assert rewind_metrics(file.path, 4)
    kept = [(r["step"], "val_loss" in r) for r in read_metrics(file.path)]
    assert kept == [(2, False), (2, True), (4, False), (4, True)]


@pytest.mark.parametrize(
    "damage", [b"[]", b'{"tokens": 3}', b'{"step": "1"}', b"null", b"\xff\xfe", b"[" * 100_000, b'{"ste']
)
def test_a_damaged_line_is_left_out_and_the_others_are_kept(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "train_loss": 2}\n' + damage + b'\n{"step": 2, "train_loss": 1}\n')
    rewind_metrics(path, 2)
    assert [r["step"] for r in read_metrics(path)] == [1, 2]
