"""The two sides of the opening handshake (RFC 6455 section 4): `picows.handshake` as events.

What always holds: what the other side sends raises `RemoteProtocolError` and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from http import HTTPStatus

from picows.errors import WSHandshakeError
from picows.handshake.client import ClientHandshake
from picows.handshake.extension import Extension
from picows.handshake.headers import list_members
from picows.handshake.http11 import (
    BodyReader,
    MalformedMessage,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    as_status,
    body_reader,
)
from picows.handshake.server import ServerHandshake, ServerRefusal
from picows.urls import WSParsedURL

from .connection import Connection, ConnectionState
from .events import AcceptConnection, RejectConnection, RejectData, Request
from .fields import as_text, encode_head, frame_body, received_fields, text_fields
from .frame_events import Event
from .negotiation import client_extensions_handshake, members, negotiate
from .typing import Headers
from .utilities import LocalProtocolError, RemoteProtocolError

__all__ = ["ClientSide", "ServerSide", "Side"]

# What a Request and an AcceptConnection say in other fields, or not at all.
_NOT_EXTRA_IN_REQUEST = frozenset({"host", "sec-websocket-extensions", "sec-websocket-protocol"})
_NOT_EXTRA_IN_ACCEPT = frozenset(
    {
        "connection",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-protocol",
        "upgrade",
    }
)
# What a server's own refusals have, which belongs to their body and to their end.
_NOT_IN_HINT = frozenset({"connection", "content-length", "content-type"})

# A body is read in pieces, of which a reader takes no more at once.
_PIECE = 64 * 1024

# Makes the connection of what was agreed on and of bytes that are there already.
Connect = Callable[[list[Extension], bytes], Connection]


class Side(ABC):
    """What both sides have; what one of them cannot send is refused here."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self.state = ConnectionState.CONNECTING
        self.events: deque[Event] = deque()
        self.connection: Connection | None = None
        # Why the other side's message cannot be taken.
        self.failure: str | None = None
        self.ended = False

    @property
    def trailing_data(self) -> bytes:
        return b""

    def fail(self, reason: str, hint: RejectConnection | None = None) -> RemoteProtocolError:
        self.failure = reason
        return RemoteProtocolError(reason, RejectConnection() if hint is None else hint)

    def _open(self, extensions: list[Extension], trailing_data: bytes) -> None:
        self.connection = self._connect(extensions, trailing_data)
        if self.ended:
            self.connection.receive_data(None)
        self.state = ConnectionState.OPEN

    def initiate_upgrade_connection(self, headers: Headers, path: bytes | str) -> None:
        raise LocalProtocolError("Cannot initiate an upgrade connection when acting as the client")

    def send_request(self, event: Request) -> bytes:
        raise LocalProtocolError("a Request is sent by the client, once, and before anything else")

    def send_accept(self, event: AcceptConnection) -> bytes:
        raise LocalProtocolError("an AcceptConnection is sent by the server, behind a Request")

    def send_reject(self, event: RejectConnection) -> bytes:
        raise LocalProtocolError("a RejectConnection is sent by the server")

    def send_reject_data(self, event: RejectData) -> bytes:
        raise LocalProtocolError(f"Cannot send rejection data in state {self.state}")

    @abstractmethod
    def receive_data(self, data: bytes) -> None:
        """Bytes have come, and there is no connection yet."""

    @abstractmethod
    def receive_eof(self) -> None:
        """The stream has ended, and there is no connection yet."""


