"""Batches of text to ids, in several processes where that pays, and in the order in which they come.

A worker is a fresh Python that reads batches from its standard input and answers on its standard output.
So nothing is asked of the program that calls us, as ``multiprocessing`` would, and a worker ends when its
pipe does, however its parent ended.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO, NamedTuple, cast

import numpy as np
import tokenizers
from numpy.typing import NDArray

from gptscratch.accelerate import process as threads
from gptscratch.data.split import Side
from gptscratch.data.token_files import TokenArray
from gptscratch.errors import RunError
from gptscratch.tokenizer import Tokenizer

WORTH_IT = 24_000_000  # characters, from which on workers gain more than their start costs
MOST_WORKERS = 4  # each needs up to 180 MB, and one reader feeds about as many
_START = "import sys; sys.path[:] = {path!r}; from gptscratch.data.encode import serve; serve()"


class Batch(NamedTuple):
    """Pieces of documents, one behind the other."""

    sides: list[Side]
    texts: list[str]
    ends: list[bool]  # a document with the piece


class Encoded(NamedTuple):
    """The ids of a batch."""

    ids: TokenArray  # of all pieces, end-of-text tokens included
    lengths: NDArray[np.int64]  # (pieces,) ids of each
    bytes: NDArray[np.int64]  # (pieces,) of the text in UTF-8


def encode(tokenizer: Tokenizer, batch: Batch, end_of_text: int | None) -> Encoded:
    """The ids of a batch, with ``end_of_text`` behind each document where there is one."""
    parts = tokenizer.encode_arrays(batch.texts)
    ids, lengths = np.concatenate(parts), np.array([len(part) for part in parts], np.int64)
    if end_of_text is not None and any(batch.ends):
        ends = np.array(batch.ends)
        ids = np.insert(ids, np.cumsum(lengths)[ends], end_of_text)
        lengths = lengths + ends
    sizes = [len(text) if text.isascii() else len(text.encode()) for text in batch.texts]
    return Encoded(ids, lengths, np.array(sizes, np.int64))


class Encoder:
    """Encodes a stream of batches.

    with Encoder(tokenizer, end_of_text, workers=2) as encoder:
        for batch, encoded in encoder.stream(batches):
            ...
    """

    def __init__(self, tokenizer: Tokenizer, end_of_text: int | None, *, workers: int) -> None:
        """Without workers this process does the work."""
        self._tokenizer = tokenizer
        self._end_of_text = end_of_text
        self._workers = [_Worker(tokenizer, end_of_text) for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.stop()

    def stream(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Encoded]]:
        """Each batch with its ids, in order; a few are read ahead.

        Raises:
            RunError: a worker ended before its work.
        """
        if not self._workers:
            for batch in batches:
                yield batch, encode(self._tokenizer, batch, self._end_of_text)
            return
        waiting: deque[tuple[Batch, Future[Encoded]]] = deque()
        with ThreadPoolExecutor(len(self._workers)) as pool:
            try:
                for batch in batches:
                    waiting.append((batch, pool.submit(self._by_a_worker, batch)))
                    if len(waiting) > 2 * len(self._workers):
                        first, found = waiting.popleft()
                        yield first, found.result()
                for first, found in waiting:
                    yield first, found.result()
            finally:
                for _, found in waiting:
                    found.cancel()

    def _by_a_worker(self, batch: Batch) -> Encoded:
        worker = self._idle.get()
        try:
            return worker.encode(batch)
        finally:
            self._idle.put(worker)


def worker_count(tokenizer: Tokenizer, n_characters: int) -> int:
    """None for small texts, and for tables of characters or bytes, which are faster than a pipe."""
    if n_characters < WORTH_IT or tokenizer.kind in ("char", "byte") or not sys.executable:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS) if cores > 1 else 0


class _Worker:
    def __init__(self, tokenizer: Tokenizer, end_of_text: int | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent, which then stops its workers
        )
        self._to = cast("IO[bytes]", self._process.stdin)
        self._back = cast("IO[bytes]", self._process.stdout)
        self._send((tokenizer.library.to_str(), end_of_text))

    def encode(self, batch: Batch) -> Encoded:
        self._send(batch)
        try:
            return cast("Encoded", pickle.load(self._back))
        except (EOFError, OSError, pickle.UnpicklingError):
            raise self._ended() from None

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._to, self._back):
            with contextlib.suppress(OSError):
                pipe.close()

    def _send(self, what: object) -> None:
        try:
            pickle.dump(what, self._to, protocol=5)
            self._to.flush()
        except OSError:
            raise self._ended() from None

    def _ended(self) -> RunError:
        code = self._process.wait()
        return RunError(
            f"a process that tokenizes ended too early (exit code {code}).",
            "Was it short of memory? The same command goes on from here.",
        )


def serve() -> None:
    """What a worker does: a tokenizer comes first, then batches, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threads.one_thread_for_tokenizers()
    source, answers = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(EOFError, BrokenPipeError):
        spec, end_of_text = pickle.load(source)
        tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(spec))
        while True:
            pickle.dump(encode(tokenizer, pickle.load(source), end_of_text), answers, protocol=5)
            answers.flush()
