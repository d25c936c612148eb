"""The hash of a corpus, computed beside the reading of it."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor

_BLOCK = 1 << 20  # bytes handed over at once


class Digest:
    """BLAKE2b in a thread of its own, as hashlib lets go of the interpreter; at most two blocks wait."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._thread = ThreadPoolExecutor(1)
        self._job: Future[None] | None = None
        self._block: list[bytes] = []
        self._size = 0

    def update(self, data: bytes) -> None:
        self._block.append(data)
        self._size += len(data)
        if self._size >= _BLOCK:
            self._hand_over()

    def hexdigest(self) -> str:
        """Of all that came; the last call."""
        self._hand_over()
        self._thread.shutdown()
        return self._hash.hexdigest()

    def _hand_over(self) -> None:
        if self._job is not None:
            self._job.result()
        self._job = self._thread.submit(self._hash.update, b"".join(self._block))
        self._block, self._size = [], 0
