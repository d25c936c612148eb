"""The four kinds of tokenizer, made from text, and which one suits a corpus.

Every part of them is expressed in a tokenizer.json, so that other programs read what we save.
"""

from __future__ import annotations

import re
import time
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
_LONGEST_RUN = 256  # characters without a space
_RUN = re.compile(rf"\w{{{_LONGEST_RUN}}}(?=\w)|[^\w\s]{{{_LONGEST_RUN}}}(?=[^\w\s])")
_GROWTH = 0.75  # of a BPE's training time with its text, as a power: measured from 1 to 32 million characters

# One letter of a script without spaces; a word with its apostrophes; a run of one sign; a line's end.
_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}"
WORD = (
    rf"[{_SPACELESS}]|[\w&&[^{_SPACELESS}]]+(?:['’][\w&&[^{_SPACELESS}]]+)*"
    r"| -(?=\s)|([^\w\s])\1*\p{M}*|\n"
)
# The decoder first puts a space before each token, then removes those that do not belong there. A rule may
# look at what precedes a space and at the token after it, never further: a stream cannot wait.
_NO_SPACE = (
    r"(?<=[^ \n]) (?=[.,;:!?)\]}%'’”»…、。！？，；：」』）])",  # before closing signs
    r"(?<=[(\[{“«$£€#@「『（、。！？，；：」』）]) ",  # after opening ones
    rf"(?<=[{_SPACELESS}]) (?=[{_SPACELESS}「『（])",
    r"(?<=[^ \n]) (?=-(?!-)|/(?!/))",  # around a hyphen inside a word, first before it
    r"(?<=[^ \n/-][-/]) ",  # then after it
)


def choose_tokenizer(n_characters: int, n_distinct: int = 0) -> tuple[str, int | None]:
    """(kind, vocab_size) that suit a corpus: characters while it is very small, else BPE.

    A very small corpus shows too few words for larger tokens to be learned; a large alphabet has too many
    characters for each to be learned. The size is None where the kind decides it.
    """
    if n_characters < 300_000 and n_distinct <= 256:
        return "char", None
    return "bpe", bpe_vocab_size(n_characters, n_distinct)


def bpe_vocab_size(n_characters: int, n_distinct: int = 0) -> int:
    """Grows with about the square root of the corpus, in powers of two from 1,024 to 16,384.

    Runs of one to three minutes did better with these than with twice as many (docs/decisions/planner.md).
    A large alphabet needs more, so that its characters are not encoded byte by byte.
    """
    steps = ((4_000_000, 1024), (16_000_000, 2048), (64_000_000, 4096), (512_000_000, 8192))
    size = next((size for limit, size in steps if n_characters < limit), 16_384)
    return min(16_384, max(size, 1 << (n_distinct + 256).bit_length()))


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


def bpe_seconds(head: Sequence[str], n_characters: int, vocab_size: int) -> float:
    """About how long training a BPE of this size on ``n_characters`` of text like ``head`` takes.

    A small one is trained and timed; the time grows more slowly than the text, since words repeat.
    """
    start = time.perf_counter()
    _train_bpe(_byte_level(models.BPE()), head, vocab_size)
    seconds = time.perf_counter() - start
    growth = max(1.0, n_characters / max(1, sum(map(len, head))))
    return float(seconds * growth**_GROWTH)


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
    least = {
        "char": (len(letters) + 2, f"{len(letters)} characters and two special tokens"),
        "byte": (257, "256 bytes and one special token"),
        "word": (3, "two special tokens and at least one word"),
        "bpe": (257, "256 bytes and one special token"),
    }
    if kind not in least:
        raise TokenizerError(f"{kind!r} is not a kind of tokenizer.", f"The kinds: {', '.join(KINDS)}.")
    needed, why = least[kind]
    if vocab_size is not None and vocab_size < needed:
        raise TokenizerError(
            f"a vocabulary of {vocab_size} is too small for the {kind} tokenizer: "
            f"it needs {needed:,} ({why}).",
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


def _word(
    texts: Iterable[str], vocab_size: int, min_frequency: int, normalizer: normalizers.Normalizer | None
) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[END_OF_TEXT, UNKNOWN],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The trainer makes <unk> a special token; as a plain entry it shows where a word is missing.
    plain = Tokenizer(models.WordLevel(tokenizer.get_vocab(with_added_tokens=False), unk_token=UNKNOWN))
    plain.pre_tokenizer = tokenizer.pre_tokenizer
    plain.decoder = decoders.Sequence(
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
    return plain


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
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((part for text in texts for part in without_long_runs(text)), trainer)
