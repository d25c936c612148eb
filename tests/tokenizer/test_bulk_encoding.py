"""The bulk path: the same pieces and ids as the library, whatever the text."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from gptscratch.tokenizer import Tokenizer, build_tokenizer, cut, memo
from gptscratch.tokenizer.build import byte_letters

LETTERS = list("''''    \n\t stmdrevl12aBIΣσ.,-_é猫１\u3000\xa0\u2028\u0301\u200d😀\x00\x1c\x85²<>|")
SAMPLE = "It's a well-known 'thing', isn't it? They've 12 cats - and\n\n  we'll see. Größe猫 " * 30


def random_texts(seed: int, longest: int = 60) -> list[str]:
    rng = random.Random(seed)
    count = rng.randrange(1, 40)
    return ["".join(rng.choices(LETTERS, k=rng.randrange(longest))) for _ in range(count)]


def naive_pieces(texts: list[str]) -> list[bytes]:
    library = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return [text[a:b].encode() for text in texts for _, (a, b) in library.pre_tokenize_str(text)]


def our_pieces(texts: list[str]) -> list[bytes]:
    raw = b"".join(b"\xff" + text.encode() for text in texts)
    starts = cut.cut_pieces(np.frombuffer(raw, np.uint8)).tolist()
    pieces = [raw[a:b] for a, b in zip(starts, [*starts[1:], len(raw)], strict=True)]
    return [piece for piece in pieces if piece != b"\xff"]


def bpe(**parts: object) -> tokenizers.Tokenizer:
    library = build_tokenizer("bpe", lambda: [SAMPLE], alphabet="", n_characters=1, vocab_size=330)
    for name, part in parts.items():
        setattr(library, name, part)
    return library


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


def made(kind: str, *, lowercase: bool = False) -> tokenizers.Tokenizer:
    return build_tokenizer(
        kind, lambda: [SAMPLE], alphabet=SAMPLE, n_characters=1, lowercase=lowercase, vocab_size=330
    )


REMEMBERED: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "gpt2": bpe,
    "word": lambda: made("word"),
    "word, lower case": lambda: made("word", lowercase=True),
    "bpe, lower case": lambda: made("bpe", lowercase=True),
    "bpe, nfkc": lambda: bpe(normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
    "llama 3": lambda: bpe(pre_tokenizer=split(cut._LLAMA3)),
    "qwen 2": lambda: bpe(pre_tokenizer=split(cut._QWEN2)),
    "white space": lambda: bpe(pre_tokenizer=pre_tokenizers.Whitespace()),
}


@pytest.mark.parametrize("seed", range(150))
def test_pieces_are_the_librarys(seed: int) -> None:
    texts = random_texts(seed)
    assert our_pieces(texts) == naive_pieces(texts)


def test_every_block_of_unicode_is_cut_as_the_library_cuts() -> None:
    codes = [*range(0x3100), *range(0x3100, 0xD800, 61), *range(0xF900, 0x20000, 3), *range(0xE0000, 0xE0200)]
    text = "".join(f"a{chr(code)}1{chr(code)} {chr(code)}  {chr(code)}'s" for code in codes)
    assert our_pieces([text]) == naive_pieces([text])


@pytest.mark.parametrize("name", REMEMBERED)
def test_remembered_ids_are_the_librarys(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptscratch.tokenizer.tokenizer._BULK", 0)
    tokenizer = Tokenizer(REMEMBERED[name]())
    assert tokenizer._memo
    for seed in range(40):
        texts = [*random_texts(seed), SAMPLE[seed:], "", "x" * 100, "Σ" * 20 + " ΟΣ. ΟΣ"]
        expected = [e.ids for e in tokenizer.library.encode_batch_fast(texts, add_special_tokens=False)]
        assert [ids.tolist() for ids in tokenizer.encode_arrays(texts)] == expected


def test_a_full_table_starts_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "MOST", 100)
    tokenizer = Tokenizer(bpe())
    assert tokenizer._memo
    for seed in range(30):
        text = " ".join(random_texts(seed))
        assert tokenizer._memo.encode([text])[0].tolist() == tokenizer.library.encode(text).ids
    assert max(table.n_keys for table in tokenizer._memo._tables) < 500


def test_tables_grow_and_keep_what_they_know() -> None:
    tokenizer = Tokenizer(bpe())
    assert tokenizer._memo
    text = " ".join(str(i * 7919) + "x" * (i % 40) for i in range(30_000))
    for _ in range(2):
        assert tokenizer._memo.encode([text])[0].tolist() == tokenizer.library.encode(text).ids


def _with_added_token() -> tokenizers.Tokenizer:
    library = bpe()
    library.add_tokens([AddedToken("known well")])
    return library


@pytest.mark.parametrize(
    "make",
    [
        _with_added_token,  # is sought across the pieces' borders
        lambda: bpe(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda: bpe(pre_tokenizer=split("of a kind|.")),
        lambda: bpe(pre_tokenizer=pre_tokenizers.Metaspace()),
        lambda: bpe(normalizer=normalizers.Replace("a b", "c")),
        lambda: tokenizers.Tokenizer(models.BPE({"a": 0}, [])),
    ],
)
def test_what_may_look_across_a_space_is_left_to_the_library(
    make: Callable[[], tokenizers.Tokenizer],
) -> None:
    assert Tokenizer(make())._memo is None


def spaceless(seed: int, alphabet: str, size: int) -> str:
    """Words of an own language without spaces between them."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(alphabet, k=rng.randrange(1, 5))) for _ in range(60)]
    return "".join(rng.choices([*words, "。", "\n"], k=size))


@pytest.mark.parametrize("alphabet", ["あいうえおかきくけこ猫犬魚", "абвгдежз", "😀😁🎉👍é猫"])
def test_long_pieces_are_cut_where_no_token_reaches(alphabet: str) -> None:
    learnt = [spaceless(1, alphabet, 2000)]
    library = build_tokenizer("bpe", lambda: learnt, alphabet="", n_characters=1, vocab_size=400)
    tokenizer = Tokenizer(library)
    assert tokenizer._memo
    assert tokenizer._memo._reach
    letters = byte_letters()
    vocab = [bytes(map(letters.index, t)) for t in library.get_vocab() if set(t) <= set(letters)]
    for seed in (1, 2):
        text = spaceless(seed, alphabet, 500)
        assert tokenizer._memo.encode([text])[0].tolist() == library.encode(text).ids
        raw = b"\xff" + text.encode()
        free = tokenizer._memo._reach.free(np.frombuffer(raw + bytes(8), np.uint8)).tolist()
        assert len(free) > len(text) / 20
        for at in free[:50]:
            crossing = [
                t for t in vocab for left in range(1, len(t)) if raw[at - left : at - left + len(t)] == t
            ]
            assert not crossing
