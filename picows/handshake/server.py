"""The server's side of the opening handshake (RFC 6455 section 4.2), without I/O.

    ServerHandshake()
      receive_data(bytes)     None until the head is complete; the request then
      respond(result)         what the listener factory returned becomes the bytes of the response
      respond_with_error()    ... or the factory raised
      receive_eof()           the stream ended before that

What always holds: what a client sends is accepted or raises ``ServerRefusal``, which carries the
response that says so, never anything else; and no response repeats what the client sent, or tells
anything of an exception of the user's code.

The request is judged twice. As an HTTP message in ``receive_data``, before user code sees it; as a
WebSocket upgrade in ``respond``, behind the factory, so that a factory can answer health checks.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import NoReturn

from multidict import CIMultiDict

from picows.errors import WSHandshakeError, WSInvalidMessageError

from .deflate import DeflateAgreement, PerMessageDeflate
from .headers import OWNED_BY_HANDSHAKE, TOKEN, encode_fields, has_token, list_members
from .http11 import (
    MAX_HEAD,
    HeadReader,
    MalformedMessage,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    as_status,
    content_length,
    parse_head,
)
from .names import (
    CONNECTION,
    HOST,
    SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING,
    UPGRADE,
)
from .negotiate import accept_key, extension_names, extensions, is_key

__all__ = ["ServerHandshake", "ServerRefusal", "encode_response"]

_METHOD_BYTES = frozenset(byte for byte in range(128) if TOKEN.match(chr(byte)))

# RFC 9112 section 3: one space between the parts, none inside.
_REQUEST_LINE = re.compile(rf"({TOKEN.pattern}) ([\x21-\x7e]+) (HTTP/[0-9]\.[0-9])")

# RFC 9112 section 3.2.1 and 3.2.2. A fragment is part of neither (RFC 9110 section 4.2), and
# userinfo there is an attempt to be taken for somebody else (RFC 9110 section 4.2.4).
_ORIGIN_FORM = re.compile(r"/[^#]*")
_ABSOLUTE_FORM = re.compile(r"(?:https?|wss?)://([^/?#@]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)

# RFC 9110 section 7.2: uri-host [ ":" port ], and not empty for any scheme of ours.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]+)(?::[0-9]*)?")

# What a status asks to be sent along (RFC 9110 sections 15.5.6 and 15.5.22, RFC 6455 section 4.4).
_FIELDS_OF_STATUS: dict[int, list[tuple[str, str]]] = {
    HTTPStatus.METHOD_NOT_ALLOWED: [("Allow", "GET, HEAD")],
    HTTPStatus.UPGRADE_REQUIRED: [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
}

# The 101 of a plain listener, which nearly all are: nothing in it needs to be checked.
_PLAIN_101 = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)

# The enum's class looks its members up.
_SWITCHING_PROTOCOLS = HTTPStatus.SWITCHING_PROTOCOLS

# RFC 9110 sections 15.3.5 and 15.4.5, and 8.6: no body, and 204 no Content-Length either.
_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class ServerRefusal(WSHandshakeError):
    """The request is refused. Internal: the server sends ``raw`` and closes.

    ``response`` is what is sent, ``raw`` its bytes (without body for a HEAD), and ``reason``,
    which ``str()`` gives too, is for the server's log.
    """

    response: WSUpgradeResponse
    reason: str
    raw: bytes

    def __init__(
        self,
        reason: str,
        response: WSUpgradeResponse,
        *,
        head_only: bool = False,
        raw_header: bytes | None = None,
    ) -> None:
        super().__init__(reason, raw_header=raw_header, response=response)
        self.reason = reason
        self.raw = encode_response(response, head_only=head_only)


class ServerHandshake:
    """The handshake with one client.

    ``request`` is there once the head is complete. ``refusal`` is, after ``respond``, the reason
    for the log why the response is not the one that the factory asked for, else ``None``;
    ``deflate_agreement`` is what was agreed on, if anything was.
    """

    request: WSUpgradeRequest | None
    refusal: str | None

    def __init__(self, deflate: PerMessageDeflate | None = None) -> None:
        self.request = None
        self.refusal = None
        self.deflate_agreement: DeflateAgreement | None = None
        self._deflate = deflate
        self._reader = HeadReader(_may_begin_request)

    @property
    def trailing_data(self) -> bytes:
        """The bytes behind the head: frames of a client that did not wait for the 101."""
        return bytes(self._reader.buffer)

    def receive_data(self, data: bytes) -> WSUpgradeRequest | None:
        """Take bytes of the client: the request when its head is complete, else ``None``.

        Raises ``ServerRefusal`` for a head that is malformed or no GET or HEAD of HTTP/1.1. Not to
        be called again once it returned the request.
        """
        if self.request is not None:
            raise RuntimeError("the request is complete already")
        head = None
        try:
            head = self._reader.feed(data)
            if head is None:
                return None
            line, headers = parse_head(head)
            match = _REQUEST_LINE.fullmatch(line)
            if match is None:
                raise MalformedMessage("the first line is no HTTP request line")
            self.request = _check_request(match[1], match[2], match[3], headers)
        except MalformedMessage as exc:
            raw_header = bytes(self._reader.buffer[:MAX_HEAD]) if head is None else head
            raise ServerRefusal(
                f"malformed request: {exc}",
                _refusal(exc.status, str(exc)),
                # Also where nothing else of the request could be read.
                head_only=raw_header.startswith(b"HEAD "),
                raw_header=raw_header,
            ) from None
        return self.request

    def receive_eof(self) -> NoReturn:
        """The client closed the stream: raises the fitting ``WSHandshakeError``."""
        if self.request is not None:
            raise WSHandshakeError("the client closed the connection before the response")
        if not self._reader.buffer:
            raise WSHandshakeError("the client closed the connection without a request")
        raise WSInvalidMessageError(
            "the client closed the connection inside the head of its request",
            raw_header=bytes(self._reader.buffer),
        )

    def respond(self, result: object) -> tuple[WSUpgradeResponse, object | None, bytes]:
        """The response to what the listener factory returned, the listener, the bytes to send.

        ``None`` is a 404, a ``WSUpgradeResponseWithListener`` that response, anything else is the
        listener of a 101. The listener comes back only where the connection is upgraded.
        """
        request = self.request
        if request is None:
            raise RuntimeError("respond() before the request is complete")
        if result is None:
            return self._finish(_refusal(HTTPStatus.NOT_FOUND, HTTPStatus.NOT_FOUND.phrase))
        if isinstance(result, WSUpgradeResponse):
            # Taken for a listener it would fail much later, with the client upgraded.
            return self._fail("the listener factory returned a response without a listener")
        if isinstance(result, WSUpgradeResponseWithListener):
            response, listener = result.response, result.listener
            if response.status != HTTPStatus.SWITCHING_PROTOCOLS:
                return self._finish(response)
            if listener is None:
                return self._fail("the listener factory returned a 101 without a listener")
            unoffered = _unoffered(request.headers, response.headers)
        else:
            response, listener, unoffered = None, result, None
        try:
            accept = _check_upgrade(request)
        except MalformedMessage as exc:
            self.refusal = f"no upgrade: {exc}"
            return self._finish(_refusal(exc.status, str(exc)))
        if unoffered is not None:
            return self._fail(f"the 101 selects {unoffered} that the client did not offer")
        accepted = self._accept_deflate(response)
        if response is None:
            if accepted is None:
                return _plain_101(accept), listener, _PLAIN_101 % accept.encode("ascii")
            response = _plain_101(accept)
        else:
            response = _with_accept(response, accept)
        if accepted is not None:
            response.headers.add("Sec-WebSocket-Extensions", accepted)
        return self._finish(response, listener)

    def _accept_deflate(self, response: WSUpgradeResponse | None) -> str | None:
        """The answer to the first offer that can be kept (RFC 7692 section 5)."""
        if self._deflate is None or self.request is None:
            return None
        name = self._deflate.name
        try:
            if response is not None and name in extension_names(
                response.headers.getall("Sec-WebSocket-Extensions", [])
            ):
                # The user's own, who then has to speak it.
                return None
            offers = extensions(self.request.headers.getall("Sec-WebSocket-Extensions", []))
        except ValueError:
            return None
        for offered, parameters in offers:
            agreed = self._deflate.agree(parameters) if offered == name else None
            if agreed is not None:
                self.deflate_agreement, answer = agreed
                return f"{name}; {answer}" if answer else name
        return None

    def respond_with_error(self) -> tuple[WSUpgradeResponse, None, bytes]:
        """The 500 for a factory that raised; it says nothing of the exception."""
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        response = _framed(_refusal(status, status.phrase))
        return response, None, _encode_framed(response, head_only=self._head_only)

    @property
    def _head_only(self) -> bool:
        return self.request is not None and self.request.method == b"HEAD"

    def _finish(
        self, response: WSUpgradeResponse, listener: object | None = None
    ) -> tuple[WSUpgradeResponse, object | None, bytes]:
        try:
            framed = _framed(response)
            raw = _encode_framed(framed, head_only=self._head_only)
        except (TypeError, ValueError) as exc:
            # Responses are mutable: what the constructors refuse may have been put in since.
            return self._fail(f"the response cannot be sent: {exc}")
        return framed, listener, raw

    def _fail(self, reason: str) -> tuple[WSUpgradeResponse, None, bytes]:
        self.refusal = reason
        return self.respond_with_error()


# --- The request ----------------------------------------------------------------------------


def _may_begin_request(buffer: bytearray) -> bool:
    # RFC 9112 section 2.2: a server SHOULD ignore a CRLF ahead of the request line, which clients
    # sent behind a POST's body. Nothing comes before the one request here.
    return not buffer or buffer[0] in _METHOD_BYTES


def _check_request(
    method: str, target: str, version: str, headers: CIMultiDict[str]
) -> WSUpgradeRequest:
    """What is asked of every request, whether it wants an upgrade or not."""
    if version != "HTTP/1.1":
        raise MalformedMessage(
            "only HTTP/1.1 is spoken here", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
        )
    if method not in ("GET", "HEAD"):
        raise MalformedMessage(
            "only GET and HEAD are understood here", HTTPStatus.METHOD_NOT_ALLOWED
        )
    # RFC 9112 section 3.2: 400 for a request that lacks Host, holds it twice or malformed.
    hosts = headers.getall(HOST, ())
    if len(hosts) != 1:
        raise MalformedMessage("there must be one Host header")
    if not _HOST.fullmatch(hosts[0]):
        raise MalformedMessage("the Host header is malformed")
    if not _ORIGIN_FORM.fullmatch(target):
        # RFC 9112 section 3.2.2: a server must accept the absolute form, and its authority
        # stands in for Host.
        absolute = _ABSOLUTE_FORM.fullmatch(target)
        if absolute is None or not _HOST.fullmatch(absolute.group(1)):
            raise MalformedMessage("the request target is malformed")
        headers["Host"] = absolute.group(1)
        target = absolute.group(2) or "/"
        if not target.startswith("/"):
            target = "/" + target
    # A body would be read as the client's first frames.
    if TRANSFER_ENCODING in headers or content_length(headers):
        raise MalformedMessage("the request has a body")
    return WSUpgradeRequest(
        b"GET" if method == "GET" else b"HEAD", target.encode(), b"HTTP/1.1", headers
    )


def _check_upgrade(request: WSUpgradeRequest) -> str:
    """RFC 6455 section 4.2.1, what the client must send. Returns ``Sec-WebSocket-Accept``."""
    headers = request.headers
    if request.method != b"GET":
        raise MalformedMessage("a WebSocket is opened with GET")
    if not has_token(headers.getall(UPGRADE, ()), "websocket"):
        raise MalformedMessage("Upgrade: websocket is missing")
    if not has_token(headers.getall(CONNECTION, ()), "upgrade"):
        raise MalformedMessage("Connection: Upgrade is missing")
    versions = headers.getall(SEC_WEBSOCKET_VERSION, ())
    if len(versions) != 1:
        raise MalformedMessage("there must be one Sec-WebSocket-Version header")
    if versions[0] != "13":
        # RFC 6455 section 4.4
        raise MalformedMessage(
            "the only supported WebSocket version is 13", HTTPStatus.UPGRADE_REQUIRED
        )
    keys = headers.getall(SEC_WEBSOCKET_KEY, ())
    if len(keys) != 1:
        raise MalformedMessage("there must be one Sec-WebSocket-Key header")
    if not is_key(keys[0]):
        raise MalformedMessage("Sec-WebSocket-Key is not 16 bytes in base64")
    return accept_key(keys[0])


# --- The response ---------------------------------------------------------------------------


def encode_response(response: WSUpgradeResponse, *, head_only: bool = False) -> bytes:
    """The bytes of a response, with the framing that belongs to its status and body.

    ``head_only`` leaves the body out, as for a HEAD. Raises ``ValueError`` or ``TypeError`` for
    what cannot be sent; the response itself is not changed.
    """
    return _encode_framed(_framed(response), head_only=head_only)


def _encode_framed(response: WSUpgradeResponse, *, head_only: bool) -> bytes:
    status = response.status
    phrase = status.phrase if isinstance(status, HTTPStatus) else ""
    # RFC 9112 section 4: the space stands also where no phrase follows.
    head = encode_fields(f"HTTP/1.1 {int(status)} {phrase}", response.headers)
    return head if head_only or response.body is None else head + response.body


def _framed(response: WSUpgradeResponse) -> WSUpgradeResponse:
    """A copy, as it is sent: one response may be the answer to many requests."""
    status = as_status(response.status)
    headers = CIMultiDict(response.headers)
    if status == HTTPStatus.SWITCHING_PROTOCOLS:
        return WSUpgradeResponse(b"HTTP/1.1", status, headers)
    if not 200 <= status <= 599:
        raise ValueError(f"{int(status)} is no status of a final response")
    if "Transfer-Encoding" in headers:
        raise ValueError("a response is sent without a transfer coding")
    body = response.body
    if body is not None and not isinstance(body, (bytes, bytearray, memoryview)):
        raise TypeError(f"a body must be bytes-like or None, not {type(body).__name__}")
    headers.popall("Content-Length", None)
    headers.popall("Connection", None)
    if status in _BODILESS:
        body = None
    else:
        headers.add("Content-Length", str(0 if body is None else memoryview(body).nbytes))
    # RFC 9110 section 7.8: whoever sends Upgrade names it in Connection.
    headers.add("Connection", "Upgrade, close" if "Upgrade" in headers else "close")
    return WSUpgradeResponse(b"HTTP/1.1", status, headers, None if body is None else bytes(body))


def _refusal(status: HTTPStatus, text: str) -> WSUpgradeResponse:
    """A response of the server's own; ``text`` is one of the sentences in this package."""
    fields = [("Content-Type", "text/plain; charset=utf-8"), *_FIELDS_OF_STATUS.get(status, [])]
    return WSUpgradeResponse(b"HTTP/1.1", status, CIMultiDict(fields), f"{text}\n".encode("ascii"))


