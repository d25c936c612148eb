"""Speed of tokenization, compared with the tokenizers library and tiktoken with the same vocabulary.

    python tests/benchmarks/data_speed.py CORPUS [--tokenizer FOLDER] [--megabytes 56] [--rounds 3]

FOLDER contains GPT-2's vocab.json and merges.txt; without it, a BPE is trained on the corpus. The candidates
take turns, and medians are shown, of wall-clock time and of processor time, which varies less if other
processes use the machine. Every round starts with empty caches. The last rows are `gptscratch tokenize` as a
whole, from the file to the finished folder.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gptscratch.config import DataConfig
from gptscratch.data.chunks import ReadCounts, texts_of
from gptscratch.data.corpus import Corpus
from gptscratch.data.prepare import prepare
from gptscratch.tokenizer import Tokenizer, build_tokenizer, bulk_encoder
from gptscratch.tokenizer.train import byte_values

Encode = Callable[[list[str]], list[Any]]
BATCH = 16  # chunks of about 131,072 characters
GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--text-column", default="")
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--megabytes", type=float, default=56)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    batches = list(read(asked.corpus, asked.text_column, asked.megabytes * 1e6))
    size = sum(len(text.encode()) for texts in batches for text in texts) / 1e6
    library = bpe(asked.tokenizer, batches)
    makers = contestants(library, "".join(batches[0]))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in makers}
    ids: dict[str, list[Any]] = {}
    for _ in range(asked.rounds):
        for name, make in makers.items():
            encode = make()
            start, began = time.perf_counter(), time.process_time()
            found = [part for texts in batches for part in encode(texts)]
            times[name].append((time.perf_counter() - start, time.process_time() - began))
            ids.setdefault(name, found)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{size:.1f} MB of {Path(asked.corpus).name}, {cores} cores, median of {asked.rounds}\n")
    print(f"| {'':24} | {'MB/s':>7} | {'of CPU':>7} | {'tokens':>11} | the library's ids |")
    print(f"|{'-' * 26}|{'-' * 8}:|{'-' * 8}:|{'-' * 12}:|{'-' * 19}|")
    for name, taken in times.items():
        tokens = sum(map(len, ids[name]))
        same = same_ids(ids[name], ids["tokenizers, BPE"]) if "BPE" in name else None
        shown = {True: "yes", False: "NO", None: ""}[same]
        clock, cpu = (size / statistics.median(seconds) for seconds in zip(*taken, strict=True))
        print(f"| {name:24} | {clock:7.1f} | {cpu:7.1f} | {tokens:11,} | {shown:17} |")
    whole_jobs(asked.corpus, asked.text_column, [asked.tokenizer or "bpe", "char", "byte"], asked.rounds)


def whole_jobs(corpus: str, column: str, tokenizers: list[str], rounds: int) -> None:
    times: dict[str, list[float]] = {tokenizer: [] for tokenizer in tokenizers}
    for _ in range(rounds):
        for tokenizer, taken in times.items():
            with tempfile.TemporaryDirectory() as folder:
                os.environ["GPTSCRATCH_HOME"] = folder
                start = time.perf_counter()
                prepared = prepare(DataConfig(corpus=(corpus,), text_column=column, tokenizer=tokenizer))
                taken.append(time.perf_counter() - start)
    text = prepared.manifest.train.bytes + prepared.manifest.val.bytes
    print(f"\n| the whole job, {text / 1e6:.1f} MB | MB/s |\n|---|---:|")
    for tokenizer, taken in times.items():
        print(f"| {tokenizer} | {text / 1e6 / statistics.median(taken):.1f} |")


def read(corpus: str, column: str, limit: float) -> Iterator[list[str]]:
    opened = Corpus(DataConfig(corpus=(corpus,), text_column=column))
    texts = (text for chunk in opened.chunks(ReadCounts()) for text in texts_of(chunk.data)[0])
    batch: list[str] = []
    size = total = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH << 17 or total + size >= limit:
            yield batch
            total += size
            batch, size = [], 0
        if total >= limit:
            return
    if batch:
        yield batch


def bpe(folder: str, batches: list[list[str]]) -> Any:
    if folder:
        return Tokenizer.load(folder).library
    texts = [text for batch in islice(batches, 4) for text in batch]
    return build_tokenizer("bpe", texts, alphabet="", vocab_size=8192)


def contestants(library: Any, sample: str) -> dict[str, Callable[[], Encode]]:
    made = {kind: build_tokenizer(kind, [sample], alphabet=sample) for kind in ("char", "byte", "word")}
    found: dict[str, Callable[[], Encode]] = {
        "gptscratch, BPE": lambda: bulk_encoder(Tokenizer(uncached(library)), sample),
        "tokenizers, BPE": lambda: library_encoder(library),
        "gptscratch, characters": lambda: bulk_encoder(Tokenizer(uncached(made["char"]))),
        "gptscratch, bytes": lambda: bulk_encoder(Tokenizer(uncached(made["byte"]))),
        "gptscratch, words": lambda: bulk_encoder(Tokenizer(uncached(made["word"])), sample),
        "tokenizers, words": lambda: library_encoder(made["word"]),
    }
    try:
        import tiktoken
    except ImportError:
        return found
    ranks, special = tiktoken_ranks(library)
    for threads in (1, os.cpu_count() or 1):

        def make(threads: int = threads) -> Encode:
            encoding = tiktoken.Encoding("b", pat_str=GPT2, mergeable_ranks=ranks, special_tokens=special)
            return lambda texts: encoding.encode_ordinary_batch(texts, num_threads=threads)

        found[f"tiktoken, BPE, {threads} threads"] = make
    return found


def uncached(library: Any) -> Any:
    """A copy that has encoded nothing."""
    return library.from_str(library.to_str())


def library_encoder(library: Any) -> Encode:
    copy = uncached(library)
    return lambda texts: [e.ids for e in copy.encode_batch_fast(texts)]


def tiktoken_ranks(library: Any) -> tuple[dict[bytes, int], dict[str, int]]:
    """The merge ranks of a byte-level BPE whose ids are in the order of its merges."""
    values = byte_values()
    spec = json.loads(library.to_str())
    special = {token["content"]: token["id"] for token in spec["added_tokens"]}
    vocab = {t: i for t, i in spec["model"]["vocab"].items() if t not in special}
    return {bytes(values[letter] for letter in token): i for token, i in vocab.items()}, special


def same_ids(one: list[Any], other: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
