"""What is shown while something runs: how far, how fast, how long still, on one line of any terminal."""

from __future__ import annotations

import pytest
from rich.cells import cell_len
from rich.console import Console

from gptscratch.cli import progress
from gptscratch.cli.progress import Moment, WorkView
from gptscratch.training.events import Logged


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines_of(drawing: object, width: int = 120) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(drawing)
    return capture.get().splitlines()


def logged(**changed: float) -> Logged:
    values = {
        "step": 235, "tokens": 10**6, "seconds": 60.0, "train_loss": 4.51234, "learning_rate": 0.03,
        "grad_norm": 1.0, "tokens_per_second": 12_345.6, "progress": 0.07,
    }  # fmt: skip
    return Logged(**values | changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_stage_shows_how_much_is_done_on_one_line(width: int) -> None:
    work = WorkView()
    work("reading", 1, 10)
    work("tokenizing", 600_000_000, 1_000_000_000)
    (line,) = lines_of(work.drawing(), width)
    for part in ("tokenizing", "60%", "0.6/1.0 GB"):
        assert part in line
    assert "…" not in line


def test_a_stage_without_a_total_shows_how_much_came() -> None:
    work = WorkView()
    work("reading stdin", 4_000_000, 0)
    assert "4.0/? MB" in lines_of(work.drawing())[0]


def test_a_stage_without_numbers_stays_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    WorkView()("training 8,192 BPE entries on 32 of 5,000 million characters", 0, 0)
    assert "of 5,000 million" in capsys.readouterr().err


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("steps", [0, 123_456])
def test_the_line_of_a_run_fits_on_one_line_and_cuts_no_word(width: int, steps: int) -> None:
    (line,) = lines_of(Moment(logged(seconds=900.0, progress=0.5)).line(width - 4, steps), width)
    assert cell_len(line.rstrip()) <= width - 4  # where the terminal may write ^C
    assert "50%" in line
    assert "…" not in line
    if width >= 60:
        assert "step 235 of " in line
    if width >= 80:
        assert "━" in line
        assert "min" in line
        assert "left" in line


def test_the_time_left_falls_between_two_reports(clock: list[float]) -> None:
    moment = Moment(logged(seconds=50.0, progress=0.5))
    assert "50 s left" in lines_of(moment.line(120, 0))[0]
    clock[0] += 20
    assert "30 s left" in lines_of(moment.line(120, 0))[0]
    clock[0] += 100
    assert "0.0 s left" in lines_of(moment.line(120, 0))[0]


def test_the_number_of_steps_is_exact_where_it_was_given_and_estimated_where_time_was() -> None:
    moment = Moment(logged(step=100, progress=0.1))
    assert "step 100 of 900" in lines_of(moment.line(120, 900))[0]
    assert "step 100 of about 1,000" in lines_of(moment.line(120, 0))[0]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_display_leaves_room_for_what_ctrl_c_writes(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The terminal writes ^C after the last character: a full line would be broken and stay on the screen."""
    monkeypatch.setattr(progress.err, "_width", width)
    work = WorkView()
    work("tokenizing", 600_000_000, 1_000_000_000)
    progress.err.print(work.fitted())
    assert all(cell_len(line) <= width - 4 for line in capsys.readouterr().err.splitlines())
