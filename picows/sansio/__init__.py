"""WebSocket as a state machine over bytes, for trio, threads, HTTP/2 or any other I/O.

    WSConnection         from the opening handshake on
    Connection           behind a handshake that somebody else made
    events               what both tell and are told
    extensions           permessage-deflate, and extensions of your own
    handshake            the opening handshake alone
    frame_protocol       frames alone

The names are those of wsproto 1.3: a program changes its imports. There is no socket, no clock and
no thread in here; one connection is used by one thread at a time.

What always holds: what the other side sends raises nothing but `RemoteProtocolError`, and that from
`WSConnection.receive_data` alone; once open, it becomes a `CloseConnection` that says with what to
close.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import connection, events, extensions, frame_protocol, handshake, typing, utilities
from .connection import (
    CLIENT,
    SERVER,
    Connection,
    ConnectionState,
    ConnectionType,
)
from .frame_events import Event
from .frame_protocol import DEFAULT_MAX_FRAGMENTS, DEFAULT_MAX_MESSAGE_SIZE
from .handshake import H11Handshake
from .typing import Headers

__all__ = [
    "CLIENT",
    "SERVER",
    "Connection",
    "ConnectionState",
    "ConnectionType",
    "H11Handshake",
    "WSConnection",
    "connection",
    "events",
    "extensions",
    "frame_protocol",
    "handshake",
    "typing",
    "utilities",
]


class WSConnection:
    """A WebSocket over HTTP/1.1, from its first byte on.

    :param connection_type: `ConnectionType.CLIENT` or `ConnectionType.SERVER`: this side

    The other parameters are those of `Connection`.
    """

    client: bool
    handshake: H11Handshake
    connection: Connection | None

    def __init__(
        self,
        connection_type: ConnectionType,
        *,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_inflated_size: int | None = None,
        max_fragments: int = DEFAULT_MAX_FRAGMENTS,
        assemble_messages: bool = False,
    ) -> None:
        self.handshake = H11Handshake(
            connection_type,
            max_message_size=max_message_size,
            max_inflated_size=max_inflated_size,
            max_fragments=max_fragments,
            assemble_messages=assemble_messages,
        )
        self.client = self.handshake.client
        self.connection = None

    @property
    def state(self) -> ConnectionState:
        """`ConnectionState`. It changes when an event is told or sent."""
        return self.handshake.state if self.connection is None else self.connection.state

    @property
    def trailing_data(self) -> bytes:
        """
        Bytes that came behind what was understood: behind a request that is not accepted yet,
        behind a refusal, behind the CLOSE of the other side.
        """
        if self.connection is None:
            return self.handshake.trailing_data
        return self.connection.trailing_data

    def initiate_upgrade_connection(self, headers: Headers, path: bytes | str) -> None:
        """
        A server's: a request that somebody else has read. `events` tells of it.

        :param headers: its fields
        :param path: its request target

        Raises `RemoteProtocolError` where it is no request for a WebSocket, `LocalProtocolError` on
        the client's side, and behind a request.
        """
        self.handshake.initiate_upgrade_connection(headers, path)

    def send(self, event: Event) -> bytes:
        """
        The bytes of an event, which are to be sent. Raises `LocalProtocolError` where the state, or
        a rule on what is sent, does not allow it; TypeError or ValueError for data that no frame
        can hold.
        """
        if self.connection is not None:
            return self.connection.send(event)
        data = self.handshake.send(event)
        self.connection = self.handshake.connection
        return data

    def receive_data(self, data: bytes | bytearray | memoryview | None) -> None:
        """
        Bytes have come; None: the stream has ended. `events` tells what they mean.

        Raises `RemoteProtocolError` for what must not stand in the opening handshake;
        `LocalProtocolError` for bytes once the connection is closed.
        """
        if self.connection is not None:
            self.connection.receive_data(data)
            return
        self.handshake.receive_data(data)
        self.connection = self.handshake.connection

    def events(self) -> Iterator[Event]:
        """
        What was received since. Read it to its end after each `receive_data`: parsing is done here,
        as far as it is read, and the state changes with what it tells.
        """
        if self.connection is not None and not self.handshake.has_events():
            return self.connection.events()
        return self._all_events()

    def _all_events(self) -> Iterator[Event]:
        yield from self.handshake.events()
        if self.connection is not None:
            yield from self.connection.events()
