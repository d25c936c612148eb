"""The socket of the server."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from gptscratch.serve.server import is_loopback, listen


def test_a_socket_names_its_protocol_so_that_asyncio_sends_without_delay() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_client_that_connects_before_the_server_is_ready_waits() -> None:
    with listen("localhost", 0) as listener, socket.create_connection(listener.getsockname()[:2]) as client:
        assert client.getpeername() == listener.getsockname()


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("192.168.1.5", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_addresses_that_other_machines_can_reach_are_known(host: str, local: bool) -> None:
    assert is_loopback(host) is local
