"""HTTP/1.1 as far as an opening handshake needs it: two messages, their heads, a bounded body.

Strategy: a head is collected until its blank line and then checked whole, in a few passes that
each run in C. Whatever RFC 9112 lets a recipient tolerate (bare LF, folded lines, white space
before a colon, bytes beyond ASCII) is refused, since whatever is in front of us may read it
differently: that is how requests are smuggled.

What always holds: no byte is looked at more often than a fixed number of times, however small the
pieces are in which it arrives; nothing grows beyond ``MAX_HEAD`` and ``MAX_BODY``; and peers'
bytes raise ``MalformedMessage``, never anything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from multidict import CIMultiDict, istr

from picows.urls import redacted_target

from .headers import (
    OWNED_BY_HANDSHAKE,
    TOKEN,
    ExtraHeaders,
    encode_fields,
    normalise_extra_headers,
    redacted_fields,
)
from .names import CONTENT_LENGTH

__all__ = [
    "MAX_BODY",
    "MAX_FIELDS",
    "MAX_HEAD",
    "BodyReader",
    "HeadReader",
    "MalformedMessage",
    "WSUpgradeRequest",
    "WSUpgradeResponse",
    "WSUpgradeResponseWithListener",
    "as_status",
    "body_reader",
    "content_length",
    "encode_request",
    "parse_head",
]

MAX_HEAD = 16 * 1024  # bytes, blank line included
MAX_FIELDS = 128
MAX_BODY = 1024 * 1024  # bytes, after decoding

# A chunk may carry one byte and cost six, or hundreds with an extension; a body is given up when
# it has cost this much.
_MAX_RAW_BODY = 8 * MAX_BODY
_MAX_CHUNK_LINE = 1024
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")

# A field behind the end of the line above it. RFC 9112 section 5.1: its name is a token right ahead
# of the colon; the white space that folds a line (section 5.2) is in no token.
_FIELD = re.compile(rf"\r\n({TOKEN.pattern}):[ \t]*([^\r]*)")

# RFC 9112 section 2.2 wants visible ASCII, space and tab between the line ends.
_HEAD_BYTES = bytes([0x09, 0x0A, 0x0D, *range(0x20, 0x7F)])

# More digits than any length that could be meant; int() itself refuses beyond 4300.
_LENGTH = re.compile(r"[0-9]{1,18}")

_VERSION = b"HTTP/1.1"

# What nearly every opening handshake holds: a connection keeps its request, and names of its own
# would be a quarter of what it takes while it is idle.
_SHARED_NAMES = {
    name: istr(name)
    for name in (
        "Accept-Encoding",
        "Accept-Language",
        "Cache-Control",
        "Connection",
        "Cookie",
        "Date",
        "Host",
        "Origin",
        "Pragma",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Version",
        "Server",
        "Upgrade",
        "User-Agent",
    )
}

# The enum's own look-up takes several times as long.
_STATUSES = {int(status): status for status in HTTPStatus}

# Framing is the library's: these come out of the body that is really sent.
_FRAMING = frozenset({"transfer-encoding"})


class MalformedMessage(Exception):
    """The peer's bytes are no message that is accepted here.

    ``status`` is what a server answers. The text holds nothing that the peer sent.
    """

    def __init__(self, reason: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(reason)
        self.status = status


# --- The two messages -----------------------------------------------------------------------


@dataclass(eq=False)
class WSUpgradeRequest:
    """The request that opens a WebSocket.

    method   b"GET", or b"HEAD" on a server
    path     the request target, path and query: b"/feed?depth=5"
    version  b"HTTP/1.1"
    headers  every field, in order; names compare without case
    """

    method: bytes
    path: bytes
    version: bytes
    headers: CIMultiDict[str]

    def __repr__(self) -> str:
        path = redacted_target(self.path.decode("latin-1")).encode("latin-1")
        return (
            f"{type(self).__name__}({self.method!r}, {path!r}, {self.version!r},"
            f" {redacted_fields(self.headers)})"
        )


@dataclass(eq=False)
class WSUpgradeResponse:
    """The answer to it.

    version  b"HTTP/1.1"
    status   an ``HTTPStatus``, or an ``int`` where the enum has no such member
    headers  every field, in order; names compare without case
    body     None where there is none, and for a 101

    A server sends ``Content-Length`` and ``Connection: close`` with every status but 101; fields
    of these names need not be given and are replaced.
    """

    version: bytes
    status: HTTPStatus | int
    headers: CIMultiDict[str]
    body: bytes | None = None

    @staticmethod
    def create_ok_response(
        body: bytes | bytearray | memoryview | None = None,
        extra_headers: ExtraHeaders | None = None,
    ) -> WSUpgradeResponse:
        """A 200, for instance as the answer to a health check.

        Raises ``TypeError`` for a body that is not bytes-like, ``TypeError`` or ``ValueError`` for
        ``extra_headers`` that cannot be sent.
        """
        return _make_response(HTTPStatus.OK, body, extra_headers)

    @staticmethod
    def create_error_response(
        status: HTTPStatus | int,
        body: bytes | bytearray | memoryview | None = None,
        extra_headers: ExtraHeaders | None = None,
    ) -> WSUpgradeResponse:
        """A refusal with a status from 400 to 599 (``ValueError`` for any other)."""
        if not 400 <= status <= 599:
            raise ValueError(f"an error status is 400 to 599, not {int(status)}")
        return _make_response(status, body, extra_headers)

    @staticmethod
    def create_redirect_response(
        status: HTTPStatus | int,
        location: str,
        extra_headers: ExtraHeaders | None = None,
    ) -> WSUpgradeResponse:
        """A redirect with a status from 300 to 399 (``ValueError`` for any other).

        ``location`` is a URL in ASCII; it goes into the field of that name.
        """
        if not 300 <= status <= 399:
            raise ValueError(f"a redirect's status is 300 to 399, not {int(status)}")
        if not isinstance(location, str):
            raise TypeError(f"location must be str, not {type(location).__name__}")
        response = _make_response(status, None, extra_headers)
        if "Location" in response.headers:
            raise ValueError("extra_headers holds a second Location")
        for field in normalise_extra_headers([("Location", location)]):
            response.headers.add(*field)
        return response

    @staticmethod
    def create_101_response(extra_headers: ExtraHeaders | None = None) -> WSUpgradeResponse:
        """The answer that upgrades, for ``Sec-WebSocket-Protocol``, cookies and the like.

        ``Sec-WebSocket-Accept`` is added by the server when it is sent. Names that belong to the
        handshake are refused in ``extra_headers`` (``ValueError``).
        """
        fields = normalise_extra_headers(extra_headers, OWNED_BY_HANDSHAKE)
        headers = CIMultiDict([("Upgrade", "websocket"), ("Connection", "Upgrade"), *fields])
        return WSUpgradeResponse(_VERSION, HTTPStatus.SWITCHING_PROTOCOLS, headers)

    def __repr__(self) -> str:
        size = None if self.body is None else len(self.body)
        return (
            f"{type(self).__name__}({self.version!r}, {int(self.status)},"
            f" {redacted_fields(self.headers)}, body size {size})"
        )


class WSUpgradeResponseWithListener:
    """What a listener factory returns when the response is not the plain 101.

    A 101 needs a listener; any other status ends the connection, so there must be none
    (``ValueError``).
    """

    response: WSUpgradeResponse
    listener: object | None

    def __init__(self, response: WSUpgradeResponse, listener: object | None) -> None:
        if not isinstance(response, WSUpgradeResponse):
            raise TypeError(f"response must be a WSUpgradeResponse, not {type(response).__name__}")
        if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
            if listener is None:
                raise ValueError("a 101 response needs a listener")
        elif listener is not None:
            raise ValueError(f"a {int(response.status)} response must have no listener")
        self.response = response
        self.listener = listener


def as_status(code: int) -> HTTPStatus | int:
    """The enum's member, or the number where there is none (599)."""
    return _STATUSES.get(code) or int(code)