class ServerSide(Side):
    """RFC 6455 section 4.2."""

    def __init__(self, connect: Connect) -> None:
        super().__init__(connect)
        self._handshake = ServerHandshake()
        self._offers: list[str] = []
        # Behind the request: frames of a client that did not wait for the answer.
        self._early_data = bytearray()
        # Of the body of a refusal: bytes that are missing; None: it goes in chunks.
        self._remaining: int | None = None

    @property
    def trailing_data(self) -> bytes:
        return bytes(self._early_data)

    def initiate_upgrade_connection(self, headers: Headers, path: bytes | str) -> None:
        if (
            self._handshake.request is not None
            or self.state is not ConnectionState.CONNECTING
            or self.failure is not None
        ):
            raise LocalProtocolError("there has been a request already")
        try:
            # The same checks as for bytes: a field may hold the beginning of another.
            head = encode_head(f"GET {as_text(path)} HTTP/1.1", text_fields(headers))
        except ValueError as exc:
            raise self.fail(f"malformed request: {exc}") from None
        self.receive_data(head)

    def receive_data(self, data: bytes) -> None:
        if self.state is not ConnectionState.CONNECTING:
            # The client has been refused. What it sends meanwhile is of no more interest.
            return
        if self._handshake.request is not None:
            self._early_data += data
            return
        try:
            request = self._handshake.receive_data(data)
        except ServerRefusal as exc:
            raise self.fail(exc.reason, _hint(exc.response)) from None
        if request is None:
            return
        # What it would be answered, if the program agrees.
        response, _, _ = self._handshake.respond(object())
        if response.status != HTTPStatus.SWITCHING_PROTOCOLS:
            raise self.fail(self._handshake.refusal or "", _hint(response))
        self._early_data += self._handshake.trailing_data
        headers = request.headers
        self._offers = members(headers.getall("Sec-WebSocket-Extensions", []))
        self.events.append(
            Request(
                host=headers["Host"],
                target=request.path.decode("ascii"),
                extensions=list(self._offers),
                extra_headers=received_fields(headers, _NOT_EXTRA_IN_REQUEST),
                subprotocols=list_members(headers.getall("Sec-WebSocket-Protocol", [])),
            )
        )

    def receive_eof(self) -> None:
        # Behind a request, the connection tells of it. Nobody misses one who sent nothing.
        if self._handshake.request is None and self._handshake.trailing_data:
            try:
                self._handshake.receive_eof()
            except WSHandshakeError as exc:
                raise self.fail(str(exc)) from None

    def send_accept(self, event: AcceptConnection) -> bytes:
        request = self._handshake.request
        if (
            request is None
            or self.state is not ConnectionState.CONNECTING
            or self.failure is not None
        ):
            return super().send_accept(event)
        fields = text_fields(event.extra_headers)
        if event.subprotocol is not None:
            offered = list_members(request.headers.getall("Sec-WebSocket-Protocol", []))
            if event.subprotocol not in offered:
                raise LocalProtocolError(f"unexpected subprotocol {event.subprotocol}")
            fields.insert(0, ("Sec-WebSocket-Protocol", event.subprotocol))
        raw = self._respond(fields)
        # All else may be sent, so it is time to ask the extensions, which remember it.
        extensions, answer = negotiate(self._offers, event.extensions)
        if answer is not None:
            at = 0 if event.subprotocol is None else 1
            fields.insert(at, ("Sec-WebSocket-Extensions", answer))
            raw = self._respond(fields)
        early_data = self.trailing_data
        self._early_data.clear()
        self._open(extensions, early_data)
        return raw

    def _respond(self, fields: list[tuple[str, str]]) -> bytes:
        try:
            response = WSUpgradeResponse.create_101_response(fields)
        except ValueError as exc:
            raise LocalProtocolError(str(exc)) from None
        sent, _, raw = self._handshake.respond(WSUpgradeResponseWithListener(response, object()))
        if sent.status != HTTPStatus.SWITCHING_PROTOCOLS:
            raise LocalProtocolError(self._handshake.refusal or "the request cannot be accepted")
        return raw

    def send_reject(self, event: RejectConnection) -> bytes:
        if self.state is not ConnectionState.CONNECTING:
            raise LocalProtocolError(f"Connection cannot be rejected in state {self.state}")
        status = as_status(event.status_code)
        if not 200 <= status <= 599:
            raise LocalProtocolError(f"{int(status)} is no status of a refusal: use 200 to 599")
        try:
            fields, length = frame_body(status, text_fields(event.headers), event.has_body)
            phrase = status.phrase if isinstance(status, HTTPStatus) else ""
            head = encode_head(f"HTTP/1.1 {int(status)} {phrase}", fields)
        except ValueError as exc:
            raise LocalProtocolError(str(exc)) from None
        self._remaining = length
        self.state = ConnectionState.REJECTING if event.has_body else ConnectionState.CLOSED
        return head

    def send_reject_data(self, event: RejectData) -> bytes:
        if self.state is not ConnectionState.REJECTING:
            return super().send_reject_data(event)
        data = bytes(memoryview(event.data))
        if self._remaining is not None:
            remaining = self._remaining - len(data)
            if remaining < 0 or (event.body_finished and remaining):
                raise LocalProtocolError("the body is not as long as its Content-Length says")
            self._remaining = remaining
        else:
            # RFC 9112 section 7.1: a chunk of no bytes is the last one.
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            if event.body_finished:
                data += b"0\r\n\r\n"
        if event.body_finished:
            self.state = ConnectionState.CLOSED
        return data


