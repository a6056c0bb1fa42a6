"""A WebSocket after its opening handshake, as a state machine over bytes.

    Connection(connection_type, extensions)
      receive_data(bytes)    what has come; None: the stream has ended
      events()               what that means
      send(event)            the bytes that say it
      state                  what may be sent

What always holds: nothing is answered by itself. Who gets a `Ping` or a `CloseConnection` sends its
``response()``; and after a `CloseConnection` for what the other side must not send, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum

from picows.handshake.extension import Extension

from .frame_events import Event
from .frame_protocol import DEFAULT_MAX_FRAGMENTS, DEFAULT_MAX_MESSAGE_SIZE, FrameProtocol
from .machine import Machine

__all__ = ["CLIENT", "SERVER", "Connection", "ConnectionState", "ConnectionType"]


class ConnectionState(Enum):
    """Where a connection stands (RFC 6455 sections 4 and 7)."""

    #: The opening handshake is under way.
    CONNECTING = 0
    #: Everything may be sent.
    OPEN = 1
    #: A CLOSE has come; the answer may be sent, and nothing else.
    REMOTE_CLOSING = 2
    #: A CLOSE was sent; the answer has not come.
    LOCAL_CLOSING = 3
    #: It is over.
    CLOSED = 4
    #: The opening handshake was answered with a refusal, of which the body is under way.
    REJECTING = 5


class ConnectionType(Enum):
    """Whose side this is."""

    CLIENT = 1
    SERVER = 2


CLIENT = ConnectionType.CLIENT
SERVER = ConnectionType.SERVER

_STATES = tuple(ConnectionState)


class Connection:
    """A WebSocket of which somebody else made the opening handshake, for instance over HTTP/2.

    :param connection_type: `ConnectionType.CLIENT` or `ConnectionType.SERVER`: this side
    :param extensions: those that are not enabled are left out
    :param trailing_data: bytes that came behind the handshake
    :param max_message_size: bytes; a message of more is answered by a `CloseConnection` (1009)
    :param max_inflated_size: bytes; the same for what was compressed. None: as the
        `PerMessageDeflate` says, as also where it stands beside extensions of your own
    :param max_fragments: frames; the same for the frames of one message
    :param assemble_messages: one event for each message, instead of one for whatever arrives of it

    Raises TypeError for parameters of other types, ValueError for sizes below 1.
    """

    client: bool

    def __init__(
        self,
        connection_type: ConnectionType,
        extensions: Sequence[Extension] | None = None,
        trailing_data: bytes = b"",
        *,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_inflated_size: int | None = None,
        max_fragments: int = DEFAULT_MAX_FRAGMENTS,
        assemble_messages: bool = False,
    ) -> None:
        self.client = is_client(connection_type)
        frames = FrameProtocol(
            self.client,
            extensions,
            max_message_size=max_message_size,
            max_inflated_size=max_inflated_size,
            max_fragments=max_fragments,
            assemble_messages=assemble_messages,
        )
        self._machine = Machine(frames._inbound, frames._outbound)
        if trailing_data:
            self._machine.receive_data(trailing_data)

    @property
    def state(self) -> ConnectionState:
        """`ConnectionState`. It changes when an event is told or sent."""
        return _STATES[self._machine.state]

    @property
    def trailing_data(self) -> bytes:
        """Bytes that came together with the CLOSE of the other side, behind it."""
        return self._machine.trailing_data

    def send(self, event: Event) -> bytes:
        """
        The bytes of an event, which are to be sent. Raises `LocalProtocolError` where the state, or
        a rule on close codes, does not allow it; TypeError or ValueError for data that no frame can
        hold.
        """
        return self._machine.send(event)

    def receive_data(self, data: bytes | bytearray | memoryview | None) -> None:
        """
        Bytes have come; None: the stream has ended. `events` tells what they mean.

        Raises `LocalProtocolError` for bytes once the connection is closed.
        """
        self._machine.receive_data(data)

    # The guide to this API once called it so.
    receive_bytes = receive_data

    def events(self) -> Iterator[Event]:
        """
        What was received since. Read it to its end after each `receive_data`: parsing is done here,
        as far as it is read, and the state changes with what it tells.
        """
        return self._machine


def is_client(connection_type: ConnectionType) -> bool:
    """Whose side it is. Raises TypeError for anything but a `ConnectionType`."""
    # Not every caller has a type checker.
    given: object = connection_type
    if not isinstance(given, ConnectionType):
        raise TypeError(
            "connection_type must be ConnectionType.CLIENT or ConnectionType.SERVER, and comes"
            f" first; this is {given!r}"
        )
    return given is CLIENT
