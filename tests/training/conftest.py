"""Runs that are interrupted."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from gptscratch.training import callbacks, loop
from gptscratch.training.context import TrainContext

Stopping = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Stopping:
    """``with stopping(5, 8):`` runs are interrupted after these steps, as by Ctrl-C."""

    @contextmanager
    def at(*steps: int) -> Iterator[None]:
        def interrupt(context: TrainContext) -> None:
            if context.state.step in steps:
                signal.raise_signal(signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "CALLBACKS", (interrupt, *callbacks.CALLBACKS))
            yield

    return at