def _make_response(
    status: HTTPStatus | int,
    body: bytes | bytearray | memoryview | None,
    extra_headers: ExtraHeaders | None,
) -> WSUpgradeResponse:
    if body is not None and not isinstance(body, (bytes, bytearray, memoryview)):
        raise TypeError(f"a body must be bytes-like or None, not {type(body).__name__}")
    headers = CIMultiDict(normalise_extra_headers(extra_headers, _FRAMING))
    return WSUpgradeResponse(
        _VERSION, as_status(status), headers, None if body is None else bytes(body)
    )


# --- The head -------------------------------------------------------------------------------


class HeadReader:
    """Collects bytes until the blank line that ends a head.

    ``may_begin`` is asked whether a message may begin with these bytes, ever more of them.
    ``buffer`` holds what arrived and was not handed out: during the head its beginning, after it
    the bytes behind it.
    """

    __slots__ = ("_may_begin", "_searched", "buffer")

    buffer: bytearray

    def __init__(self, may_begin: Callable[[bytearray], bool] = lambda _: True) -> None:
        self.buffer = bytearray()
        self._may_begin = may_begin
        self._searched = 0  # how much of the buffer holds no end of a head

    def feed(self, data: bytes) -> bytes | None:
        """The head with its blank line as soon as it is complete, else ``None``.

        Feeding nothing looks whether a further head is complete in ``buffer``.
        """
        buffer = self.buffer
        # The blank line may have begun up to three bytes ago.
        start = max(0, self._searched - 3)
        buffer += data
        # An SSH banner or a TLS record has no blank line: said now, not at the deadline.
        if not self._may_begin(buffer):
            raise MalformedMessage("it does not begin like an HTTP/1 message")
        end = buffer.find(b"\r\n\r\n", start, MAX_HEAD)
        if end < 0:
            # A peer that ends its lines with LF alone would wait for ever for an answer.
            _check_line_ends(buffer, start, min(len(buffer), MAX_HEAD))
            if len(buffer) >= MAX_HEAD:
                raise MalformedMessage(
                    "the head is longer than 16 KiB", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                )
            self._searched = len(buffer)
            return None
        end += 4
        self._searched = 0
        head = bytes(buffer[:end])
        del buffer[:end]
        return head


