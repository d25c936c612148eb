"""Tokenizers: the same ids and text as the library and transformers, from every kind and file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models

from gptscratch.errors import TokenizerError
from gptscratch.tokenizer import KINDS, Tokenizer, build_tokenizer
from gptscratch.tokenizer.detokenize import DecodeStream, complete_text

TEXT = (
    "He said, \"This is my ball. Go away!\" It's a well-known (old) fact - and/or so... Isn't it?\n\n"
    '- item "two" -- or a // b\n'
    "Привет, мир! Ünïcödé naïve. 吾輩は猫である。名前はまだ無い。\n"
    "👍🏽 👨‍👩‍👧 costs $5 (50%).\t«Ça va?»\n"
) * 3


def made(kind: str, text: str = TEXT, **options: object) -> Tokenizer:
    size = 400 if kind == "bpe" else None
    options = {"vocab_size": size, "alphabet": text, **options}
    return Tokenizer(build_tokenizer(kind, [text], **options))  # type: ignore[arg-type]


def foreign(kind: str) -> Tokenizer:
    """As other makers' files are: with a mark for each space, or with marks inside words and no spaces."""
    if kind == "unigram":
        library = tokenizers.Tokenizer(tokenizers.models.Unigram())
        library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        library.decoder = tokenizers.decoders.Metaspace()
        trainer = tokenizers.trainers.UnigramTrainer(
            vocab_size=200, special_tokens=["</s>", "<unk>"], unk_token="<unk>", show_progress=False
        )
    else:
        library = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
        library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        library.decoder = tokenizers.decoders.WordPiece(cleanup=False)
        trainer = tokenizers.trainers.WordPieceTrainer(
            vocab_size=300, special_tokens=["[UNK]", "[SEP]"], show_progress=False
        )
    library.train_from_iterator([TEXT], trainer)
    return Tokenizer(library)


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return made(request.param)


def test_ids_are_the_librarys(tokenizer: Tokenizer) -> None:
    for text in (TEXT, "", "a", "Zürich ✈ <|endoftext|> <unk>"):
        assert tokenizer.encode(text) == tokenizer.library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_text_comes_back_unchanged(kind: str) -> None:
    tokenizer = made(kind)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_words_come_back_with_spaces_where_they_belong() -> None:
    tokenizer = made("word")
    text = TEXT.replace("👨‍👩‍👧 ", "").replace("👍🏽 ", "").replace(".\t", ". ").replace(" 吾", " 吾")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_streamed_text_is_the_decoded_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    assert "".join(map(DecodeStream(tokenizer).feed, ids)) == tokenizer.decode(ids)


def test_streamed_random_ids_are_the_decoded_ids(tokenizer: Tokenizer) -> None:
    ids = np.random.default_rng(7).integers(tokenizer.vocab_size, size=2000)
    found, wanted = "".join(map(DecodeStream(tokenizer).feed, ids)), tokenizer.decode(ids)
    assert wanted.startswith(found)
    assert not wanted[len(found) :].strip("\ufffd")  # bytes that no character ends wait


@pytest.mark.parametrize("kind", [*KINDS, "unigram", "wordpiece"])
def test_what_follows_a_text_joins_it_as_inside_one_text(kind: str) -> None:
    tokenizer = foreign(kind) if kind not in KINDS else made(kind)
    ids = tokenizer.encode(TEXT)
    found = 0
    for cut in range(0, 200, 3):
        before = tokenizer.decode(ids[:cut])
        if tokenizer.encode(before) == ids[:cut]:  # else a character or a word was cut
            stream = DecodeStream(tokenizer, before, ids[:cut])
            after = "".join(map(stream.feed, ids[cut:300]))
            assert before + after == tokenizer.decode(ids[:300])
            found += 1
    assert found > 20


@pytest.mark.parametrize("kind", ["word", "wordpiece"])
def test_a_space_that_the_text_before_ends_with_does_not_come_twice(kind: str) -> None:
    tokenizer = made(kind) if kind in KINDS else foreign(kind)
    stream = DecodeStream(tokenizer, "my ball ", tokenizer.encode("my ball "))
    assert "".join(map(stream.feed, tokenizer.encode("is my ball"))) == "is my ball"


