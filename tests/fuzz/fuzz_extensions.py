"""Sec-WebSocket-Extensions against a parser that goes byte by byte, and the negotiation of
permessage-deflate in whole handshakes.

The first byte chooses what our side asks for; the rest are the values of the header, one a line.
The contract: a server of ours answers 101 or refuses the whole head, a client takes the answer or
raises WSHandshakeError; what is agreed on is what both can do; nothing else is ever raised.
"""

from __future__ import annotations

from picows.errors import WSHandshakeError
from picows.handshake.client import ClientHandshake
from picows.handshake.deflate import PerMessageDeflate
from picows.handshake.negotiate import Parameters, accept_key, extensions
from picows.handshake.server import ServerHandshake, ServerRefusal
from picows.urls import parse_url

URL = parse_url("ws://example.com/")
LISTENER = object()
NAME = "permessage-deflate"
TOKEN = set("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
SPACE = set(" \t")


class Parser:
    """RFC 6455 section 9.1; the members of a list may be empty (RFC 9110 section 5.6.1)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def here(self) -> str:
        return self.text[self.at : self.at + 1]

    def skip(self, what: set[str]) -> str:
        start = self.at
        while self.here() and self.here() in what:
            self.at += 1
        return self.text[start : self.at]

    def token(self) -> str:
        token = self.skip(TOKEN)
        if not token:
            raise ValueError
        return token

    def value(self) -> str:
        if self.here() != '"':
            return self.token()
        self.at += 1
        found = ""
        while (octet := self.here()) != '"':
            if octet == "\\":
                self.at += 1
                octet = self.here()
            if not octet or octet == "\n":
                raise ValueError
            found += octet
            self.at += 1
        self.at += 1
        return found

    def members(self) -> list[tuple[str, Parameters]]:
        found = []
        while True:
            self.skip(SPACE | {","})
            if not self.here():
                return found
            name = self.token().lower()
            parameters: Parameters = []
            self.skip(SPACE)
            while self.here() == ";":
                self.at += 1
                self.skip(SPACE)
                key, value = self.token().lower(), None
                self.skip(SPACE)
                if self.here() == "=":
                    self.at += 1
                    self.skip(SPACE)
                    value = self.value()
                    self.skip(SPACE)
                parameters.append((key, value))
            if self.here() not in ("", ","):
                raise ValueError
            found.append((name, parameters))


def reference(values: list[str]) -> list[tuple[str, Parameters]] | None:
    try:
        return [member for value in values for member in Parser(value).members()]
    except ValueError:
        return None


def check_parser(values: list[str]) -> None:
    try:
        found = extensions(values)
    except ValueError:
        found = None
    assert found == reference(values)


def lines_of(values: list[str]) -> bytes:
    lines = "".join(f"Sec-WebSocket-Extensions: {value}\r\n" for value in values)
    return lines.encode("latin-1")


def check_server(values: list[str], ours: PerMessageDeflate) -> None:
    handshake = ServerHandshake(ours)
    request = (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    )
    try:
        if handshake.receive_data(request + lines_of(values) + b"\r\n") is None:
            return
    except ServerRefusal as exc:
        assert exc.response.status in (400, 431)
        return
    response, listener, raw = handshake.respond(LISTENER)
    assert response.status == 101
    assert listener is LISTENER
    agreement = handshake.deflate_agreement
    said = response.headers.getall("Sec-WebSocket-Extensions", [])
    assert len(said) == (agreement is not None)
    if agreement is None:
        return
    assert 9 <= agreement.server_max_window_bits <= ours.server_max_window_bits
    assert 8 <= agreement.client_max_window_bits <= 15
    assert agreement.server_no_context_takeover or not ours.server_no_context_takeover
    # It answers one of the offers: a client of ours takes the answer for the same.
    ((name, parameters),) = extensions(said)
    assert name == NAME
    confirmed = PerMessageDeflate().confirm(parameters)
    assert confirmed is not None
    # What a client offers of itself it keeps to, confirmed or not.
    assert confirmed._replace(client_no_context_takeover=True) == agreement._replace(
        client_no_context_takeover=True
    )
    offers = reference([value.strip(" \t") for value in values])
    assert offers is not None
    assert any(ours.agree(offer) == (agreement, said[0][len(NAME) :].lstrip("; ")) for
               offered, offer in offers if offered == NAME)  # fmt: skip
    assert said[0].encode() in raw


def check_client(values: list[str], ours: PerMessageDeflate) -> None:
    handshake = ClientHandshake(URL, deflate=ours)
    accept = accept_key(handshake.request.headers["Sec-WebSocket-Key"]).encode()
    answer = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n"
    )
    try:
        response = handshake.receive_data(answer + lines_of(values) + b"\r\n")
    except WSHandshakeError as exc:
        str(exc)
        return
    if response is None:
        return
    agreement = handshake.deflate_agreement
    if agreement is None:
        assert not reference([value.strip(" \t") for value in values])
        return
    assert 8 <= agreement.server_max_window_bits <= ours.server_max_window_bits
    assert 8 <= agreement.client_max_window_bits <= ours.client_max_window_bits
    assert agreement.server_no_context_takeover or not ours.server_no_context_takeover
    assert agreement.client_no_context_takeover or not ours.client_no_context_takeover


def one_input(data: bytes) -> None:
    if not data:
        return
    how = data[0]
    ours = PerMessageDeflate(bool(how & 1), 9 + (how >> 2) % 7, bool(how & 2), 9 + (how >> 4) % 7)
    values = data[1:].decode("latin-1").split("\n")
    check_parser(values)
    check_server(values, ours)
    check_client(values, ours)
