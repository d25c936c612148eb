"""Text to token ids and back: characters, bytes, words, byte-pair encoding, or any tokenizer.json.

    tokenizer.py   Tokenizer: encode, decode, stream, save
    build.py       the four kinds, made from a corpus
    sample.py      what part of a corpus a BPE learns from
    files.py       what a --tokenizer PATH can be
    cut.py         where a pre-tokenizer cuts, by numpy
    reach.py       where no token reaches across, and a piece may be cut further
    memo.py        Memo: the bulk path, which encodes each distinct piece once
    stream.py      DecodeStream: ids in, whole characters out

All of them are objects of the `tokenizers` library, so that what is saved loads elsewhere.
"""

from gptscratch.tokenizer.build import KINDS, MIN_FREQUENCY, bpe_vocab_size, build_tokenizer, choose_tokenizer
from gptscratch.tokenizer.stream import DecodeStream
from gptscratch.tokenizer.tokenizer import Tokenizer

__all__ = [
    "KINDS",
    "MIN_FREQUENCY",
    "DecodeStream",
    "Tokenizer",
    "bpe_vocab_size",
    "build_tokenizer",
    "choose_tokenizer",
]
