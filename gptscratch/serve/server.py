"""The process that serves: its socket, its signals, and the end of both."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from gptscratch.errors import ConfigError

_CONNECTIONS = 1024  # open at once; more get status 503


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at this address; port 0: any free one.

    Raises:
        ConfigError: the port is in use, or the address is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as closing:
            # Without the protocol asyncio sets no TCP_NODELAY, and each answer waits 40 ms for an ACK.
            listener = closing.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # who connects before the server is ready waits
            closing.pop_all()
            return listener
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"The address {host}:{port} cannot be used: {reason}.", "Give another --port; 0 takes a free one."
        ) from None


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach the address."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def run(app: Starlette, listener: socket.socket, *, on_stop: Callable[[], None] = lambda: None) -> None:
    """Serve until Ctrl-C, which finishes all requests that have arrived; a second one ends it at once.

    ``on_stop`` is called at the first.
    """

    class Server(uvicorn.Server):
        stops = 0

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            self.stops += 1
            if self.stops == 1:
                on_stop()
            if self.stops == 2:  # what runs gets an error; uvicorn itself would break it off with tracebacks
                app.state.abort()
            else:
                super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        limit_concurrency=_CONNECTIONS,
    )
    with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn once it has ended
        Server(config).run(sockets=[listener])
