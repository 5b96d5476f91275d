"""Connections that end when their client only half speaks, or does not listen."""

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds in which the headers of a request have to be complete, from its first byte or the connection's beginning.
HEADER_SECONDS = 10.0
# Seconds that a client may leave what was written to it unread.
UNREAD_SECONDS = 60.0
# Connections at once; what comes beyond them is closed.
MAX_CONNECTIONS = 512


class Timer:
    """Calls a function once, so many seconds after it was started, unless it is stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, function: Callable[[], None]) -> None:
        self._loop, self._seconds, self._function = loop, seconds, function
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From now, unless it runs already."""
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._function)

    def stop(self) -> None:
        """Forget about it."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class BoundedConnection(H11Protocol):
    """uvicorn's HTTP/1.1, with bounds on the time that clients take and on their number.

    Bodies have their own bound in the guard, which can answer.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._headers = Timer(self.loop, HEADER_SECONDS, self._close)
        # Closing would wait until the client has read the rest.
        self._unread = Timer(self.loop, UNREAD_SECONDS, lambda: self.transport.abort())

    def connection_made(self, transport: Any) -> None:
        """As uvicorn's; one too many is closed at once."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self.transport.abort()
            return
        self._headers.start()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        self._headers.stop()
        self._unread.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As uvicorn's; bytes that begin another request have to be followed by the rest of its headers."""
        super().data_received(data)
        # Its answer was written, and the rest of its body is still coming; nobody reads that.
        refused = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if self.conn.their_state is h11.IDLE or refused:
            self._headers.start()
        else:
            self._headers.stop()

    def pause_writing(self) -> None:
        """As uvicorn's: the client has not read what is there for it."""
        super().pause_writing()
        self._unread.start()

    def resume_writing(self) -> None:
        """As uvicorn's: it has read on."""
        self._unread.stop()
        super().resume_writing()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
