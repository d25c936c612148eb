"""Steps whose loss is far above the usual one."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

_RECENT = 100  # steps that show which losses are usual
_FEWEST = 50  # of them; and after a spike as many must be usual, until another one is reported
_REFRESH = 10  # steps between two looks at them: each takes about 30 microseconds
_SPREADS = 8.0  # above the median; a spread is 1.5 times the median deviation from it
_SHARE = 0.25  # of the median above it, too: losses that hardly vary have small spreads


class Spikes:
    """Watches the losses of a run's steps, in order."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._steps, self._quiet = 0, _FEWEST
        self._usual, self._limit = math.nan, math.inf

    def usual_if_above(self, loss: float) -> float | None:
        """Take note of a loss; the usual one if this one is far above it and the losses before were not."""
        if not math.isfinite(loss):
            return None
        is_high = loss > self._limit
        found = self._usual if is_high and self._quiet >= _FEWEST else None
        self._quiet = 0 if is_high else self._quiet + 1
        self._recent.append(loss)
        self._steps += 1
        if self._steps >= _FEWEST and self._steps % _REFRESH == 0:
            self._usual = median(self._recent)
            spread = 1.4826 * median(abs(recent - self._usual) for recent in self._recent)
            self._limit = self._usual + max(_SPREADS * spread, _SHARE * self._usual)
        return found
