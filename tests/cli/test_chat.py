"""The interactive mode: what is continued, what is set, and how one leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptscratch.cli import chat, render_sample
from gptscratch.cli.chat import Chat, changed
from gptscratch.config import SampleConfig
from gptscratch.errors import ConfigError
from gptscratch.generation.generator import Generator, load
from gptscratch.generation.memorization import with_training_tokens

Reciter = Callable[..., Generator]
GREEDY = SampleConfig(temperature=0, max_tokens=3)
PLAIN = {"opening": "", "color": False, "novelty": False}


@pytest.fixture
def talk(reciter: Reciter) -> Chat:
    return Chat(reciter("abcdefghijk"), GREEDY)


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str | BaseException | type[BaseException]) -> None:
    given = iter(lines)

    def answer(_: str = "") -> str:
        line = next(given, EOFError)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", answer)


def test_an_empty_line_continues_the_text(talk: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("a", "", "g", ""):
        talk.answer(line)
    assert capsys.readouterr().out == "abcd\nefg\nghij\nkab\n"
    assert talk.text == "ghijkab"


def test_replies_join_the_text_so_far_as_inside_one_text(
    reciter: Reciter, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Chat(reciter("this movie was written by a child of two", kind="word"), GREEDY)
    for line in ("this movie", ""):
        talk.answer(line)
    assert capsys.readouterr().out == "this movie was written by\n a child of\n"
    assert talk.text == "this movie was written by a child of"


def test_a_conversation_ends_with_its_input_or_by_request(
    reciter: Reciter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for last in (EOFError, "/bye"):
        typed(monkeypatch, "a", KeyboardInterrupt, '"""b', 'c"""', "/nonsense", last, "never read")
        chat.run(reciter("abcdefghijk"), GREEDY, **PLAIN)
        shown = capsys.readouterr()
        assert shown.out == "abcd\nb\ncdef\n"
        assert "There is no command /nonsense" in shown.err


def test_interrupting_a_reply_keeps_what_is_there(talk: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(_: str, texts: Iterator[tuple[str, float]], **_more: object) -> None:
        next(texts)
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


@pytest.mark.parametrize("line", ["a\udcf0", UnicodeDecodeError("utf-8", b"\xf0", 0, 1, "invalid")])
def test_invalid_bytes_are_refused_and_the_session_continues(
    reciter: Reciter,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str | Exception,
) -> None:
    typed(monkeypatch, line, "a")
    chat.run(reciter("abcdefghijk"), GREEDY, **PLAIN)
    shown = capsys.readouterr()
    assert shown.out == "abcd\n"
    assert "nvalid" in shown.err


def test_settings_are_changed_and_shown(talk: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    talk.answer("/set max-tokens 5")
    talk.answer("/set stop e")
    talk.answer("b")
    assert talk.text == "bcd"
    talk.answer("/show")
    talk.answer("/help")
    shown = capsys.readouterr().err
    assert "/set NAME VALUE" in shown
    listed = [line.split()[0] for line in shown.partition("Type a")[0].splitlines()]
    assert listed == ["run", *(name for name in vars(GREEDY) if name != "num_samples")]  # all can be set
    for name in set(listed) - {"run", "no_copy_ngram"}:
        talk.answer(f"/set {name} 1")


def test_several_lines_are_a_text_whatever_they_begin_with(
    reciter: Reciter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, '"""/bye', 'a"""', '"""b"""')
    chat.run(reciter("abcdefghijk"), GREEDY, **PLAIN)
    assert capsys.readouterr().out == "/bye\nabcd\nbcde\n"


def test_an_opening_is_answered_first(
    reciter: Reciter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "")
    chat.run(reciter("abcdefghijk"), GREEDY, **PLAIN | {"opening": "ab"})
    assert capsys.readouterr().out == "abcde\nfgh\n"


def test_replies_are_shaded_and_what_they_copied_is_shown(
    tale: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    talk = Chat(
        with_training_tokens(load(tale, device="cpu")), SampleConfig(max_tokens=9), color=True, novelty=True
    )
    talk.answer("the")
    shown = capsys.readouterr()
    assert "\x1b[" in shown.out
    assert "\x1b" not in talk.text
    assert "of 9 tokens in a row" in shown.err


def test_to_forbid_copies_the_training_tokens_are_looked_at_when_it_is_set(tale: Path) -> None:
    talk = Chat(load(tale, device="cpu"), SampleConfig(max_tokens=60, temperature=0))
    talk.answer("/set no_copy_ngram 6")
    talk.answer("the")
    assert talk.generator.training is not None
    assert talk.generator.training.longest(talk.generator.tokenizer.encode(talk.text))[1] < 6


def test_a_misspelt_command_is_refused_with_the_nearest_name(talk: Chat) -> None:
    for line, hint in (("/svae x", "Did you mean /save"), ("/xyz", "/help")):
        with pytest.raises(ConfigError, match=hint):
            talk.answer(line)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("temperature", "0.7", 0.7),
        ("top_k", "40", 40),
        ("top_k", "none", None),
        ("seed", "3", 3),
        ("stop", r"\n", ("\n",)),
        ("stop", r"é\x", (r"é\x",)),
        ("stop", "none", ()),
    ],
)
def test_a_setting_is_read_from_text(name: str, value: str, wanted: object) -> None:
    assert getattr(changed(GREEDY, name, value), name) == wanted


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("temprature", "1", "no setting 'temprature'. Did you mean temperature"),
        ("temperature", "warm", "a number"),
        ("top_k", "0", "at least 1"),
        ("max_tokens", "none", "a whole number"),
        ("", "", "no setting"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(name: str, value: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        changed(GREEDY, name, value)