def _check_line_ends(buffer: bytearray, start: int, end: int) -> None:
    at = buffer.find(b"\n", start, end)
    while at >= 0:
        if at == 0 or buffer[at - 1] != 0x0D:
            raise MalformedMessage("a line ends with LF alone")
        at = buffer.find(b"\n", at + 1, end)


def parse_head(head: bytes) -> tuple[str, CIMultiDict[str]]:
    """The start line, as it is, and the fields of a complete head."""
    # RFC 9112 section 2.2: "a bare CR ... MUST consider that element to be invalid"; a bare LF
    # may be taken for a line end, which is what makes two recipients disagree.
    line_ends = head.count(b"\r\n")
    if head.count(b"\n") != line_ends:
        raise MalformedMessage("a line ends with LF alone")
    if head.count(b"\r") != line_ends:
        raise MalformedMessage("there is a CR that ends no line")
    if head.translate(None, _HEAD_BYTES):
        raise MalformedMessage("the head holds a control character or bytes beyond ASCII")
    # Those of the start line and the blank line are no field's.
    number = line_ends - 2
    if number > MAX_FIELDS:
        raise MalformedMessage(
            "there are more than 128 header fields", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        )
    text = head.decode("ascii")
    fields = _FIELD.findall(text)
    if len(fields) != number:
        if any(line.find(":") < 1 for line in text.split("\r\n")[1:-2]):
            raise MalformedMessage("a header line is no name and value")
        raise MalformedMessage("a header's name is no token, or its line is folded")
    shared = _SHARED_NAMES.get
    return text[: text.index("\r\n")], CIMultiDict(
        [(shared(name, name), value.rstrip(" \t")) for name, value in fields]
    )


