"""The four kinds of tokenizer, made from text, and which one suits a corpus.

Every part of them is expressed in a tokenizer.json, so that other programs read what we save.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from gptscratch.errors import TokenizerError

KINDS = ("char", "byte", "word", "bpe")
END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unk>"
MIN_FREQUENCY = 2  # a word seen once teaches nothing
MAX_WORDS = 1 << 16  # ids stay uint16

SAMPLE = 32_000_000  # characters that a BPE is trained on at most: more changes few merges
SPACELESS_SAMPLE = 4_000_000  # the same where words are not separated by spaces
_SPACELESS_SHARE = 0.06  # of the characters are spaces: below it; English has 0.18, German 0.14
_INTERRUPTIBLE = 0.2  # seconds: Windows notices Ctrl-C between two waits
_LONGEST_RUN = 256  # characters without a space
_RUN = re.compile(rf"\w{{{_LONGEST_RUN}}}(?=\w)|[^\w\s]{{{_LONGEST_RUN}}}(?=[^\w\s])")

# One letter of a script without spaces; a word with its apostrophes; a run of one sign; a line's end.
_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}"
WORD = (
    rf"[{_SPACELESS}]|[\w&&[^{_SPACELESS}]]+(?:['’][\w&&[^{_SPACELESS}]]+)*"
    r"| -(?=\s)|([^\w\s])\1*\p{M}*|\n"
)
# The same for text of these characters alone, which have the same classes in Python: twice as fast.
_LETTER = "0-9A-Z_a-zªµºÀ-ÖØ-öø-ÿ"
_SPACE = r"\t-\r \x85\xa0"
_LATIN_WORD = re.compile(
    rf"([{_LETTER}]+(?:['’][{_LETTER}]+)*| -(?=[{_SPACE}])|([^{_LETTER}{_SPACE}])\2*|\n)"
)
_NOT_LATIN = re.compile("[^\0-\xff\u2010-\u2027\u2030-\u203e]")
# The decoder first puts a space before each token, then removes those that do not belong there. A rule may
# look at what precedes a space and at the token after it, never further: a stream cannot wait.
_NO_SPACE = (
    r"(?<=[^ \n]) (?=[.,;:!?)\]}%'’”»…、。！？，；：」』）])",  # before closing signs
    r"(?<=[(\[{“«$£€#@「『（、。！？，；：」』）]) ",  # after opening ones
    rf"(?<=[{_SPACELESS}]) (?=[{_SPACELESS}「『（])",
    r"(?<=[^ \n]) (?=-(?!-)|/(?!/))",  # around a hyphen inside a word, first before it
    r"(?<=[^ \n/-][-/]) ",  # then after it
)


CHOICE = 2  # version of the two rules below: token files that were made under an older one are made again


def choose_tokenizer(n_characters: int, n_distinct: int = 0) -> tuple[str, int | None]:
    """(kind, vocab_size) that suit a corpus: characters while it is small, else BPE.

    A small corpus shows too few words for larger tokens to be learned; a large alphabet has too many
    characters for each to be learned. The size is None where the kind decides it. The text alone decides, so
    that a corpus has the same tokens on every machine.
    """
    if n_characters < 2_000_000 and n_distinct <= 256:
        return "char", None
    return "bpe", bpe_vocab_size(n_characters, n_distinct)


def bpe_vocab_size(n_characters: int, n_distinct: int = 0) -> int:
    """The square root of the number of characters, as a power of two from 1,024 to 16,384.

    Runs of one to three minutes did better with these than with twice as many (docs/decisions/planner.md).
    A large alphabet needs more, so that its characters are not encoded byte by byte.
    """
    size = 1 << (max(1, n_characters).bit_length() - 1) // 2
    return min(16_384, max(1024, size, 1 << (n_distinct + 256).bit_length()))


def sample_limit(text: Iterable[str]) -> int:
    """On how many characters of a corpus that begins with ``text`` a BPE is trained at most.

    The trainer holds each distinct word and processes it at every merge. English has few of them; a script
    without spaces has about as many as it has clauses.
    """
    spaces = characters = 0
    for part in text:
        spaces += part.count(" ") + part.count("\n")
        characters += len(part)
    return SAMPLE if spaces >= _SPACELESS_SHARE * characters else SPACELESS_SAMPLE


def build_tokenizer(
    kind: str,
    texts: Iterable[str],
    *,
    alphabet: str,
    vocab_size: int | None = None,
    lowercase: bool = False,
    min_frequency: int | None = None,
) -> Tokenizer:
    """Make a tokenizer of one of ``KINDS``.

    Args:
        texts: the training text in parts, or a sample of it; read for word and bpe only.
        alphabet: the characters of the whole corpus, for char.
        vocab_size: wanted entries, special tokens included; None: the kind decides, and for bpe the texts.
        min_frequency: words seen less often are unknown; None: 2.

    Raises:
        TokenizerError: an unknown kind, or a vocabulary too small for it.
    """
    normalizer = normalizers.Lowercase() if lowercase else None
    letters = sorted(set(normalizer.normalize_str(alphabet) if normalizer else alphabet))
    if kind not in KINDS:
        raise TokenizerError(f"{kind!r} is not a kind of tokenizer.", f"The kinds: {', '.join(KINDS)}.")
    needed = {"char": len(letters) + 2, "word": 3}.get(kind, 257)  # with one special token or two
    if vocab_size is not None and vocab_size < needed:
        raise TokenizerError(
            f"a vocabulary of {vocab_size} is too small for the {kind} tokenizer: it needs {needed:,}.",
            f"Take --vocab-size {needed} or more, or leave it out.",
        )
    if kind == "char":
        tokenizer = _char(letters)
    elif kind == "byte":
        tokenizer = _byte_level(models.BPE(byte_values(), []), use_regex=False)
    elif kind == "word":
        tokenizer = _word(texts, vocab_size or MAX_WORDS, min_frequency or MIN_FREQUENCY, normalizer)
    else:
        tokenizer = _byte_level(models.BPE(), normalizer=normalizer)
        _train_bpe(tokenizer, texts, vocab_size or bpe_vocab_size(0, len(alphabet)))
        return tokenizer  # with its special token, for the trainer adds that
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False, special=True)])
    return tokenizer


@cache
def byte_values() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary represents, in order (GPT-2's encoder.py)."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(256, 512))
    return {chr(byte) if byte in shown else chr(next(hidden)): byte for byte in range(256)}


def without_long_runs(text: str) -> Iterator[str]:
    """The text in parts in which no run of letters or of signs is longer than 256 characters.

    Base64 is one word, which the BPE trainer would process at every merge.
    """
    start = 0
    if max(map(len, text.split()), default=0) > _LONGEST_RUN:
        for run in _RUN.finditer(text):
            yield text[start : run.end()]
            start = run.end()
    yield text[start:]


def _char(letters: Sequence[str]) -> Tokenizer:
    vocab = {token: i for i, token in enumerate([*letters, END_OF_TEXT, UNKNOWN])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def word_splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(WORD), "removed", invert=True)


def latin_words(text: str) -> list[str] | None:
    """The words of a text as ``word_splitter`` gives them; None where it has other than Latin characters."""
    return None if _NOT_LATIN.search(text) else [word for word, _ in _LATIN_WORD.findall(text)]


def _word(
    texts: Iterable[str], vocab_size: int, min_frequency: int, normalizer: normalizers.Normalizer | None
) -> Tokenizer:
    splitter = word_splitter()
    words: Counter[str] = Counter()
    for text in texts:
        known = normalizer.normalize_str(text) if normalizer else text
        words.update(latin_words(known) or (word for word, _ in splitter.pre_tokenize_str(known)))
    frequent = sorted((-count, word) for word, count in words.items() if count >= min_frequency)
    vocab = [END_OF_TEXT, UNKNOWN, *(word for _, word in frequent[: vocab_size - 2])]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocab)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(Regex(r" ?\n ?"), "\n"),
            decoders.Replace(Regex(r'"[^"\n]*\K "'), '"'),  # a closing quote; an opening one keeps its space
            decoders.Replace(Regex(r'(?<![^\s(\[{])"\K '), ""),
            *(decoders.Replace(Regex(rule), "") for rule in _NO_SPACE),
            decoders.Replace("  -", " -"),
        ]
    )
    return tokenizer


def _byte_level(
    model: models.BPE, *, use_regex: bool = True, normalizer: normalizers.Normalizer | None = None
) -> Tokenizer:
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _train_bpe(tokenizer: Tokenizer, texts: Iterable[str], vocab_size: int) -> None:
    """In a thread, because the library does not look for Ctrl-C."""
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    parts = (part for text in texts for part in without_long_runs(text))
    left = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            tokenizer.train_from_iterator(itertools.takewhile(lambda _: not left.is_set(), parts), trainer)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_INTERRUPTIBLE)
    finally:
        left.set()
    if errors:
        raise errors[0]
