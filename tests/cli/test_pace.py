"""What is shown of a stage of work: how much, how fast, how long still."""

from __future__ import annotations

import pytest
from rich.console import Console

from gptscratch.cli import progress
from gptscratch.cli.progress import Pace
from gptscratch.training.events import Working


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def shown(pace: Pace, *event: object) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(pace.line(Working(*event)))  # type: ignore[arg-type]
    return capture.get()


def test_pace_and_time_left_count_from_where_the_stage_began(clock: list[float]) -> None:
    pace = Pace()
    shown(pace, "tokenizing", 500_000_000, 1_000_000_000)
    clock[0] += 10
    line = shown(pace, "tokenizing", 600_000_000, 1_000_000_000)
    for part in ("60%", "600 MB of 1 GB", "10 MB/s", "40 s left"):
        assert part in line


def test_a_stream_shows_how_much_came(clock: list[float]) -> None:
    pace = Pace()
    shown(pace, "reading stdin", 0, 0)
    clock[0] += 2
    line = shown(pace, "reading stdin", 4_000_000, 0)
    assert "4 MB" in line
    assert "2 MB/s" in line
    assert "left" not in line


def test_nothing_is_drawn_ten_times_in_a_row(clock: list[float]) -> None:
    pace = Pace()
    assert pace.line(Working("reading", 1, 9)) is not None
    assert pace.line(Working("reading", 2, 9)) is None
    clock[0] += 0.2
    assert pace.line(Working("reading", 3, 9)) is not None


def test_what_tells_no_total_stays_on_the_screen(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    del clock
    Pace().line(Working("training 8,192 BPE entries on 32 MB of 5,000 MB, about 5 s", 0, 0))
    assert "about 5 s" in capsys.readouterr().err
