"""The client's side of the opening handshake (RFC 6455 section 4.1), without I/O.

    ClientHandshake(url, extra_headers)      refuses what cannot be sent
      request_bytes()                        goes to the server
      receive_data(bytes)                    None until the answer is complete; the 101 then
      receive_eof(), give_up()               the stream ended, the deadline passed

What always holds: every answer that is not a correct 101 raises a ``WSHandshakeError``, and
nothing but that is raised for whatever a server sends; where the head of the answer could be read,
it is on the exception.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from http import HTTPStatus
from typing import NoReturn

from multidict import CIMultiDict

from picows.errors import (
    WSHandshakeError,
    WSInvalidHeaderError,
    WSInvalidMessageError,
    WSInvalidStatusError,
    WSInvalidUpgradeError,
)
from picows.urls import WSParsedURL, redacted_target

from .deflate import DeflateAgreement, PerMessageDeflate
from .headers import (
    OWNED_BY_HANDSHAKE,
    ExtraHeaders,
    check_field,
    has_token,
    normalise_extra_headers,
    redacted_fields,
)
from .http11 import (
    MAX_HEAD,
    BodyReader,
    HeadReader,
    MalformedMessage,
    WSUpgradeRequest,
    WSUpgradeResponse,
    as_status,
    body_reader,
    content_length,
    encode_request,
    parse_head,
)
from .names import (
    CONNECTION,
    CONTENT_LENGTH,
    HOST,
    SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING,
    UPGRADE,
)
from .negotiate import accept_key, extension_names, extensions, new_key, subprotocol_names

__all__ = ["REDIRECTS", "ClientHandshake"]

# RFC 9110 section 15.4: the others name no place to go on at, or no automatic one.
REDIRECTS = frozenset({301, 302, 303, 307, 308})

# The enum's class looks its members up.
_SWITCHING_PROTOCOLS = HTTPStatus.SWITCHING_PROTOCOLS

_TARGET = re.compile(r"/[\x21-\x7e]*")

# RFC 9112 section 4; the space behind the status may be missing along with the reason.
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?")

# 100 and 103 have a meaning; a server that sends more of them than this has none.
_MAX_INTERIM_RESPONSES = 16


class ClientHandshake:
    """One attempt to open a WebSocket.

    ``request`` is what is sent; ``trailing_data`` are the bytes behind the 101: the first frames.
    """

    request: WSUpgradeRequest

    def __init__(
        self,
        url: WSParsedURL,
        extra_headers: ExtraHeaders | None = None,
        follows_redirects: bool = False,
        deflate: PerMessageDeflate | None = None,
    ) -> None:
        """Raises ``ValueError`` or ``TypeError`` for ``extra_headers`` that cannot be sent.

        With ``follows_redirects`` a redirect is raised at once, without its body. ``deflate`` is
        offered, and ``deflate_agreement`` what came of it.
        """
        fields = normalise_extra_headers(extra_headers, OWNED_BY_HANDSHAKE)
        if deflate is not None:
            if any(name.lower() == "sec-websocket-extensions" for name, _ in fields):
                raise ValueError(
                    "extra_headers holds Sec-WebSocket-Extensions, which permessage_deflate sets"
                )
            offer = f"{deflate.name}; {deflate.offer_parameters()}"
            fields.append(("Sec-WebSocket-Extensions", offer))
        self._deflate = deflate
        self.deflate_agreement: DeflateAgreement | None = None
        # parse_url made it so; a WSParsedURL may also have been put together by hand.
        if not _TARGET.fullmatch(url.path) or "#" in url.path:
            raise ValueError("the path of a URL must begin with / and be printable ASCII")
        self._key = new_key()
        self.request = WSUpgradeRequest(
            b"GET", url.path.encode("ascii"), b"HTTP/1.1", _make_headers(url, self._key, fields)
        )
        self._subprotocols: list[str] = []
        self._extensions: list[str] = []
        if fields:
            headers = self.request.headers
            self._subprotocols = subprotocol_names(headers.getall(SEC_WEBSOCKET_PROTOCOL, ()))
            self._extensions = extension_names(headers.getall(SEC_WEBSOCKET_EXTENSIONS, ()))
        self._reader = HeadReader(_may_begin_response)
        self._follows_redirects = follows_redirects
        self._interim_responses = 0
        self._raw_header: bytes | None = None
        self._response: WSUpgradeResponse | None = None
        self._body: BodyReader | None = None

    @property
    def trailing_data(self) -> bytes:
        return bytes(self._reader.buffer)

    def request_bytes(self) -> bytes:
        """The request as it goes to the server."""
        return encode_request(self.request)

    def redacted_request(self) -> str:
        """The request for a debug log, with credentials starred out."""
        request = self.request
        lines = [f"GET {redacted_target(request.path.decode('ascii'))} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in redacted_fields(request.headers)]
        return "\r\n".join(lines)

    def receive_data(self, data: bytes) -> WSUpgradeResponse | None:
        """Take bytes of the server: the 101 when it is complete and correct, else ``None``.

        Raises a ``WSHandshakeError`` for everything else. For a status other than 101 that happens
        when its body is complete, or 1 MiB of it. Not to be called again once it returned a
        response or raised.
        """
        if self._response is not None and self._body is None:
            raise RuntimeError("the handshake is over")
        try:
            if self._body is None:
                response = self._receive_head(data)
                if response is None:
                    return None
                if response.status == _SWITCHING_PROTOCOLS:
                    self._check_upgrade(response.headers)
                    return response
                if self._follows_redirects and response.status in REDIRECTS:
                    raise self._status_error()
                self._body = body_reader(response.status, response.headers)
                data = self.trailing_data
            complete = self._body.feed(data)
        except MalformedMessage as exc:
            raise self._malformed(f"the server's answer is malformed: {exc}") from None
        if complete:
            raise self._status_error()
        return None

    def receive_eof(self) -> NoReturn:
        """The server closed the stream: raises the fitting ``WSHandshakeError``."""
        if self._body is not None:
            raise self._status_error()
        if not self._reader.buffer:
            raise WSHandshakeError("the server closed the connection without an answer")
        raise self._malformed("the server closed the connection inside the head of its answer")

    def give_up(self) -> WSHandshakeError | None:
        """The deadline passed: the error that tells most, or ``None`` when nothing is known."""
        return None if self._body is None else self._status_error()

    def _receive_head(self, data: bytes) -> WSUpgradeResponse | None:
        """The final response when its head is complete; interim ones are skipped."""
        while (head := self._reader.feed(data)) is not None:
            self._raw_header = head
            status_line, headers = parse_head(head)
            match = _STATUS_LINE.fullmatch(status_line)
            if match is None:
                raise MalformedMessage("its first line is no HTTP/1 status line")
            status = as_status(int(match.group(2)))
            if status == _SWITCHING_PROTOCOLS or status >= 200:
                self._response = WSUpgradeResponse(
                    f"HTTP/1.{match.group(1)}".encode("ascii"), status, headers
                )
                return self._response
            # RFC 9110 section 15.2: a client reads interim responses past, known or not.
            self._interim_responses += 1
            if self._interim_responses > _MAX_INTERIM_RESPONSES:
                raise MalformedMessage("there are more interim responses than anybody needs")
            self._raw_header = None
            data = b""
        return None

    def _check_upgrade(self, headers: CIMultiDict[str]) -> None:
        """RFC 6455 section 4.1, what a client must validate, in its order."""
        response = self._response
        assert response is not None
        # RFC 9110 section 7.8: HTTP/1.0 knows no upgrade.
        if response.version != b"HTTP/1.1":
            raise MalformedMessage("a 101 over HTTP/1.0")

        # 2. and 3.
        upgrade = self._single(UPGRADE, WSInvalidUpgradeError)
        if upgrade is None or upgrade.lower() != "websocket":
            raise self._invalid(WSInvalidUpgradeError, UPGRADE, upgrade)
        connection = headers.getall(CONNECTION, ())
        if not has_token(connection, "upgrade"):
            value = ", ".join(connection) if connection else None
            raise self._invalid(WSInvalidUpgradeError, CONNECTION, value)

        # 4.
        accept = self._single(SEC_WEBSOCKET_ACCEPT)
        if accept != accept_key(self._key):
            raise self._invalid(WSInvalidHeaderError, SEC_WEBSOCKET_ACCEPT, accept)

        # 5.
        values = headers.getall(SEC_WEBSOCKET_EXTENSIONS, ())
        if values and not self._takes_extensions(values):
            raise self._invalid(WSInvalidHeaderError, SEC_WEBSOCKET_EXTENSIONS, ", ".join(values))

        # 6. Subprotocols compare with case.
        subprotocol = self._single(SEC_WEBSOCKET_PROTOCOL)
        if subprotocol is not None and subprotocol not in self._subprotocols:
            raise self._invalid(WSInvalidHeaderError, SEC_WEBSOCKET_PROTOCOL, subprotocol)

        # RFC 9110 section 8.6 and RFC 9112 section 6.1: a 101 has no body. Where one is
        # announced, it and the first frames are the same bytes.
        if content_length(headers):
            raise self._invalid(WSInvalidHeaderError, CONTENT_LENGTH, headers[CONTENT_LENGTH])
        if TRANSFER_ENCODING in headers:
            raise self._invalid(WSInvalidHeaderError, TRANSFER_ENCODING, headers[TRANSFER_ENCODING])

    def _takes_extensions(self, values: Sequence[str]) -> bool:
        """RFC 6455 section 9.1: only what was offered, with parameters that answer it."""
        try:
            accepted = extensions(values)
        except ValueError:
            return False
        for name, parameters in accepted:
            if name not in self._extensions:
                return False
            if self._deflate is not None and name == self._deflate.name:
                # RFC 7692 section 5: once, that is.
                if self.deflate_agreement is not None:
                    return False
                self.deflate_agreement = self._deflate.confirm(parameters)
                if self.deflate_agreement is None:
                    return False
        return True

    def _single(
        self, name: str, error: type[WSInvalidHeaderError] = WSInvalidHeaderError
    ) -> str | None:
        """The value of a field that must not be repeated, ``None`` where it is missing."""
        assert self._response is not None
        values = self._response.headers.getall(name, [])
        if len(values) > 1:
            raise self._invalid(error, name, ", ".join(values))
        return values[0] if values else None

    def _invalid(
        self, error: type[WSInvalidHeaderError], name: str, value: str | None
    ) -> WSInvalidHeaderError:
        # Plain str, not an istr, for whoever catches it.
        return error(str(name), value, raw_header=self._raw_header, response=self._response)

    def _malformed(self, message: str) -> WSInvalidMessageError:
        # Without a whole head, what arrived of it is what tells who answered there.
        raw_header = self._raw_header
        if raw_header is None:
            raw_header = bytes(self._reader.buffer[:MAX_HEAD])
        return WSInvalidMessageError(
            message, raw_header=raw_header, raw_body=self._raw_body(), response=self._response
        )

    def _raw_body(self) -> bytes | None:
        return None if self._body is None else bytes(self._body.body)

    def _status_error(self) -> WSInvalidStatusError:
        response = self._response
        assert response is not None
        response.body = self._raw_body()
        phrase = response.status.phrase if isinstance(response.status, HTTPStatus) else ""
        return WSInvalidStatusError(
            f"the server answered {int(response.status)} {phrase}".rstrip()
            + " where 101 opens a WebSocket",
            raw_header=self._raw_header,
            raw_body=response.body,
            response=response,
        )


def _may_begin_response(buffer: bytearray) -> bool:
    return b"HTTP/1.".startswith(buffer[:7])


def _make_headers(url: WSParsedURL, key: str, fields: list[tuple[str, str]]) -> CIMultiDict[str]:
    hosts = [value for name, value in fields if name.lower() == "host"]
    if len(hosts) > 1:
        raise ValueError("extra_headers holds more than one Host")
    # RFC 9110 section 7.2: Host first, "so that proxies can find it".
    host = hosts[0] if hosts else url.host_header
    headers = CIMultiDict(
        [
            (HOST, host),
            (UPGRADE, "websocket"),
            (CONNECTION, "Upgrade"),
            (SEC_WEBSOCKET_KEY, key),
            (SEC_WEBSOCKET_VERSION, "13"),
        ]
    )
    for name, value in fields:
        if name.lower() != "host":
            headers.add(name, value)
    if url.username is not None and "Authorization" not in headers:
        # RFC 7617 section 2
        credentials = f"{url.username}:{url.password or ''}".encode()
        headers.add("Authorization", "Basic " + b64encode(credentials).decode("ascii"))
    # The others were checked, or are made here.
    check_field("Host", host)
    return headers
