"""The four kinds of tokenizer, made from a corpus, and which one suits a corpus.

Every part of them can be said in a tokenizer.json, so that other programs read what we save.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from gptscratch.errors import TokenizerError
from gptscratch.tokenizer.sample import head_of, sample_size, spread_sample

KINDS = ("char", "byte", "word", "bpe")
END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unk>"
MIN_FREQUENCY = 2  # a word seen once teaches nothing
MAX_WORDS = 1 << 16  # ids stay uint16

_GROWTH = 0.75  # of a BPE's training time with its text, as a power: measured from 1 to 32 million characters

# One letter of a script without spaces; a word with its apostrophes; a run of one sign; a line's end.
_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}"
WORD = (
    rf"[{_SPACELESS}]|[\w&&[^{_SPACELESS}]]+(?:['’][\w&&[^{_SPACELESS}]]+)*"
    r"| -(?=\s)|([^\w\s])\1*\p{M}*|\n"
)
# The decoder first puts a space before each token, then takes those away that do not belong. A rule may
# look at what stands before a space and at the token after it, never further: a stream cannot wait.
_NO_SPACE = (
    r" ?\n ?",  # around a line's end
    r"(?<=[^ \n]) (?=[.,;:!?)\]}%'’”»…、。！？，；：」』）])",  # before closing signs
    r"(?<=[(\[{“«$£€#@「『（、。！？，；：」』）]) ",  # after opening ones
    rf"(?<=[{_SPACELESS}]) (?=[{_SPACELESS}「『（])",
    r"(?<=[^ \n]) (?=-(?!-)|/(?!/))",  # around a hyphen inside a word, first before
    r"(?<=[^ \n/-][-/]) ",  # then behind it
)


def choose_tokenizer(n_characters: int, n_distinct: int = 0) -> tuple[str, int]:
    """(kind, vocab_size) that suit a corpus: characters while it is very small, else BPE.

    A very small corpus shows too few words for larger pieces to be learnt; a large alphabet has too many
    characters for each to be learnt. The size is 0 where the kind decides it.
    """
    if n_characters < 300_000 and n_distinct <= 256:
        return "char", 0
    return "bpe", bpe_vocab_size(n_characters, n_distinct)


def bpe_vocab_size(n_characters: int, n_distinct: int = 0) -> int:
    """Grows with about the square root of the corpus, in powers of two from 1,024 to 16,384.

    Runs of one to three minutes did better with these than with twice as many (docs/decisions/planner.md).

    A large alphabet wants more, so that its characters need not be told byte by byte.
    """
    steps = ((4_000_000, 1024), (16_000_000, 2048), (64_000_000, 4096), (512_000_000, 8192))
    size = next((size for limit, size in steps if n_characters < limit), 16_384)
    return min(16_384, max(size, 1 << (n_distinct + 256).bit_length()))


def bpe_seconds(head: Sequence[str], n_characters: int, vocab_size: int) -> float:
    """About how long a BPE of this size takes to learn from so many characters of text like ``head``.

    A small one is trained and timed; the time grows more slowly than the text, since words repeat.
    """
    start = time.perf_counter()
    _train_bpe(_byte_level(models.BPE()), head, vocab_size)
    seconds = time.perf_counter() - start
    growth = max(1.0, n_characters / max(1, sum(map(len, head))))
    return float(seconds * growth**_GROWTH)


def build_tokenizer(
    kind: str,
    texts: Callable[[], Iterable[str]],
    *,
    alphabet: str,
    n_characters: int,
    vocab_size: int = 0,
    lowercase: bool = False,
    min_frequency: int = 0,
) -> Tokenizer:
    """Make a tokenizer of one of ``KINDS``.

    Args:
        texts: gives the training texts anew, in pieces; called for word and bpe only.
        alphabet: the characters of the whole corpus, for char.
        n_characters: of the training texts, for the size and the sample of a BPE.
        vocab_size: wanted entries, special tokens included; 0: the kind decides.

    Raises:
        TokenizerError: an unknown kind, or a vocabulary too small for it.
    """
    normalizer = normalizers.Lowercase() if lowercase else None
    if kind == "char":
        tokenizer = _char(alphabet if normalizer is None else normalizer.normalize_str(alphabet), vocab_size)
    elif kind == "byte":
        tokenizer = _byte(vocab_size)
    elif kind == "word":
        tokenizer = _word()
    elif kind == "bpe":
        tokenizer = _byte_level(models.BPE())
    else:
        raise TokenizerError(f"{kind!r} is no kind of tokenizer.", f"The kinds: {', '.join(KINDS)}.")
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if kind == "word":
        _require_size(kind, vocab_size, 3, "two special tokens and at least one word")
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size or MAX_WORDS,
            min_frequency=min_frequency or MIN_FREQUENCY,
            special_tokens=[END_OF_TEXT, UNKNOWN],
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts(), trainer)
        tokenizer = _as_plain_entry(tokenizer)
    elif kind == "bpe":
        _require_size(kind, vocab_size, 257, "256 bytes and one special token")
        size = vocab_size or bpe_vocab_size(n_characters, len(alphabet))
        sample = sample_size(head_of(texts())) / max(1, n_characters)
        _train_bpe(tokenizer, spread_sample(texts(), sample), size)
    return tokenizer


@cache
def byte_letters() -> tuple[str, ...]:
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2's encoder.py)."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(256, 512))
    return tuple(chr(b) if b in shown else chr(next(hidden)) for b in range(256))


def _char(alphabet: str, vocab_size: int) -> Tokenizer:
    letters = sorted(set(alphabet))
    _require_size("char", vocab_size, len(letters) + 2, f"{len(letters)} characters and two special tokens")
    vocab = {token: i for i, token in enumerate([*letters, END_OF_TEXT, UNKNOWN])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _with_end(tokenizer)


def _byte(vocab_size: int) -> Tokenizer:
    _require_size("byte", vocab_size, 257, "256 bytes and one special token")
    vocab = {letter: value for value, letter in enumerate(byte_letters())}
    return _with_end(_byte_level(models.BPE(vocab, []), use_regex=False))


def _word() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    rules: list[decoders.Decoder] = [decoders.Replace(Regex(rule), "") for rule in _NO_SPACE[1:]]
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(Regex(_NO_SPACE[0]), "\n"),
            decoders.Replace(Regex(r'"[^"\n]*\K "'), '"'),  # a closing quote; an opening one keeps its space
            decoders.Replace(Regex(r'(?<![^\s(\[{])"\K '), ""),
            *rules,
            decoders.Replace("  -", " -"),
        ]
    )
    return tokenizer


def _byte_level(model: models.BPE, *, use_regex: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _with_end(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False, special=True)])
    return tokenizer


def _as_plain_entry(trained: Tokenizer) -> Tokenizer:
    """The trainer makes <unk> a special token; as a plain entry it shows where a word is missing."""
    tokenizer = _word()
    tokenizer.model = models.WordLevel(trained.get_vocab(with_added_tokens=False), unk_token=UNKNOWN)
    if trained.normalizer is not None:
        tokenizer.normalizer = trained.normalizer
    return _with_end(tokenizer)


def _train_bpe(tokenizer: Tokenizer, texts: Iterable[str], vocab_size: int) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)


def _require_size(kind: str, given: int, needed: int, why: str) -> None:
    if 0 < given < needed:
        raise TokenizerError(
            f"a vocabulary of {given} is too small for the {kind} tokenizer: it needs {needed:,} ({why}).",
            f"Take --vocab-size {needed} or more, or leave it out.",
        )