def test_a_replacement_character_before_is_whole() -> None:
    stream = DecodeStream(made("byte"), "a\ufffd", list("a\ufffd".encode()))
    assert stream.feed(ord("b")) == "b"


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_a_character_that_the_ids_before_begin_is_completed(kind: str) -> None:
    tokenizer = made(kind)
    text = "a naïve € 👍"
    ids = tokenizer.encode(text)
    for cut in range(1, len(ids)):
        before = complete_text(tokenizer, ids[:cut])
        stream = DecodeStream(tokenizer, before, ids[:cut])
        assert before + "".join(map(stream.feed, ids[cut:])) == text


def test_a_token_may_end_a_word_and_begin_a_character() -> None:
    library = tokenizers.Tokenizer.from_str(made("byte").library.to_str())
    spec = json.loads(library.to_str())
    spec["model"]["vocab"]["Ġâ"] = len(spec["model"]["vocab"])
    spec["model"]["merges"] = [["Ġ", "â"]]
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(spec)))
    ids = tokenizer.encode("a €")
    assert len(ids) == 4
    assert complete_text(tokenizer, ids[:2]) == "a "
    stream = DecodeStream(tokenizer, "a ", ids[:2])
    assert [stream.feed(i) for i in ids[2:]] == ["", "€"]


def test_nothing_before_is_the_beginning_of_a_text() -> None:
    for tokenizer in (made("word"), foreign("unigram")):
        stream = DecodeStream(tokenizer)
        assert "".join(map(stream.feed, tokenizer.encode("my ball"))) == "my ball"


def test_stream_gives_no_half_characters() -> None:
    tokenizer = made("byte")
    stream = DecodeStream(tokenizer)
    assert [stream.feed(i) for i in "é😀!".encode()] == ["", "é", "", "", "", "😀", "!"]
    assert stream.feed(0xF0) == ""


def test_saved_file_gives_the_same_in_the_library_and_in_transformers(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    file = tmp_path / "tokenizer.json"
    tokenizer.save(file)
    ids = tokenizer.encode(TEXT)
    library = tokenizers.Tokenizer.from_file(str(file))
    assert library.encode(TEXT).ids == ids
    assert library.decode(ids) == tokenizer.decode(ids)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file))
    assert theirs(TEXT)["input_ids"] == ids
    assert theirs.decode(ids, clean_up_tokenization_spaces=False) == tokenizer.decode(ids)


def test_loaded_tokenizer_is_the_saved_one(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert (loaded.kind, loaded.hash) == (tokenizer.kind, tokenizer.hash)
        assert (loaded.vocab_size, loaded.eot_id, loaded.unk_id) == (
            tokenizer.vocab_size,
            tokenizer.eot_id,
            tokenizer.unk_id,
        )


def test_special_tokens_are_found_only_when_asked_for(tokenizer: Tokenizer) -> None:
    text = "He<|endoftext|>said"
    assert tokenizer.eot_id not in tokenizer.encode(text)
    ids = tokenizer.encode(text, specials=True)
    assert ids.count(tokenizer.eot_id) == 1  # type: ignore[arg-type]
    assert "<|endoftext|>" in tokenizer.decode(ids, skip_special=False)
    assert "<|endoftext|>" not in tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_lowercase_is_part_of_the_file(kind: str, tmp_path: Path) -> None:
    made(kind, lowercase=True).save(tmp_path / "tokenizer.json")
    tokenizer = Tokenizer.load(tmp_path)
    text = "HE SAID ΜΌΣΧΟΣ İ"
    assert tokenizer.encode(text) == tokenizer.library.encode(text).ids
    assert tokenizer.decode(tokenizer.encode("HE SAID")) == "he said"


def test_char_ids_follow_the_sorted_characters() -> None:
    tokenizer = made("char", "banana")
    assert tokenizer.encode("abn") == [0, 1, 2]
    assert (tokenizer.eot_id, tokenizer.unk_id, tokenizer.vocab_size) == (3, 4, 5)


def test_byte_ids_are_the_byte_values() -> None:
    assert made("byte").encode("é😀") == list("é😀".encode())


def test_rare_words_are_unknown_and_frequent_ones_come_first() -> None:
    tokenizer = made("word", "b b b a a c", min_frequency=2)
    assert [tokenizer.library.id_to_token(i) for i in range(tokenizer.vocab_size)] == [
        "<|endoftext|>",
        "<unk>",
        "b",
        "a",
    ]
    assert made("word", "b b b a a c c", vocab_size=3).encode("b a") == [2, 1]


def test_training_twice_gives_the_same_tokenizer() -> None:
    for kind in ("word", "bpe"):
        assert made(kind).hash == made(kind).hash


def test_unknown_names_what_the_vocabulary_lacks() -> None:
    assert made("char", "abc").unknown("axbyx") == ["x", "y"]
    assert made("word", "one one two two").unknown("one three two four") == ["three", "four"]
    assert made("word", "one one two two").unknown("one<|endoftext|>three") == ["three"]
    assert made("byte").unknown("whatever ✈") == []


def test_tokens_show_bytes_of_split_characters() -> None:
    assert made("byte").tokens("aé") == [("a", 97), ("\\xc3", 0xC3), ("\\xa9", 0xA9)]
    assert made("char", "ab").tokens("ax") == [("a", 0), ("x", 3)]


@pytest.mark.parametrize(
    ("kind", "size", "needed"), [("char", 4, "5"), ("byte", 256, "257"), ("bpe", 256, "257")]
)
def test_too_small_a_vocabulary_says_what_is_needed(kind: str, size: int, needed: str) -> None:
    with pytest.raises(TokenizerError, match=f"needs {needed}"):
        made(kind, "abc", vocab_size=size)


def test_unknown_name_gets_a_near_match() -> None:
    with pytest.raises(TokenizerError, match="Did you mean byte"):
        Tokenizer.load("bytes")


def test_truncation_padding_and_added_tokens_of_a_file_are_off(tmp_path: Path) -> None:
    library = made("bpe").library
    library.enable_truncation(4)
    library.enable_padding(length=8)
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    library.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).encode(TEXT) == made("bpe").encode(TEXT)


