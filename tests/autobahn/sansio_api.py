"""picows.sansio as the Autobahn TestSuite's testee: a protocol of asyncio or uvloop around it.

The program is what a user of `wsproto` writes, but for a limit that the suite goes beyond.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from autobahn.message_api import MOST_FRAGMENTS, ask

from picows.sansio import CLIENT, SERVER, ConnectionState, WSConnection
from picows.sansio.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Request,
    TextMessage,
)
from picows.sansio.extensions import PerMessageDeflate
from picows.sansio.utilities import RemoteProtocolError

__all__ = ["ask", "converse", "serve"]


class Echo(asyncio.Protocol):
    def __init__(self, request: Request | None = None) -> None:
        """A client says what it asks for."""
        self.request = request
        self.connection = WSConnection(
            SERVER if request is None else CLIENT, max_fragments=MOST_FRAGMENTS
        )
        self.pieces: list[Any] = []
        self.over = asyncio.get_running_loop().create_future()
        self.transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self.request is not None:
            transport.write(self.connection.send(self.request))

    def data_received(self, data: bytes) -> None:
        self._receive(data)

    def eof_received(self) -> None:
        self._receive(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set_result(None)

    def _receive(self, data: bytes | None) -> None:
        if self.transport.is_closing():
            return
        try:
            self.connection.receive_data(data)
            for event in self.connection.events():
                self._react(event)
        except RemoteProtocolError as exc:
            if exc.event_hint is not None:
                self.transport.write(self.connection.send(exc.event_hint))
            self.transport.close()
            return

    def _react(self, event: Event) -> None:
        if isinstance(event, Request):
            answer = AcceptConnection(extensions=[PerMessageDeflate(threshold=0)])
            self.transport.write(self.connection.send(answer))
        elif isinstance(event, TextMessage | BytesMessage):
            self.pieces.append(event.data)
            if event.message_finished:
                whole = self.pieces[0][:0].join(self.pieces)
                self.pieces.clear()
                self.transport.write(self.connection.send(Message(data=whole)))
        elif isinstance(event, Ping):
            self.transport.write(self.connection.send(event.response()))
        elif isinstance(event, CloseConnection):
            # A CLOSE of the other side, a violation by it, or the end of the stream.
            if self.connection.state is not ConnectionState.CLOSED:
                self.transport.write(self.connection.send(event.response()))
            self.transport.close()


async def serve() -> tuple[Any, int]:
    """The server, with close() and wait_closed(), and its port."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def converse(url: str) -> None:
    """Connect, and echo until the connection is over."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    request = Request(
        host=parts.netloc,
        target=f"{parts.path}?{parts.query}",
        extensions=[PerMessageDeflate(threshold=0)],
    )
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(lambda: Echo(request), parts.hostname, parts.port)
    await protocol.over
