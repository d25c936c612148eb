"""The interactive mode: what goes on, what is set, and how one leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptscratch.cli import chat, render_sample
from gptscratch.cli.chat import Chat, changed
from gptscratch.config import SampleConfig
from gptscratch.errors import ConfigError
from gptscratch.generation import TrainedGPT

Reciter = Callable[..., TrainedGPT]
KNOBS = SampleConfig(temperature=0, max_tokens=3)


@pytest.fixture
def talk(reciter: Reciter) -> Chat:
    return Chat(reciter("abcdefghijk"), KNOBS)


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    given = iter(lines)

    def answer(_: str = "") -> str:
        line = next(given, EOFError)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", answer)


def test_a_line_begins_anew_and_an_empty_one_goes_on(talk: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("a", "", "g", ""):
        talk.answer(line)
    assert capsys.readouterr().out == "abcd\nefg\nghij\nkab\n"
    assert talk.text == "ghijkab"


def test_a_conversation_ends_with_its_input_or_by_request(
    reciter: Reciter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for last in (EOFError, "/bye"):
        typed(monkeypatch, "a", KeyboardInterrupt, '"""b', 'c"""', "/nonsense", last, "never read")
        chat.run(reciter("abcdefghijk"), KNOBS)
        shown = capsys.readouterr()
        assert shown.out == "abcd\nb\ncdef\n"
        assert "There is no command /nonsense" in shown.err


def test_interrupting_a_reply_keeps_what_is_there(talk: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(_: str, pieces: Iterator[tuple[str, float]], **_more: object) -> None:
        next(pieces)
        raise KeyboardInterrupt

    monkeypatch.setattr(render_sample, "stream", stream)
    talk.answer("a")
    assert talk.text == "ab"


def test_the_text_is_saved_and_loaded_and_forgotten(talk: Chat, tmp_path: Path) -> None:
    talk.answer("a")
    talk.answer(f"/save {tmp_path / 'story.txt'}")
    assert (tmp_path / "story.txt").read_text() == "abcd"
    talk.answer("/clear")
    assert talk.text == ""
    talk.answer(f"/load {tmp_path / 'story.txt'}")
    talk.answer("")
    assert talk.text == "abcdefg"
    for line in ("/save", "/load", "/load /no/such/file"):
        with pytest.raises(ConfigError):
            talk.answer(line)


def test_settings_are_changed_and_shown(talk: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    talk.answer("/set max-tokens 5")
    talk.answer("/set stop e")
    talk.answer("b")
    assert talk.text == "bcd"
    talk.answer("/show")
    talk.answer("/help")
    assert "/set NAME VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("temperature", "0.7", 0.7),
        ("top_k", "40", 40),
        ("top_k", "none", None),
        ("seed", "3", 3),
        ("stop", r"\n", ("\n",)),
        ("stop", "none", ()),
    ],
)
def test_a_setting_is_read_from_text(name: str, value: str, wanted: object) -> None:
    assert getattr(changed(KNOBS, name, value), name) == wanted


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("temprature", "1", "no setting"),
        ("temperature", "warm", "a number"),
        ("top_k", "0", "at least 1"),
        ("max_tokens", "none", "a whole number"),
        ("", "", "no setting"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(name: str, value: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        changed(KNOBS, name, value)