def _plain_101(accept: str) -> WSUpgradeResponse:
    """RFC 6455 section 4.2.2, 5.: what every 101 holds."""
    headers = CIMultiDict(
        [(UPGRADE, "websocket"), (CONNECTION, "Upgrade"), (SEC_WEBSOCKET_ACCEPT, accept)]
    )
    return WSUpgradeResponse(b"HTTP/1.1", _SWITCHING_PROTOCOLS, headers)


def _with_accept(response: WSUpgradeResponse, accept: str) -> WSUpgradeResponse:
    """A copy of a user's 101 with the handshake's fields ahead of the user's."""
    complete = _plain_101(accept)
    for name, value in response.headers.items():
        if name.lower() not in OWNED_BY_HANDSHAKE:
            complete.headers.add(name, value)
    return complete


def _unoffered(request: CIMultiDict[str], response: CIMultiDict[str]) -> str | None:
    """What a user's 101 selects although the client did not offer it."""
    # RFC 6455 section 4.2.2: one of the client's subprotocols, compared with case, or none.
    subprotocols = response.getall("Sec-WebSocket-Protocol", [])
    offered = list_members(request.getall("Sec-WebSocket-Protocol", []))
    if len(subprotocols) > 1 or any(name not in offered for name in subprotocols):
        return "a subprotocol"
    extensions = response.getall("Sec-WebSocket-Extensions", [])
    if extensions:
        # RFC 6455 section 9.1
        try:
            offered = extension_names(request.getall("Sec-WebSocket-Extensions", []))
            unoffered = any(name not in offered for name in extension_names(extensions))
        except ValueError:
            unoffered = True
        if unoffered:
            return "an extension"
    return None
