"""Fuzz target for the opening handshake, both sides.

The contract in one sentence: garbage is accepted or raises ``WSHandshakeError`` on the client,
``ServerRefusal`` on the server, never anything else. Beyond it, an input means the same whole and
in pieces, and what is accepted or answered is well-formed HTTP.

The first byte chooses the side (odd: client) and the size of the pieces (the rest of it). In what
a client receives, ``@ACCEPT@`` stands for the value that answers its key.

    python tests/fuzz/fuzz_handshake.py tests/fuzz/corpus/handshake -max_total_time=60
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import atheris

    # Modules that are first imported in here report their branches to libFuzzer.
    with atheris.instrument_imports(include=["picows.urls", "picows.handshake"]):
        import picows.handshake  # noqa: F401

from picows.errors import WSHandshakeError
from picows.handshake.client import ClientHandshake
from picows.handshake.http11 import HeadReader, parse_head
from picows.handshake.negotiate import accept_key
from picows.handshake.server import ServerHandshake, ServerRefusal
from picows.urls import parse_url

URL = parse_url("ws://example.com/")
OFFER = {"Sec-WebSocket-Protocol": "chat, b", "Sec-WebSocket-Extensions": "x-own"}
LISTENER = object()


def one_input(data: bytes) -> None:
    if not data:
        return
    size = data[0] >> 1 or 1
    judge = judge_answer if data[0] & 1 else judge_request
    whole = judge(data[1:], len(data))
    pieces = judge(data[1:], size)
    assert whole == pieces, (whole, pieces)


def judge_answer(data: bytes, size: int) -> object:
    handshake = ClientHandshake(URL, OFFER)
    accept = accept_key(handshake.request.headers["Sec-WebSocket-Key"])
    data = data.replace(b"@ACCEPT@", accept.encode("ascii"))
    received = 0
    try:
        while received < len(data):
            response = handshake.receive_data(data[received : received + size])
            received = min(received + size, len(data))
            if response is not None:
                assert response.status == 101
                assert response.headers.getall("Sec-WebSocket-Accept") == [accept]
                assert response.headers.get("Sec-WebSocket-Protocol", "b") in ("chat", "b")
                trailing = handshake.trailing_data
                assert data[:received].endswith(trailing)
                return 101, received - len(trailing), list(response.headers)
        late = handshake.give_up()
        assert late is None or late.response is not None
        handshake.receive_eof()
    except WSHandshakeError as exc:
        str(exc)
        response = exc.response
        if response is not None:
            assert exc.raw_header is not None
            assert 100 < response.status <= 999
            repr(response)
        # Each handshake has a key of its own, and what answers it may be anywhere in the input.
        body = exc.raw_body and exc.raw_body.replace(accept.encode("ascii"), b"@ACCEPT@")
        return type(exc), getattr(exc, "name", None), body, response and response.status
    raise AssertionError("receive_eof() returned")


def judge_request(data: bytes, size: int) -> object:
    handshake = ServerHandshake()
    received = 0
    try:
        while received < len(data):
            request = handshake.receive_data(data[received : received + size])
            received = min(received + size, len(data))
            if request is not None:
                break
        else:
            try:
                handshake.receive_eof()
            except WSHandshakeError as exc:
                return type(exc), str(exc)
            raise AssertionError("receive_eof() returned")
    except ServerRefusal as exc:
        assert 400 <= exc.response.status <= 505
        check_sent(exc.raw)
        return exc.raw
    repr(request)
    assert request.method in (b"GET", b"HEAD")
    assert request.path.startswith(b"/")
    assert len(request.headers.getall("Host")) == 1
    trailing = handshake.trailing_data
    assert data[:received].endswith(trailing)
    response, listener, raw = handshake.respond(LISTENER)
    assert response.status in (101, 400, 426)
    assert (listener is LISTENER) == (response.status == 101)
    check_sent(raw)
    return raw, received - len(trailing)


def check_sent(raw: bytes) -> None:
    reader = HeadReader()
    head = reader.feed(raw)
    assert head is not None
    _, headers = parse_head(head)
    assert not reader.buffer or int(headers["Content-Length"]) == len(reader.buffer)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
