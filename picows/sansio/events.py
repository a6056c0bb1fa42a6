"""What a connection without I/O tells, and is told.

    Request           a client asks for a WebSocket
    AcceptConnection  the server agrees
    RejectConnection  ... or does not
    RejectData        the body of that answer
    Message           a message or a part of one: TextMessage, BytesMessage
    Ping, Pong        (RFC 6455 sections 5.5.2 and 5.5.3)
    CloseConnection   a CLOSE; or, received, why there is none

What always holds: an event does not change once it is made; two are equal when they are of one
class and their fields are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from picows.handshake.extension import Extension

from .frame_events import (
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    TextMessage,
)
from .typing import Headers

__all__ = [
    "AcceptConnection",
    "BytesMessage",
    "CloseConnection",
    "Event",
    "Message",
    "Ping",
    "Pong",
    "RejectConnection",
    "RejectData",
    "Request",
    "TextMessage",
]


@dataclass(frozen=True)
class Request(Event):
    """The request that opens a WebSocket (RFC 6455 section 4.1).

    :param host: the value of the Host header
    :param target: the request target: path and query
    :param extensions: sent: `Extension` objects to offer; received: the offers, as text
    :param extra_headers: further fields. Received, they are all but Host and those of subprotocols
        and extensions
    :param subprotocols: what the client offers, the best first
    """

    host: str
    target: str
    extensions: Sequence[Extension] | Sequence[str] = field(default_factory=list)
    extra_headers: Headers = field(default_factory=list)
    subprotocols: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class AcceptConnection(Event):
    """The answer that makes the connection a WebSocket (RFC 6455 section 4.2.2).

    :param subprotocol: one of those that the client offered, or None
    :param extensions: sent: those that may be agreed on; received: those that were
    :param extra_headers: further fields. Received, they are all but those of the handshake itself
    """

    subprotocol: str | None = None
    extensions: list[Extension] = field(default_factory=list)
    extra_headers: Headers = field(default_factory=list)


@dataclass(frozen=True)
class RejectConnection(Event):
    """Any other answer.

    :param status_code: 200 to 599
    :param headers: its fields. Sent without Content-Length, a body goes in chunks
    :param has_body: does `RejectData` follow? Received: always
    """

    status_code: int = 400
    headers: Headers = field(default_factory=list)
    has_body: bool = False


@dataclass(frozen=True)
class RejectData(Event):
    """A part of the body of a `RejectConnection`.

    :param data: bytes; may be empty
    :param body_finished: is it the last part?
    """

    data: bytes
    body_finished: bool = True