def content_length(headers: CIMultiDict[str]) -> int | None:
    """The value of ``Content-Length``, ``None`` where there is none.

    RFC 9110 section 8.6 is ``1*DIGIT``. RFC 9112 section 6.3 lets a recipient accept a list of
    equal numbers; here more than one is one too many.
    """
    values = headers.getall(CONTENT_LENGTH, ())
    if not values:
        return None
    # No int() on what is not ASCII digits: it takes "+0", "0_0" and " 0".
    if len(values) > 1 or not _LENGTH.fullmatch(values[0]):
        raise MalformedMessage("Content-Length is repeated or no number")
    return int(values[0])


# --- The body of a refusal, client side -----------------------------------------------------


class BodyReader:
    """Reads a body that ends with the stream, or after ``remaining`` bytes.

    ``body`` is what was read so far, at most ``MAX_BODY``.
    """

    __slots__ = ("body", "remaining")

    body: bytearray
    remaining: int | None

    def __init__(self, remaining: int | None) -> None:
        self.body = bytearray()
        self.remaining = remaining

    def feed(self, data: bytes | bytearray) -> bool:
        """Whether the body is complete, or as long as it is read at most."""
        room = MAX_BODY - len(self.body)
        if self.remaining is not None:
            room = min(room, self.remaining)
        piece = data[:room]
        self.body += piece
        if self.remaining is not None:
            self.remaining -= len(piece)
        return self.remaining == 0 or len(self.body) >= MAX_BODY


class ChunkedBodyReader(BodyReader):
    """Reads a body in the chunked transfer coding (RFC 9112 section 7.1).

    Trailers are not awaited: the connection is closed after the body anyway. ``remaining`` is what
    is left of the current chunk; between two chunks it is 0.
    """

    __slots__ = ("_inside", "_line", "_raw_size")

    def __init__(self) -> None:
        super().__init__(0)
        self._inside = False  # of a chunk, whose data ends with CRLF
        self._line = bytearray()  # bytes not worked off: the beginning of a line
        self._raw_size = 0

    def feed(self, data: bytes | bytearray) -> bool:
        self._raw_size += len(data)
        buffer = self._line
        buffer += data
        at = 0
        while True:
            if self.remaining:
                piece = buffer[at : at + min(self.remaining, MAX_BODY - len(self.body))]
                self.body += piece
                self.remaining -= len(piece)
                at += len(piece)
                if len(self.body) >= MAX_BODY:
                    return True
                if self.remaining:
                    break
            if self._inside:
                if len(buffer) - at < 2:
                    break
                if buffer[at : at + 2] != b"\r\n":
                    raise MalformedMessage("a chunk is longer than its size")
                at += 2
                self._inside = False
            end = buffer.find(b"\r\n", at, at + _MAX_CHUNK_LINE)
            if end < 0:
                if len(buffer) - at >= _MAX_CHUNK_LINE:
                    raise MalformedMessage("the line with a chunk's size is too long")
                break
            size = _CHUNK_SIZE.fullmatch(buffer, at, end)
            if size is None:
                raise MalformedMessage("a chunk's size is no hexadecimal number")
            self.remaining = int(size.group(1), 16)
            at = end + 2
            if self.remaining == 0:
                return True
            self._inside = True
        del buffer[:at]
        return self._raw_size >= _MAX_RAW_BODY


def body_reader(status: HTTPStatus | int, headers: CIMultiDict[str]) -> BodyReader:
    """The reader for the body that belongs to this head (RFC 9112 section 6.3)."""
    length = content_length(headers)
    codings = headers.getall("Transfer-Encoding", [])
    if codings:
        if length is not None:
            raise MalformedMessage("there are both Content-Length and Transfer-Encoding")
        if len(codings) != 1 or codings[0].lower() != "chunked":
            raise MalformedMessage("the transfer coding is not chunked")
    if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        return BodyReader(0)
    return ChunkedBodyReader() if codings else BodyReader(length)


def encode_request(request: WSUpgradeRequest) -> bytes:
    """The bytes of a request. Raises ``ValueError`` for what cannot be sent."""
    line = b" ".join((request.method, request.path, request.version))
    return encode_fields(line.decode("ascii"), request.headers)
