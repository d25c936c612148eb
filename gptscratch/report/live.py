"""A report that is served on this machine and updated while its runs train.

It answers two addresses: ``/``, the page, and ``/plotly.js``. No file is found by an address.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import time
from collections.abc import Sequence
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptscratch.errors import RunError, UserError
from gptscratch.report.metrics_file import MetricsFile
from gptscratch.report.page import plotly_script, render_page
from gptscratch.report.record import read_report

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"
_READ = ("metrics.jsonl", "samples.jsonl", "config.json", "best.json", "last.json")
_GRACE = 5.0  # seconds: a reader who was here so recently still gets the last version


class LivePage:
    """The server; ``with LivePage(runs) as page`` runs it in a thread, at ``page.url``."""

    def __init__(self, runs: Sequence[Path], *, port: int = 0) -> None:
        """Args: port: 0: any that is free.

        Raises:
            UserError: the port is taken, a run is damaged, or plotly is not installed.
        """
        self._runs = list(runs)
        self._metrics = [MetricsFile(run / "metrics.jsonl") for run in runs]
        self._rendered: tuple[str, bytes] = ("", b"")
        self._lock = threading.Lock()
        self._asked_at = 0.0
        plotly_script()
        self.page()
        try:
            self._server = _server(self, port)
        except OSError as error:
            raise RunError(
                f"Port {port} cannot be used: {error.strerror}.", "Choose another one with --port."
            ) from None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/"

    @property
    def port(self) -> int:
        return self._server.server_port

    def page(self) -> tuple[str, bytes]:
        """(its version, the page); it is rendered again where a file changed."""
        version = self._version()
        with self._lock:
            if self._rendered[0] != version:
                reports = map(read_report, self._runs, self._metrics)
                html = render_page(list(reports), live=True)
                self._rendered = version, html.encode(errors="backslashreplace")
            self._asked_at = time.monotonic()
            return self._rendered

    def serve(self) -> None:
        """Answer until ``close`` is called in another thread."""
        self._server.serve_forever(poll_interval=0.1)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop; a reader who was here a moment ago first gets the newest version."""
        if time.monotonic() - self._asked_at < _GRACE and self._rendered[0] != self._version():
            until = time.monotonic() + _GRACE
            while self._rendered[0] != self._version() and time.monotonic() < until:
                time.sleep(0.1)
        self._server.shutdown()
        self._server.server_close()

    def _version(self) -> str:
        """A name for the content of the files."""
        states = []
        for file in (run / name for run in self._runs for name in _READ):
            try:
                found = file.stat()
                states.append((str(file), found.st_mtime_ns, found.st_size))
            except OSError:
                states.append((str(file), 0, 0))
        return hashlib.blake2b(repr(states).encode(), digest_size=8).hexdigest()


@cache
def _packed_plotly() -> bytes:
    return gzip.compress(plotly_script().encode())


def _server(live: LivePage, port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30  # seconds without a request, after which a connection is closed

        def do_GET(self) -> None:
            own = live.port
            if self.headers.get("Host") not in (f"{HOST}:{own}", f"localhost:{own}"):
                self._answer(403, b"This address is not served.\n")  # another site that points here
            elif self.path == "/plotly.js":
                self._answer(200, _packed_plotly(), type="text/javascript", encoding="gzip", age=86400)
            elif self.path == "/":
                try:
                    version, page = live.page()
                except UserError as error:
                    self._answer(503, f"{error}\n".encode())
                    return
                if self.headers.get("If-None-Match") == f'"{version}"':
                    self._answer(304, b"", version=version)
                else:
                    self._answer(200, page, type="text/html", version=version)
            else:
                self._answer(404, b"There is nothing at this address.\n")

        def do_HEAD(self) -> None:
            self.do_GET()

        def _answer(
            self, code: int, body: bytes, *, type: str = "text/plain", encoding: str = "", version: str = "",
            age: int = 0,
        ) -> None:  # fmt: skip
            self.send_response(code)
            self.send_header("Content-Type", f"{type}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", f"max-age={age}" if age else "no-cache")
            self.send_header("X-Content-Type-Options", "nosniff")
            if encoding:
                self.send_header("Content-Encoding", encoding)
            if version:
                self.send_header("ETag", f'"{version}"')
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Requests are not reported."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = os.name != "nt"  # on Windows, two reports could share a port

        def handle_error(self, *_: Any) -> None:
            """A reader has gone."""

    return Server((HOST, port), Handler)
