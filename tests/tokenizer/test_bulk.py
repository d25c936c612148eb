"""Encoding many texts at once: the library's ids, whatever the text and whichever way is the fastest."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from gptscratch.tokenizer import Tokenizer, build_tokenizer, bulk_encoder
from gptscratch.tokenizer.bulk import LLAMA3, QWEN2, _tiktoken_encoder
from gptscratch.tokenizer.train import latin_words, word_splitter

LETTERS = list("''''    \n\t stmdrevl12aBIΣσ.,-_é猫１\u3000\xa0\u2028\u0301\u200d😀\x00\x1c\x85²<>|LS")
SAMPLE = "It's a well-known 'thing', isn't it? They've 12 cats - and\n\n  we'll see. Größe猫 " * 30


def random_texts(seed: int, longest: int = 60) -> list[str]:
    rng = random.Random(seed)
    count = rng.randrange(1, 40)
    return ["".join(rng.choices(LETTERS, k=rng.randrange(longest))) for _ in range(count)]


def bpe(**parts: object) -> tokenizers.Tokenizer:
    library = build_tokenizer("bpe", [SAMPLE], alphabet="", vocab_size=330)
    for name, part in parts.items():
        setattr(library, name, part)
    return library


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


FAST: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "gpt2": bpe,
    "llama 3": lambda: bpe(pre_tokenizer=split(LLAMA3)),
    "qwen 2": lambda: bpe(pre_tokenizer=split(QWEN2)),
}


def _with_added_token() -> tokenizers.Tokenizer:
    library = bpe()
    library.add_tokens([AddedToken("known well")])
    return library


def _unreachable() -> tokenizers.Tokenizer:
    """ "abc" has a merge of "ab" and "c", but "bc" is merged before: the library never makes it."""
    library = build_tokenizer("byte", [], alphabet="")
    vocab = library.get_vocab(with_added_tokens=False) | {"bc": 300, "ab": 301, "abc": 302}
    library.model = models.BPE(vocab, [("b", "c"), ("a", "b"), ("ab", "c")])
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return library


def _ids_in_another_order() -> tokenizers.Tokenizer:
    library = build_tokenizer("byte", [], alphabet="")
    vocab = library.get_vocab(with_added_tokens=False) | {"ab": 301, "bc": 300}
    library.model = models.BPE(vocab, [("a", "b"), ("b", "c")])
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return library


SLOW: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "added token": _with_added_token,
    "unreachable token": _unreachable,
    "ids in another order": _ids_in_another_order,
    "space before": lambda: bpe(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "other pattern": lambda: bpe(pre_tokenizer=split("of a kind|.")),
    "lower case": lambda: bpe(normalizer=normalizers.Lowercase()),
    "word": lambda: build_tokenizer("word", [SAMPLE], alphabet=""),
    "word in lower case": lambda: build_tokenizer("word", [SAMPLE], alphabet="", lowercase=True),
    "white space": lambda: bpe(pre_tokenizer=pre_tokenizers.Whitespace()),
}


@pytest.mark.parametrize("make", [*FAST.values(), *SLOW.values()], ids=[*FAST, *SLOW])
def test_bulk_ids_are_the_librarys(make: Callable[[], tokenizers.Tokenizer]) -> None:
    tokenizer = Tokenizer(make())
    encode = bulk_encoder(tokenizer, "".join(LETTERS) + SAMPLE)
    for seed in range(40):
        texts = [*random_texts(seed), SAMPLE[seed:], "", "x" * 100, "Σ" * 20 + " ΟΣ. ΟΣ abc"]
        expected = [e.ids for e in tokenizer.library.encode_batch_fast(texts, add_special_tokens=False)]
        assert [ids.tolist() for ids in encode(texts)] == expected
        assert {ids.dtype.type for ids in encode(texts)} == {tokenizer.dtype}


@pytest.mark.parametrize("make", FAST.values(), ids=list(FAST))
def test_tiktoken_is_used_for_known_patterns(make: Callable[[], tokenizers.Tokenizer]) -> None:
    pytest.importorskip("tiktoken")
    assert _tiktoken_encoder(Tokenizer(make()), SAMPLE)


@pytest.mark.parametrize("make", SLOW.values(), ids=list(SLOW))
def test_what_tiktoken_could_encode_otherwise_is_left_to_the_library(
    make: Callable[[], tokenizers.Tokenizer],
) -> None:
    assert _tiktoken_encoder(Tokenizer(make()), SAMPLE) is None


def test_without_tiktoken_the_library_encodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    tokenizer = Tokenizer(bpe())
    encode = bulk_encoder(tokenizer, SAMPLE)
    assert encode([SAMPLE])[0].tolist() == tokenizer.library.encode(SAMPLE).ids


@pytest.mark.parametrize("make", FAST.values(), ids=list(FAST))
@pytest.mark.parametrize("run", ["a", " ", "\n", "1", "-", "猫", "😀", "'s", " a", "\u3000"])
def test_runs_of_100_000_characters_have_the_librarys_ids(
    make: Callable[[], tokenizers.Tokenizer], run: str
) -> None:
    tokenizer = Tokenizer(make())
    text = f"before {run * 100_000} after"
    expected = tokenizer.library.encode(text, add_special_tokens=False).ids
    assert bulk_encoder(tokenizer, SAMPLE + run)([text])[0].tolist() == expected


@pytest.mark.parametrize("kind", ["char", "byte"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_tables_have_the_librarys_ids(kind: str, lowercase: bool) -> None:
    """In ASCII alone, in two bytes and beyond them; ß and 🎉 are unknown, and some letters change."""
    known = "".join(set(SAMPLE) - set("ß🎉")) + "😀"
    tokenizer = Tokenizer(build_tokenizer(kind, [], alphabet=known, lowercase=lowercase))
    texts = ["plain ASCII\n", "", "Größe 猫", "😀 🎉", SAMPLE]
    expected = [tokenizer.library.encode(text).ids for text in texts]
    assert [ids.tolist() for ids in bulk_encoder(tokenizer)(texts)] == expected


def test_the_ids_of_a_character_do_not_depend_on_how_high_it_is() -> None:
    tokenizer = Tokenizer(build_tokenizer("char", [], alphabet="ab"))
    assert bulk_encoder(tokenizer)(["a\U0010ffffb"])[0].tolist() == [0, tokenizer.unk_id, 1]


def test_latin_words_are_those_of_the_library() -> None:
    characters = [chr(code) for code in (*range(256), *range(0x2010, 0x203F)) if not 0x2028 <= code < 0x2030]
    for c in characters:
        text = f"a{c}b {c}{c} -{c} - x'{c}{c}a’{c}{c}-\n{c} -"
        assert latin_words(text) == [word for word, _ in word_splitter().pre_tokenize_str(text)], repr(c)
    assert latin_words("猫") is None
