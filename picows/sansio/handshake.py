"""The opening handshake as a state machine over bytes (RFC 6455 section 4, on HTTP/1.1).

    H11Handshake(connection_type)
      send(Request)                                        client
      send(AcceptConnection), send(RejectConnection), ...  server
      receive_data(bytes), events()
      connection                                           the `Connection`, once there is one

    server_extensions_handshake(), client_extensions_handshake()
                       the same for extensions alone, where HTTP is somebody else's

The name of the class is the one that users know: there is no h11 behind it.

What always holds: bytes behind the handshake are frames, and reach the connection, also those that
come before the request was accepted.
"""

from __future__ import annotations

from collections.abc import Iterator

from picows.handshake.extension import Extension

from .connection import Connection, ConnectionState, ConnectionType, is_client
from .events import AcceptConnection, RejectConnection, RejectData, Request
from .frame_events import Event
from .frame_protocol import DEFAULT_MAX_FRAGMENTS, DEFAULT_MAX_MESSAGE_SIZE
from .negotiation import client_extensions_handshake, server_extensions_handshake
from .sides import ClientSide, ServerSide, Side
from .typing import Headers
from .utilities import LocalProtocolError

__all__ = [
    "WEBSOCKET_UPGRADE",
    "WEBSOCKET_VERSION",
    "H11Handshake",
    "client_extensions_handshake",
    "server_extensions_handshake",
]

WEBSOCKET_VERSION = b"13"
WEBSOCKET_UPGRADE = b"websocket"


class H11Handshake:
    """The opening handshake of one side.

    :param connection_type: `ConnectionType.CLIENT` or `ConnectionType.SERVER`: this side

    The other parameters are those of `Connection`.
    """

    client: bool

    def __init__(
        self,
        connection_type: ConnectionType,
        *,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_inflated_size: int | None = None,
        max_fragments: int = DEFAULT_MAX_FRAGMENTS,
        assemble_messages: bool = False,
    ) -> None:
        self.client = is_client(connection_type)

        def connect(extensions: list[Extension], trailing_data: bytes) -> Connection:
            return Connection(
                connection_type,
                extensions,
                trailing_data,
                max_message_size=max_message_size,
                max_inflated_size=max_inflated_size,
                max_fragments=max_fragments,
                assemble_messages=assemble_messages,
            )

        # Parameters that are wrong are wrong now.
        connect([], b"")
        self._side: Side = ClientSide(connect) if self.client else ServerSide(connect)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(client={self.client}, state={self.state})"

    @property
    def state(self) -> ConnectionState:
        """CONNECTING, OPEN, REJECTING or CLOSED."""
        return self._side.state

    @property
    def connection(self) -> Connection | None:
        """The connection, once the handshake has succeeded."""
        return self._side.connection

    @property
    def trailing_data(self) -> bytes:
        """
        Bytes behind the request, or behind the answer, that have not become the connection's.
        """
        return self._side.trailing_data

    def initiate_upgrade_connection(self, headers: Headers, path: bytes | str) -> None:
        """
        A server's: a request that somebody else has read. `events` tells of it.

        Raises `RemoteProtocolError` where it is no request for a WebSocket, `LocalProtocolError` on
        the client's side, and behind a request.
        """
        self._side.initiate_upgrade_connection(headers, path)

    def send(self, event: Event) -> bytes:
        """
        The bytes of an event, which are to be sent. Raises `LocalProtocolError` for what cannot be
        sent, or not now; TypeError for headers that are no pairs.
        """
        if isinstance(event, Request):
            return self._side.send_request(event)
        if isinstance(event, AcceptConnection):
            return self._side.send_accept(event)
        if isinstance(event, RejectConnection):
            return self._side.send_reject(event)
        if isinstance(event, RejectData):
            return self._side.send_reject_data(event)
        raise LocalProtocolError(f"Event {event} cannot be sent during the handshake")

    def receive_data(self, data: bytes | bytearray | memoryview | None) -> None:
        """
        Bytes have come; None: the stream has ended. `events` tells what they mean.

        Raises `RemoteProtocolError` for what the other side must not send, and for whatever follows
        that; `LocalProtocolError` for bytes behind the end.
        """
        side = self._side
        if side.failure is not None:
            raise side.fail(side.failure)
        if side.ended and data is not None:
            raise LocalProtocolError("bytes behind the end of the stream")
        if side.connection is not None:
            side.connection.receive_data(data)
        elif data is not None:
            side.receive_data(bytes(memoryview(data)))
        elif not side.ended:
            side.ended = True
            side.receive_eof()

    def has_events(self) -> bool:
        """Has it something to tell?"""
        return bool(self._side.events)

    def events(self) -> Iterator[Event]:
        """What the handshake has told since; what comes on its connection is not among it."""
        while self._side.events:
            yield self._side.events.popleft()
