"""Tokenizers as Llama, Mistral, Qwen and GPT-2 publish them: the ids and texts of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from gptscratch.generation.generator import Generator
from gptscratch.generation.scoring import score
from gptscratch.interop.import_run import import_run
from gptscratch.tokenizer import Tokenizer as OwnTokenizer
from gptscratch.tokenizer.bulk import LLAMA3, QWEN2
from gptscratch.tokenizer.detokenize import DecodeStream, complete_text

transformers = pytest.importorskip("transformers")

TEXT = "Once upon a time, the fox said: “Café”! 你好 世界 👩‍🚀 it's 3.14\n\nA dog didn't.\n" * 9
ODD_TEXTS = (
    "Once upon a time", " a", "a ", "  a  b ", "\n", "\n\n \t x ", "It's THEY'RE  1234567 3.14\r\n",
    "e\u0301 é \u200b \u00a0", "👩‍👩‍👧‍👦 🇩🇪", "日本語 한국어 مرحبا", "\ufffd \x00 \x7f", "▁ <0x41> <0xFF>",
    "x" * 99, "<s>", "a<s>b </s> c", "</s></s>  d", "<unk>",
)  # fmt: skip


def sentencepiece(*, legacy: bool) -> Tokenizer:
    """Llama 2 and Mistral: a mark for each space, bytes for unknown characters; <s> before each text."""
    special = ["<unk>", "<s>", "</s>"]
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    plain.train_from_iterator([TEXT], trainer)
    merges = json.loads(plain.to_str())["model"]["merges"]
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [
        token for token, _ in sorted(plain.get_vocab().items(), key=lambda e: e[1]) if token not in special
    ]
    vocab = {token: i for i, token in enumerate(names)}
    merges = [tuple(pair) for pair in merges]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(special)
    return tokenizer


def byte_level(pattern: str | None, *, prefix: bool = False, nfc: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, level]) if split else level
    tokenizer.normalizer = normalizers.NFC() if nfc else None
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([TEXT], trainer)
    last = processors.ByteLevel(trim_offsets=False)
    if prefix:
        template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        last = processors.Sequence([last, template])
    tokenizer.post_processor = last
    return tokenizer


MADE: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: byte_level(None),
    "llama 3": lambda: byte_level(LLAMA3, prefix=True),
    "qwen3": lambda: byte_level(QWEN2, nfc=True),
    "llama 2": lambda: sentencepiece(legacy=True),
    "mistral": lambda: sentencepiece(legacy=False),
}


@pytest.fixture(params=MADE)
def folder(request: pytest.FixtureRequest, published: Callable[..., Any]) -> Path:
    """A tiny model with this tokenizer, as save_pretrained writes both."""
    tokenizer = MADE[request.param]()
    _, folder = published(
        "Llama", vocab_size=tokenizer.get_vocab_size(), eos_token_id=tokenizer.token_to_id("</s>")
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    ).save_pretrained(folder)
    return Path(folder)


def test_ids_and_texts_are_those_of_transformers(folder: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    generator = Generator.load(import_run(folder).run)
    for text in ODD_TEXTS:
        ids = theirs(text).input_ids
        own = generator.tokenizer
        assert own.prefix_ids + own.encode(text, specials=True) == ids, text
        plain = theirs(text, split_special_tokens=True, add_special_tokens=False).input_ids
        assert own.encode(text) == plain, text
        assert own.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text
    assert generator.prompt_ids("the fox") == theirs("the fox").input_ids


def test_a_text_that_comes_token_by_token_is_the_same(folder: Path) -> None:
    tokenizer = OwnTokenizer.load(folder)
    for text in ODD_TEXTS:
        for cut in {1, 1 + len(text) // 2}:
            before = tokenizer.encode(text[:cut])
            if text[:cut][-1] in " \ufffd" or tokenizer.encode(text)[: len(before)] != before:
                continue  # the prompt ends with a space of the next word, or inside a token
            stream = DecodeStream(tokenizer, text[:cut], before)
            rest = "".join(map(stream.feed, tokenizer.encode(text)[len(before) :]))
            assert tokenizer.decode(before) + rest == tokenizer.decode(tokenizer.encode(text)), text


def test_a_character_that_the_ids_before_begin_is_completed(folder: Path) -> None:
    tokenizer = OwnTokenizer.load(folder)
    ids = tokenizer.encode("the fox 日本 👩 sings")
    for cut in range(1, len(ids)):
        before = complete_text(tokenizer, ids[:cut])
        stream = DecodeStream(tokenizer, before, ids[:cut])
        assert before + "".join(map(stream.feed, ids[cut:])) == tokenizer.decode(ids)


def test_a_stream_of_bytes_that_are_not_text_goes_through(folder: Path) -> None:
    tokenizer = OwnTokenizer.load(folder)
    generator = np.random.default_rng(0)
    for _ in range(20):
        ids = generator.integers(3, min(270, tokenizer.vocab_size), 60).tolist() + tokenizer.encode(" fox")
        stream = DecodeStream(tokenizer)
        assert "".join(map(stream.feed, ids)).endswith("fox")


def test_the_bytes_of_tokens_add_up_to_the_text(folder: Path) -> None:
    tokenizer = OwnTokenizer.load(folder)
    for text in ("Once upon a time", "It's 日本語 👩‍🚀\n\nA dog  didn't."):
        ids = tokenizer.encode(text)
        added = len(tokenizer.decode(ids, skip_special=False).encode()) - len(text.encode())
        spaces = int(np.take(tokenizer.token_bytes(), ids).sum()) - len(text.encode())
        assert added == 0
        assert spaces == (1 if "<0x0A>" in tokenizer.library.get_vocab() else 0)  # before the first word


def test_a_score_is_not_called_lossy_where_the_text_is_kept(folder: Path) -> None:
    assert score(Generator.load(import_run(folder).run), "Once upon a time\nit's 3").lossless
