"""The page in a real browser: by keyboard alone, on a phone, without another host, and without errors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptscratch.generation.generator import Generator, load

from .conftest import Serve

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update")  # fmt: skip
LETTERS = "abcdefgh"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """A function that opens the page; afterwards no error was logged, and no other host was asked."""
    contexts, problems, addresses = [], [], []

    def open_page(http: Any, **options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: message.type == "error" and problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(str(http.base_url))
        page.locator("#facts:not(:empty)").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    bad_status = "Failed to load resource"  # what the server refuses on purpose
    assert not [problem for problem in problems if bad_status not in problem]
    assert all(address.startswith("http://127.0.0.1:") for address in addresses)


def finished(page: Any, count: int = 1) -> list[str]:
    """The texts of the samples, once all are complete."""
    playwright.expect(page.locator(".sample")).to_have_count(count)
    playwright.expect(page.locator(".sample.running")).to_have_count(0)
    return [str(text.text_content()) for text in page.locator(".sample .text").all()]


def greedy(page: Any, tokens: int) -> None:
    page.fill("#max_tokens", str(tokens))
    page.locator("#temperature").fill("0")


def test_a_text_continues_and_another_token_is_chosen_by_keyboard_alone(
    reciter: Any, serve: Serve, visit: Any
) -> None:
    with serve(reciter(LETTERS, kind="char")) as http:
        page = visit(http)
        greedy(page, 6)
        page.focus("#prompt")
        page.keyboard.type("ab")
        page.keyboard.press("Control+Enter")
        assert finished(page) == ["abcdefgh"]
        for _ in range(20):  # the texts come after the controls of the prompt
            page.keyboard.press("Tab")
            if page.locator(".text span:focus").count():
                break
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert page.locator("#token h2 code").text_content() == "c"
        assert page.locator("#token dd").first.text_content().endswith("%")
        page.keyboard.press("Tab")  # from the first alternative to the second
        chosen = page.locator("#token li button:focus code").text_content()
        assert chosen in LETTERS.replace("c", "")
        page.keyboard.press("Enter")
        rest = (LETTERS * 2).partition(chosen)[2][:6]
        assert finished(page) == ["ab" + chosen + rest]
        page.get_by_role("button", name="Undo").focus()
        page.keyboard.press("Enter")
        assert finished(page) == ["abcdefgh"]
        page.locator(".text span").nth(3).focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
        assert page.locator(".text span:focus").text_content() == "d"


def test_a_text_grows_and_stops_on_request(reciter: Any, serve: Serve, visit: Any) -> None:
    with serve(reciter(LETTERS, kind="char"), limits={"max_tokens": 10**6}) as http:
        page = visit(http)
        page.locator("#max_tokens").evaluate("input => { input.max = 1e6; input.value = 500000; }")
        page.click("#go")
        page.locator(".text span").nth(20).wait_for()
        page.keyboard.press("Escape")
        finished(page)
        while http.get("/health").json()["running"]:
            page.wait_for_timeout(20)


def test_samples_of_two_models_are_compared(reciter: Any, serve: Serve, visit: Any) -> None:
    first, second = reciter(LETTERS, kind="char"), reciter(LETTERS[::-1], kind="char")
    second = Generator(second.model, second.tokenizer, None, Path("backwards"))
    with serve(first, second) as http:
        page = visit(http)
        greedy(page, 3)
        page.fill("#prompt", "d")
        page.select_option("#n", "2")
        page.click("#go")
        assert finished(page, 4) == ["defg", "defg", "dcba", "dcba"]
        titles = page.locator(".sample .title strong").all_text_contents()
        assert titles == ["by-hand", "by-hand", "backwards", "backwards"]


def test_tokens_are_colored_by_surprise_and_by_copied_spans(tale: Path, serve: Serve, visit: Any) -> None:
    with serve(load(tale, device="cpu")) as http:
        page = visit(http)
        page.fill("#max_tokens", "5")
        page.fill("#prompt", "the fox")
        page.select_option("#color", "surprise")
        page.click("#go")
        finished(page)
        assert page.locator(".text span[style*='--surprise']").count() > 5
        page.select_option("#color", "copied")
        note = page.locator(".sample .note", has_text="Longest copied span")
        note.wait_for()
        assert page.locator(".text span[style*='--copied']").count() >= 7


def test_what_goes_wrong_is_shown(reciter: Any, serve: Serve, visit: Any) -> None:
    with serve(reciter(LETTERS, kind="char"), limits={"max_tokens": 5}) as http:
        page = visit(http)
        page.fill("#max_tokens", "6")
        page.click("#go")
        refused = "max_tokens is 6: at most 5 are allowed."
        playwright.expect(page.locator("#problem")).to_have_text(refused)
        page.fill("#max_tokens", "5")
        page.fill("#prompt", "a☃")
        page.click("#go")
        finished(page)
        playwright.expect(page.locator("#problem")).to_be_hidden()
        assert "'☃'" in page.locator(".sample .note:visible").text_content()


def test_a_server_with_a_key_asks_for_it(reciter: Any, serve: Serve, browser: Any) -> None:
    with serve(reciter(LETTERS, kind="char"), api_key="secret") as http:
        page = browser.new_page()
        page.goto(str(http.base_url))
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        page.locator("#facts:not(:empty)").wait_for()
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_in_its_width(reciter: Any, serve: Serve, visit: Any, scheme: str) -> None:
    with serve(reciter(LETTERS, kind="char")) as http:
        page = visit(http, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
        page.fill("#prompt", "ab")
        page.click("#go")
        finished(page)
        page.locator(".text span").nth(5).tap()
        playwright.expect(page.locator("#token")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        box = page.locator(".text span").nth(5).bounding_box()
        assert box["y"] + box["height"] < page.locator("#token").bounding_box()["y"]  # not covered
        page.get_by_role("button", name="Close").tap()
        playwright.expect(page.locator("#token")).to_be_hidden()
