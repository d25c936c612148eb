"""The report in a real browser: Chromium, driven by playwright; skipped where either is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptscratch.report.live import LivePage
from gptscratch.report.page import render_page
from gptscratch.report.record import read_report
from gptscratch.runs.metrics import append_metrics, read_metrics

pytest.importorskip("plotly")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def opened(browser: Any, address: str, **context: Any) -> Any:
    page = browser.new_page(**context)
    page.requests, page.problems = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text))
    page.goto(address)
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    return page


@pytest.fixture
def file(tale: Path, tmp_path: Path) -> Path:
    file = tmp_path / "tale.html"
    file.write_text(render_page([read_report(tale)]), encoding="utf-8")
    return file


def test_the_charts_appear_and_the_page_asks_for_nothing(browser: Any, file: Path) -> None:
    page = opened(browser, file.as_uri())
    assert page.requests == [file.as_uri()]
    assert page.problems == []
    for chart in ("loss", "bits", "rate", "norm", "speed"):
        assert page.locator(f"#{chart} .scatterlayer .js-line").count() >= 1


def test_the_controls_work_by_the_keyboard(browser: Any, file: Path) -> None:
    page = opened(browser, file.as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert page.locator("#loss .xtitle").text_content() == "tokens"
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert page.locator("output[name=smoothed]").inner_text() == "0"
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.evaluate("document.getElementById('loss').layout.yaxis.type") == "log"
    while page.evaluate("document.activeElement.tagName") != "SUMMARY":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("details[open] table").first.is_visible()


def test_text_has_enough_contrast_in_both_color_schemes(browser: Any, file: Path) -> None:
    page = opened(browser, file.as_uri(), color_scheme="light")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colors = {name: page.evaluate(f"color('--{name}')") for name in ("page", "surface", "text", "quiet")}
        for ink in ("text", "quiet"):
            for paper in ("page", "surface"):
                assert contrast(colors[ink], colors[paper]) > 4.5
        assert page.evaluate("document.getElementById('loss').layout.font.color") == colors["text"]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_phone_shows_the_page_without_scrolling_sideways(browser: Any, file: Path) -> None:
    page = opened(browser, file.as_uri(), viewport={"width": 360, "height": 700}, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_on_paper_the_charts_are_light_and_fit(browser: Any, file: Path, tmp_path: Path) -> None:
    page = opened(browser, file.as_uri(), color_scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.getElementById('loss').layout.font.color") == "#1b1f24"
    assert page.evaluate("document.getElementById('loss').layout.width") <= 680
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert page.pdf(path=tmp_path / "a.pdf").startswith(b"%PDF")


def test_a_live_page_draws_what_is_new_and_keeps_what_was_unfolded(browser: Any, tale: Path) -> None:
    with LivePage([tale]) as live:
        page = opened(browser, live.url)
        page.locator("summary", has_text="evaluations").click()
        last = [r for r in read_metrics(tale / "metrics.jsonl") if "train_loss" in r][-1]
        append_metrics(tale / "metrics.jsonl", last | {"step": 27})
        page.get_by_text("finished after 27 steps").wait_for(timeout=10_000)
        assert page.evaluate("data.runs[0].training.step.at(-1)") == 27
        assert page.locator("details[open]").count() == 1
        assert {address.rpartition("/")[0] for address in page.requests} == {live.url.rstrip("/")}
        assert page.problems == []
