"""The clock of training: it does not count the time for which the process was suspended (Ctrl-Z, sleep)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_INTERVAL = 0.1  # seconds between two looks at the time
_LONGEST_GAP = 1.0  # seconds between them, in a process that is not suspended


class Clock:
    """Seconds, as of ``time.perf_counter``, without those that ``watching`` found to be suspended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: tuple[float, float] | None = None  # time and processor time at the last look
        self._suspended = 0.0

    def now(self) -> float:
        with self._lock:
            at, computed = time.perf_counter(), time.process_time()
            if self._seen is not None:
                gap, busy = at - self._seen[0], computed - self._seen[1]
                if gap > _LONGEST_GAP and busy < gap / 2:  # else one thread kept the others waiting
                    self._suspended += gap
                self._seen = at, computed
            return at - self._suspended

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at the time often enough to notice that the process was suspended."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_INTERVAL):
                self.now()

        thread = threading.Thread(target=watch, daemon=True)
        self._seen, self._suspended = (time.perf_counter(), time.process_time()), 0.0
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._seen, self._suspended = None, 0.0


_CLOCK = Clock()
now, watching = _CLOCK.now, _CLOCK.watching  # all parts of a training read one clock
