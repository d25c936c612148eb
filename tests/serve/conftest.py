"""A real server in a thread, on a free port of this machine."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gptscratch.generation.generator import Generator

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

import uvicorn  # noqa: E402

from gptscratch.serve.app import make_app  # noqa: E402
from gptscratch.serve.models import Limits  # noqa: E402
from gptscratch.serve.server import listen  # noqa: E402

Serve = Callable[..., "contextlib.AbstractContextManager[httpx.Client]"]


@contextlib.contextmanager
def serving(*generators: Generator, limits: dict[str, int] | None = None, **options: Any) -> Iterator[Any]:
    """An HTTP client of a server with these models, named by their runs."""
    named = {generator.run.name: generator for generator in generators}
    app = make_app(named, limits=Limits(**limits or {}), **options)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx.Client(base_url=address, timeout=20, trust_env=False) as client:
        try:
            yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def serve() -> Serve:
    return serving
