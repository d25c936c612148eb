"""Takes the pictures of server.md: ``gptscratch serve RUN RUN``, then ``python docs/screenshots.py``.

It needs playwright and Chromium.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

FOLDER = Path(__file__).parent / "screenshots"
PROMPT = "Once upon a time, there was a little dog named"


def take(browser: Browser, name: str, url: str, *, size: tuple[int, int], scheme: str, color: str) -> None:
    """The page after a text was continued; colored by surprise, with a token selected."""
    viewport = {"width": size[0], "height": size[1]}
    page = browser.new_page(viewport=viewport, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(url)
    page.locator("#facts:not(:empty)").wait_for()
    page.evaluate(
        "document.getElementById('seed').value = 7; document.getElementById('max_tokens').value = 60"
    )
    page.fill("#prompt", PROMPT)
    page.select_option("#color", color)
    page.click("#go")
    page.locator(".sample").first.wait_for()
    expect(page.locator(".sample.running")).to_have_count(0, timeout=60_000)
    if color == "surprise":
        page.locator(".sample .text span").nth(26).click()
    else:
        page.locator(".note", has_text="Longest").first.wait_for()
    page.screenshot(path=FOLDER / f"{name}.png")
    page.close()


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        take(browser, "page-light", url, size=(1180, 720), scheme="light", color="surprise")
        take(browser, "page-dark", url, size=(1180, 720), scheme="dark", color="copied")
        take(browser, "page-phone", url, size=(390, 760), scheme="light", color="surprise")
        browser.close()


if __name__ == "__main__":
    main()
