"""The errors of a connection without I/O, and small helpers of the opening handshake.

What always holds: a `LocalProtocolError` has changed nothing, so the program may go on; after a
`RemoteProtocolError` the connection is beyond repair.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from picows.errors import WSError
from picows.handshake.negotiate import accept_key, new_key

if TYPE_CHECKING:
    from .frame_events import Event
    from .typing import Headers

__all__ = [
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "generate_accept_token",
    "generate_nonce",
    "normed_header_dict",
    "split_comma_header",
]

# A member of a list, in which commas inside quotes separate nothing (RFC 9110 section 5.6.1).
_MEMBER = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)*', re.DOTALL)


class ProtocolError(WSError):
    """Base of both."""


class LocalProtocolError(ProtocolError):
    """This program asked for something that the protocol does not allow, or not now."""


class RemoteProtocolError(ProtocolError):
    """The other side breaks the rules of the opening handshake.

    ``event_hint`` is the event that tells it so, to be sent by whoever can: a `RejectConnection`.
    """

    event_hint: Event | None

    def __init__(self, message: str, event_hint: Event | None = None) -> None:
        super().__init__(message)
        self.event_hint = event_hint


def normed_header_dict(h11_headers: Headers) -> dict[bytes, bytes]:
    """Fields by name; the values of a repeated one are joined by commas, as they came."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in h11_headers:
        values.setdefault(name, []).append(value)
    return {name: b", ".join(several) for name, several in values.items()}


def split_comma_header(value: bytes) -> list[str]:
    """
    The members of a comma-separated list, without the white space around them.

    Raises UnicodeDecodeError for what is not ASCII.
    """
    text = value.decode("ascii")
    members = []
    at = 0
    while at <= len(text):
        member = _MEMBER.match(text, at)
        assert member is not None  # it matches nothing as well
        members.append(member.group().strip())
        at = member.end() + 1
    return members


def generate_nonce() -> bytes:
    """A ``Sec-WebSocket-Key``: 16 random bytes in base64 (RFC 6455 section 4.1)."""
    return new_key().encode("ascii")


def generate_accept_token(token: bytes) -> bytes:
    """The ``Sec-WebSocket-Accept`` that answers a key (RFC 6455 section 4.2.2)."""
    return accept_key(token.decode("ascii")).encode("ascii")