@pytest.mark.parametrize("header", ["#version: 0.2\n", ""])
def test_gpt2_files_load_with_and_without_the_version_line(header: str, tmp_path: Path) -> None:
    tokenizer = made("bpe")
    model = json.loads(tokenizer.library.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (tmp_path / "merges.txt").write_text(header + merges, encoding="utf-8")
    for path in (tmp_path, tmp_path / "vocab.json", tmp_path / "merges.txt"):
        loaded = Tokenizer.load(path)
        assert loaded.encode(TEXT) == tokenizer.encode(TEXT)
        assert loaded.eot_id == tokenizer.eot_id


@pytest.mark.parametrize("content", ["", "{}", "no json", "[" * 100_000, b"\xff", b"[1]"])
def test_broken_file_is_a_clear_error(content: str | bytes, tmp_path: Path) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(TokenizerError, match="not a tokenizer that can be read"):
        Tokenizer.load(tmp_path)


FOREIGN_MODELS = (
    models.WordLevel({"a": 0}, unk_token="[UNK]"),
    models.WordPiece({"a": 0}, unk_token="[UNK]"),
    models.Unigram([("a", 0.0)], None),
    models.BPE({"a": 0}, [], unk_token="[UNK]"),
)


@pytest.mark.parametrize("model", FOREIGN_MODELS)
@pytest.mark.parametrize("times", [1, 10_000])
def test_text_that_a_tokenizer_of_others_cannot_encode_is_a_clear_error(
    model: models.Model, times: int, tmp_path: Path
) -> None:
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("a " * times) == [0] * times
    for use in (tokenizer.encode, tokenizer.spans):
        with pytest.raises(TokenizerError, match="cannot encode the text"):
            use("a b " * times)


def test_bytes_that_a_terminal_could_not_read_are_a_clear_error() -> None:
    with pytest.raises(TokenizerError, match="bytes that are not text"):
        made("bpe").tokens("a\udcff")


def test_a_panic_of_the_library_is_a_clear_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = json.loads(made("byte").library.to_str())
    spec["pre_tokenizer"] = {"type": "FixedLength", "length": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(TokenizerError, match="cannot encode the text"):
        Tokenizer.load(tmp_path).encode("some text")
    assert "panicked" in capfd.readouterr().err  # what the library writes itself


def test_an_id_beyond_all_vocabularies_is_a_clear_error(tmp_path: Path) -> None:
    spec = json.loads(made("byte").library.to_str())
    spec["model"]["vocab"]["a"] = 2**31
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(TokenizerError, match="token id 2,147,483,648"):
        Tokenizer.load(tmp_path)


def test_a_text_named_as_tokenizer_is_said_not_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("Once upon a time")
    with pytest.raises(TokenizerError, match=r"story\.txt is not a tokenizer\."):
        Tokenizer.load(tmp_path / "story.txt")


def test_an_id_outside_the_vocabulary_is_a_clear_error() -> None:
    with pytest.raises(TokenizerError, match="300 is not a token"):
        made("byte").decode([300])
