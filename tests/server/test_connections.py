"""Clients that send half of their headers, or do not read: their connections end, and nobody else notices."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("uvicorn", reason="needs the server extra")

import h11
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from mlx_qwen35 import ModelKit
from mlx_qwen35.server import connections
from mlx_qwen35.server.connections import BoundedConnection, Timer
from tests.server.clients import LONG, eventually, raw
from tests.server.conftest import Running, serving


@pytest.fixture(scope="module")
def impatient(box: ModelKit) -> Iterator[Running]:
    """A server that waits for headers, and for readers, a moment only."""
    made = BoundedConnection.connection_made

    def with_little_room(connection: BoundedConnection, transport: asyncio.Transport) -> None:
        # Else the system takes megabytes of an answer that nobody reads; connections that are only pretended have none.
        if (own := transport.get_extra_info("socket")) is not None:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(connection, transport)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BoundedConnection, "connection_made", with_little_room)
        patch.setattr(connections, "HEADER_SECONDS", 0.5)
        patch.setattr(connections, "UNREAD_SECONDS", 0.5)
        patch.setattr(connections, "MAX_CONNECTIONS", 40)
        with serving(box) as running:
            yield running


def connect(running: Running) -> socket.socket:
    host, port = urlsplit(running.url).netloc.split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def ends(client: socket.socket) -> bool:
    """Whether the server closes the connection; what it still says is skipped."""
    with suppress(ConnectionError):
        while client.recv(2**16):
            pass
    return True


@pytest.mark.parametrize("beginning", [b"", b"GET", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: "])
def test_half_sent_headers_are_not_waited_for(impatient: Running, beginning: bytes) -> None:
    with connect(impatient) as client:
        client.sendall(beginning)
        began = time.monotonic()
        assert ends(client)
        assert time.monotonic() - began < 30


def test_a_second_request_that_is_half_sent_is_not_waited_for(impatient: Running) -> None:
    """Bytes now and then do not help: the time counts from the first one."""
    with connect(impatient) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(2**16).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /health HTTP/1.1\r\n")
        began = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - began < 30:
                client.sendall(b"X-A: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() - began < 30


def test_a_connection_with_a_request_stays(impatient: Running) -> None:
    """As long as the answer takes, and a moment for the next request."""
    connection = HTTPConnection(urlsplit(impatient.url).netloc, timeout=60)
    connection.connect()
    own = connection.sock
    for _ in range(3):
        connection.request("GET", "/health")
        assert json.loads(connection.getresponse().read())["status"] == "ok"
        assert connection.sock is own
        time.sleep(0.3)
    connection.close()


def test_too_many_connections_are_closed(impatient: Running) -> None:
    with ExitStack() as stack:
        for _ in range(60):
            client = stack.enter_context(connect(impatient))
            client.setblocking(True)
        assert ends(client)
    eventually(lambda: raw(impatient.url, "/health")[0] == 200)


@pytest.mark.thorough
def test_a_client_that_never_reads_is_left(impatient: Running, box: ModelKit) -> None:
    """Its answer is cancelled, and what waited for it is forgotten."""
    body = json.dumps({**LONG, "n": 8, "logprobs": True, "top_logprobs": 20}).encode()
    with connect(impatient) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        eventually(lambda: impatient.engine.running > 0)
        eventually(lambda: impatient.engine.running == 0)
    assert raw(impatient.url, "/health")[0] == 200


def test_a_timer_calls_once_unless_it_is_stopped() -> None:
    async def run() -> list[str]:
        called: list[str] = []
        loop = asyncio.get_running_loop()
        due, stopped = (Timer(loop, 0.01, lambda name=name: called.append(name)) for name in ("due", "stopped"))  # type: ignore[misc]
        due.start()
        due.start()
        stopped.start()
        stopped.stop()
        await asyncio.sleep(0.1)
        return called

    assert asyncio.run(run()) == ["due"]


class Pretended:
    """A transport; what is done with it is remembered."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def get_extra_info(self, name: str) -> None:
        return None

    def is_closing(self) -> bool:
        return bool(self.done)

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")


async def never_asked(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("it has no request")


def connected(others: int = 0) -> tuple[BoundedConnection, Pretended]:
    """A connection that has just been made, beside so many others; only in an event loop."""
    state = ServerState()
    state.connections = {object() for _ in range(others)}  # type: ignore[misc]
    config = uvicorn.Config(never_asked, ws="none", log_config=None)
    connection = BoundedConnection(config, state, {}, asyncio.get_running_loop())
    transport = Pretended()
    connection.connection_made(transport)
    return connection, transport


def runs(timer: Timer) -> bool:
    return timer._handle is not None


def test_one_connection_too_many_is_closed_and_the_one_before_it_is_not() -> None:
    async def run() -> None:
        connection, transport = connected(connections.MAX_CONNECTIONS - 1)
        assert (transport.done, runs(connection._headers)) == ([], True)
        connection.connection_lost(None)
        connection, transport = connected(connections.MAX_CONNECTIONS)
        assert (transport.done, runs(connection._headers)) == (["abort"], False)

    asyncio.run(run())


def test_nothing_is_kept_for_a_connection_that_has_ended() -> None:
    """A timer would keep it, and end it once more."""

    async def run() -> None:
        connection, _ = connected()
        connection.pause_writing()
        assert runs(connection._headers)
        assert runs(connection._unread)
        connection.connection_lost(None)
        assert not runs(connection._headers)
        assert not runs(connection._unread)

    asyncio.run(run())


def test_who_reads_on_in_time_stays_and_who_does_not_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing would wait for that; each time that nothing is read counts from its own beginning."""
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.0)

    async def run() -> None:
        connection, transport = connected()
        for _ in range(2):
            connection.pause_writing()
            connection.resume_writing()
            await asyncio.sleep(0.005)
        assert transport.done == []
        connection.pause_writing()
        await asyncio.sleep(0.005)
        assert transport.done == ["abort"]
        connection.connection_lost(None)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("our", "their", "waits"),
    [
        (h11.IDLE, h11.IDLE, True),
        # Refused: its answer was written before the body had come.
        (h11.DONE, h11.SEND_BODY, True),
        (h11.SEND_RESPONSE, h11.SEND_BODY, False),
        (h11.SEND_BODY, h11.DONE, False),
    ],
)
def test_the_time_for_headers_counts_while_nobody_else_watches(
    monkeypatch: pytest.MonkeyPatch, our: Any, their: Any, waits: bool
) -> None:
    """The guard watches bodies, and the engine answers."""
    monkeypatch.setattr(H11Protocol, "data_received", lambda self, data: None)

    async def run() -> None:
        connection, _ = connected()
        connection.conn = SimpleNamespace(our_state=our, their_state=their)  # type: ignore[assignment]
        for before in (connection._headers.start, connection._headers.stop):
            before()
            connection.data_received(b"x")
            assert runs(connection._headers) is waits
        connection._headers.stop()

    asyncio.run(run())