class ClientSide(Side):
    """RFC 6455 section 4.1."""

    def __init__(self, connect: Connect) -> None:
        super().__init__(connect)
        self._handshake: ClientHandshake | None = None
        self._extensions: list[Extension] = []
        # Of a refusal.
        self._body: BodyReader | None = None

    def send_request(self, event: Request) -> bytes:
        if self._handshake is not None:
            return super().send_request(event)
        extensions = []
        offers = []
        for extension in event.extensions:
            if not isinstance(extension, Extension):
                raise TypeError(f"extensions must hold Extension objects, not {extension!r}")
            offer = extension.offer()
            if offer is not False:
                extensions.append(extension)
                text = extension.name if offer is True else f"{extension.name}; {offer}"
                offers.append(text.rstrip("; "))
        fields = [("Host", _host(event.host))]
        if event.subprotocols:
            fields.append(("Sec-WebSocket-Protocol", ", ".join(event.subprotocols)))
        if offers:
            fields.append(("Sec-WebSocket-Extensions", ", ".join(offers)))
        fields += text_fields(event.extra_headers)
        try:
            handshake = ClientHandshake(WSParsedURL("", "ws", "", 80, event.target), fields)
        except ValueError as exc:
            raise LocalProtocolError(str(exc)) from None
        self._handshake = handshake
        self._extensions = extensions
        return handshake.request_bytes()

    def receive_data(self, data: bytes) -> None:
        handshake = self._handshake
        if handshake is None:
            raise LocalProtocolError("a client sends a Request before it receives anything")
        if self._body is not None:
            self._read_body(self._body, data)
            return
        if self.state is ConnectionState.CLOSED:
            return
        try:
            response = handshake.receive_data(data)
        except WSHandshakeError as exc:
            response = exc.response
            if response is None or response.status == HTTPStatus.SWITCHING_PROTOCOLS:
                raise self.fail(str(exc)) from None
        if response is None:
            # The head of a refusal may have come, and its body not yet.
            refusal = handshake.give_up()
            response = None if refusal is None else refusal.response
        if response is None:
            return
        if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
            self._accept(response, handshake.trailing_data)
        else:
            self._refused(response, handshake.trailing_data)

    def _accept(self, response: WSUpgradeResponse, trailing_data: bytes) -> None:
        headers = response.headers
        try:
            extensions = client_extensions_handshake(
                members(headers.getall("Sec-WebSocket-Extensions", [])), self._extensions
            )
        except RemoteProtocolError as exc:
            raise self.fail(str(exc)) from None
        self.events.append(
            AcceptConnection(
                subprotocol=headers.get("Sec-WebSocket-Protocol"),
                extensions=extensions,
                extra_headers=received_fields(headers, _NOT_EXTRA_IN_ACCEPT),
            )
        )
        self._open(extensions, trailing_data)

    def _refused(self, response: WSUpgradeResponse, data: bytes) -> None:
        try:
            reader = body_reader(response.status, response.headers)
        except MalformedMessage as exc:
            raise self.fail(f"the server's answer is malformed: {exc}") from None
        self.events.append(
            RejectConnection(int(response.status), received_fields(response.headers), has_body=True)
        )
        self.state = ConnectionState.REJECTING
        self._body = reader
        self._read_body(reader, data)

    def _read_body(self, reader: BodyReader, data: bytes) -> None:
        at = 0
        while True:
            try:
                complete = reader.feed(data[at : at + _PIECE])
            except MalformedMessage as exc:
                raise self.fail(f"the server's answer is malformed: {exc}") from None
            at += _PIECE
            if reader.body:
                self.events.append(RejectData(bytes(reader.body), body_finished=False))
                reader.body.clear()
            if complete or at >= len(data):
                break
        if complete:
            self._finish_body()

    def _finish_body(self) -> None:
        self._body = None
        self.events.append(RejectData(b"", body_finished=True))
        self.state = ConnectionState.CLOSED

    def receive_eof(self) -> None:
        reader = self._body
        if reader is not None:
            # RFC 9112 section 6.3: without a length, the body ends with the stream.
            if type(reader) is BodyReader and reader.remaining is None:
                self._finish_body()
                return
            raise self.fail("the server closed the connection inside its answer")
        if self.state is ConnectionState.CLOSED:
            return
        if self._handshake is None:
            raise self.fail("the server closed the connection ahead of the request")
        try:
            self._handshake.receive_eof()
        except WSHandshakeError as exc:
            raise self.fail(str(exc)) from None


def _hint(response: WSUpgradeResponse) -> RejectConnection:
    """The refusal as an event, without the text in its body."""
    return RejectConnection(int(response.status), received_fields(response.headers, _NOT_IN_HINT))


def _host(host: str) -> str:
    """RFC 5890: beyond ASCII, a name goes in its other form."""
    if host.isascii():
        return host
    name, colon, port = host.partition(":")
    try:
        return name.encode("idna").decode("ascii") + colon + port
    except UnicodeError as exc:
        raise LocalProtocolError(f"{host!r} is no host: {exc}") from None
