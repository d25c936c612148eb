"""Text to token ids and back: characters, bytes, words, byte-pair encoding, or any tokenizer.json.

    tokenizer.py   Tokenizer: encode, decode, save
    train.py       the four kinds, made from text
    load.py        what a --tokenizer PATH can be
    bulk.py        bulk_encoder: many texts at once
    detokenize.py  DecodeStream: ids in, whole characters out

All of them are objects of the `tokenizers` library, so that what is saved loads elsewhere.
"""

from gptscratch.tokenizer.bulk import bulk_encoder
from gptscratch.tokenizer.tokenizer import Tokenizer
from gptscratch.tokenizer.train import KINDS, build_tokenizer, choose_tokenizer

__all__ = ["KINDS", "Tokenizer", "build_tokenizer", "bulk_encoder", "choose_tokenizer"]
