"""An imported model has no training: what the doctor and the report say about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gptscratch.cli.app import app
from gptscratch.interop.export import export
from gptscratch.interop.import_run import import_run


@pytest.fixture
def imported(tale: Path, tmp_path: Path) -> str:
    export(tale, tmp_path / "exported")
    return import_run(tmp_path / "exported", name="foreign").run.name


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_doctor_says_that_an_imported_model_was_not_trained_here(imported: str) -> None:
    result = command("doctor", imported)
    assert not result.exit_code
    assert "not trained here" in " ".join(result.stderr.split())
    assert "--init-from foreign" in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert command("doctor", imported, "--json").stdout.strip() == "[]"


def test_the_report_of_an_imported_model_has_no_training(imported: str, tmp_path: Path) -> None:
    result = command("report", imported, "--html", tmp_path / "page.html")
    assert not result.exit_code
    assert "has no curves" in " ".join(result.stderr.split())
    page = (tmp_path / "page.html").read_text()
    assert "and not trained here: the page has no curves" in page
    assert 'aria-labelledby="curves" hidden' in page
    assert not any(part in page for part in ("finished after", "Plan and result", "that trains such a run"))


def test_a_run_that_continues_from_an_imported_one_has_its_curves(
    imported: str, corpus: Path, tmp_path: Path
) -> None:
    trained = command(
        "train", corpus, "--init-from", imported, "--name", "tuned", "--steps", 2, "--device", "cpu"
    )
    assert not trained.exit_code, trained.output
    assert not command("report", "tuned", imported, "--no-copies", "--html", tmp_path / "page.html").exit_code
    page = (tmp_path / "page.html").read_text()
    assert 'aria-labelledby="curves" hidden' not in page
    assert "finished after 2 steps" in page
