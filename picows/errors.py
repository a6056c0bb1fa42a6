"""Every exception of the library.

    WSError                       whatever is specific to WebSocket
      WSInvalidURL                a URL that cannot be a WebSocket's           .url
      WSHandshakeError            the upgrade failed      .raw_header .raw_body .response
        WSInvalidMessageError     what arrived is no HTTP/1.1 message of ours
        WSInvalidStatusError      the answer's status is not 101
        WSInvalidHeaderError      a field is missing, repeated or wrong        .name .value
          WSInvalidUpgradeError   the field is Upgrade or Connection
      WSProtocolError             a violation of RFC 6455 after the upgrade    .code
      WSWriteBufferFullError      the peer reads too slowly        .waiting .size .limit

Failures of the operating system (``ConnectionRefusedError``, ``socket.gaierror``,
``ssl.SSLError``) are never wrapped: they reach the caller as they are.

What always holds here: ``str()`` of each is the message, and each survives ``copy`` and
``pickle`` (process pools send exceptions home that way), because ``args`` are always the
positional arguments of the constructor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from picows.handshake.http11 import WSUpgradeResponse

__all__ = [
    "WSError",
    "WSHandshakeError",
    "WSInvalidHeaderError",
    "WSInvalidMessageError",
    "WSInvalidStatusError",
    "WSInvalidURL",
    "WSInvalidUpgradeError",
    "WSProtocolError",
    "WSWriteBufferFullError",
]


class WSError(Exception):
    """Base of every error that is specific to WebSocket."""


class WSInvalidURL(WSError, ValueError):
    """The URL cannot be a WebSocket's, or a proxy's; the message names the URL and the rule that it
    breaks. It is a ``ValueError`` too, as every parameter out of its range.

    ``url`` is the URL as it was given, password included. Message and ``repr`` hold none.
    """

    url: str

    def __init__(self, url: str, message: str) -> None:
        super().__init__(url, message)
        self.url = url

    def __str__(self) -> str:
        return str(self.args[1])

    def __repr__(self) -> str:
        # The inherited one would print args, and with them the password in the URL.
        return f"{type(self).__name__}({str(self)!r})"


class WSHandshakeError(WSError):
    """The opening handshake failed.

    ``response`` is the peer's answer where its head could be read, else ``None``;
    ``raw_header`` the bytes of that head, or of as much as had arrived; ``raw_body`` the body as
    far as it was read (at most 1 MiB), with a chunked transfer coding already taken off.
    """

    raw_header: bytes | None
    raw_body: bytes | None
    response: WSUpgradeResponse | None

    def __init__(
        self,
        message: str,
        *,
        raw_header: bytes | None = None,
        raw_body: bytes | None = None,
        response: WSUpgradeResponse | None = None,
    ) -> None:
        super().__init__(message)
        self.raw_header = raw_header
        self.raw_body = raw_body
        self.response = response


class WSInvalidMessageError(WSHandshakeError):
    """What arrived is not a well-formed HTTP/1.1 message, or ended inside of one."""


class WSInvalidStatusError(WSHandshakeError):
    """The server answered with a status other than 101; it is ``response.status``."""


class WSInvalidHeaderError(WSHandshakeError):
    """A field of the upgrade is missing (``value`` is ``None``), repeated or wrong."""

    name: str
    value: str | None

    def __init__(
        self,
        name: str,
        value: str | None,
        message: str | None = None,
        *,
        raw_header: bytes | None = None,
        raw_body: bytes | None = None,
        response: WSUpgradeResponse | None = None,
    ) -> None:
        if message is None:
            if value is None:
                message = f"the {name} header is missing"
            else:
                message = f"the {name} header is invalid: {_shortened(value)}"
        super().__init__(message, raw_header=raw_header, raw_body=raw_body, response=response)
        self.args = (name, value, message)
        self.name = name
        self.value = value

    def __str__(self) -> str:
        return str(self.args[2])

    def __repr__(self) -> str:
        # As of WSInvalidURL: a Location may hold a password.
        return f"{type(self).__name__}({str(self)!r})"


class WSInvalidUpgradeError(WSInvalidHeaderError):
    """The field ``Upgrade`` or ``Connection`` does not say that the connection is upgraded."""


class WSProtocolError(WSError):
    """A violation of the protocol on an open connection.

    ``code`` is the close code that tells the peer so. Raised in a user callback, it chooses the
    CLOSE that is sent.
    """

    code: int

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[1])


class WSWriteBufferFullError(WSError):
    """A message was not sent, because the peer reads too slowly and the policy is ``"raise"``.

    ``waiting`` is how many bytes wait for the peer, ``size`` those of the message, ``limit`` is
    ``max_write_buffer``.
    """

    waiting: int
    size: int
    limit: int

    def __init__(self, waiting: int, size: int, limit: int) -> None:
        super().__init__(waiting, size, limit)
        self.waiting = waiting
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"{self.waiting} bytes wait for the peer; {self.size} more would be over"
            f" max_write_buffer of {self.limit}"
        )


def _shortened(value: str) -> str:
    # A peer may send 16 KiB in one field; a log line should not grow by that.
    return repr(value) if len(value) <= 200 else f"{value[:200]!r}..."
