"""The report as a page, and ``gptscratch report``."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gptscratch.report.page import render_page
from gptscratch.report.record import read_report
from gptscratch.runs.metrics import append_metrics
from gptscratch.training.trainer import TrainResult

pytest.importorskip("plotly")

Fit = Callable[..., TrainResult]
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;"


class Page(HTMLParser):
    """The tags, the text and the data of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if tag == "script" and self.cdata_elem:
            self.scripts[attributes.get("id")] = data
        else:
            self.texts.append(data)


def test_the_page_has_the_curves_the_samples_and_the_plotting_script(tale: Path) -> None:
    append_metrics(tale / "samples.jsonl", {"step": 8, "text": "the fox runs"})
    html = render_page([read_report(tale)])
    assert len(html.encode()) < 5_000_000
    page = Page(html)
    (run,) = json.loads(page.scripts["data"])["runs"]
    assert run["training"]["step"][-1] == 24
    assert "the fox runs" in page.texts
    script = gzip.decompress(base64.b64decode(page.scripts["plotly"]))
    assert b"plotly.js" in script[:100]


def test_nothing_in_the_page_has_an_address_elsewhere(tale: Path) -> None:
    html = render_page([read_report(tale)])
    for _, attributes in Page(html).tags:
        assert not (attributes.keys() & {"src", "action", "srcset"})
        assert attributes.get("href", "#").startswith(("#", "data:"))  # type: ignore[union-attr]
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import", html.partition("</style>")[0])


def test_what_comes_from_a_run_is_escaped(tale: Path) -> None:
    config = json.loads((tale / "config.json").read_text())
    config["data"]["corpus"] = [EVIL]
    (tale / "config.json").write_text(json.dumps(config))
    append_metrics(tale / "samples.jsonl", {"step": 8, "text": EVIL})
    plan = json.loads((tale / "plan.json").read_text()) | {"notices": [EVIL]}
    (tale / "plan.json").write_text(json.dumps(plan))
    run = tale.rename(tale.with_name("a <b> & c"))
    page = Page(render_page([read_report(run)], [EVIL]))
    assert [tag for tag, _ in page.tags].count("img") == 0
    assert len(page.scripts) == 3
    assert json.loads(page.scripts["data"])["runs"][0]["name"] == run.name
    assert sum(text.count("alert(1)") for text in page.texts) >= 4


def test_several_runs_are_compared(tale: Path, fit: Fit) -> None:
    other = fit(name="other", learning_rate=0.01).run
    page = Page(render_page([read_report(tale), read_report(other)]))
    assert "train.learning_rate" in page.texts
    assert [run["name"] for run in json.loads(page.scripts["data"])["runs"]] == ["tale", "other"]


def test_runs_of_one_name_have_their_own_copies_and_labels(tale: Path, tmp_path: Path) -> None:
    runs = [
        tale,
        shutil.copytree(tale, tmp_path / "first" / "tale"),
        shutil.copytree(tale, tmp_path / "tale"),
    ]
    page = Page(render_page([read_report(run) for run in runs], [None, "First reason.", "Second reason."]))
    names = ["tale", str(runs[1]), str(runs[2])]
    assert [run["name"] for run in json.loads(page.scripts["data"])["runs"]] == names
    shown = [text for text in page.texts if text in names or text.startswith("Not measured.")]
    reasons = [[], ["Not measured. First reason."], ["Not measured. Second reason."]]
    assert shown[len(names) :] == [
        text for each in zip(names, reasons, strict=True) for text in (each[0], *each[1])
    ]


def test_every_id_is_used_once(tale: Path, fit: Fit) -> None:
    for step in range(12):
        append_metrics(tale / "samples.jsonl", {"step": step, "text": "a"})
    runs = [read_report(tale), read_report(fit(name="other").run)]
    for served in (True, False):
        ids = [
            attributes["id"]
            for _, attributes in Page(render_page(runs, live=served)).tags
            if "id" in attributes
        ]
        assert len(ids) == len(set(ids))


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    from gptscratch.cli.app import main

    monkeypatch.setattr(sys, "argv", ["gptscratch", "report", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


def test_report_writes_a_file_named_after_the_run(
    tale: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not run_command(monkeypatch, tale.name)
    assert capsys.readouterr().out == "tale.html\n"
    assert "in the training text" in (tmp_path / "tale.html").read_text(encoding="utf-8")
    assert not run_command(monkeypatch, tale.name, "--no-copies")  # replaces its own file
    assert "Copies of the training text" not in (tmp_path / "tale.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("tale")
def test_report_does_not_replace_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "notes.html"
    file.write_text("mine")
    assert run_command(monkeypatch, "tale", "--html", file, "--no-copies") == 2
    assert file.read_text() == "mine"
    assert not run_command(monkeypatch, "tale", "--html", file, "--no-copies", "--force")
    assert file.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",), ("tale", "--html", "."), ("tale", "--port", "80"), ("tale", "--live", "--port", "-1"),
        ("tale", "--live", "--html", "a.html"), ("tale", "--live", "--port", "70000"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("tale")
def test_wrong_options_are_errors_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run_command(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_file_that_cannot_be_written_is_an_error(
    tmp_path: Path, tale: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_command(monkeypatch, tale, "--no-copies", "--html", tmp_path / "missing" / "a.html") == 1
