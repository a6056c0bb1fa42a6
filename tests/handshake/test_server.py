"""handshake/server.py: which request is taken, what each result of a factory sends."""

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from picows.errors import WSHandshakeError, WSInvalidMessageError
from picows.handshake.client import ClientHandshake
from picows.handshake.http11 import (
    HeadReader,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    parse_head,
)
from picows.handshake.server import ServerHandshake, ServerRefusal, encode_response
from picows.urls import parse_url

LINE = b"GET /chat HTTP/1.1"
HOST = b"Host: example.com"
UPGRADE = b"Upgrade: websocket"
CONNECTION = b"Connection: Upgrade"
VERSION = b"Sec-WebSocket-Version: 13"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
LISTENER = object()


def head(*lines):
    return b"\r\n".join([*(line for line in lines if line is not None), b"", b""])


def request(
    *more, line=LINE, host=HOST, upgrade=UPGRADE, connection=CONNECTION, version=VERSION, key=KEY
):
    return head(line, host, upgrade, connection, version, key, *more)


def received(data):
    handshake = ServerHandshake()
    assert isinstance(handshake.receive_data(data), WSUpgradeRequest)
    return handshake


def refusal_of(data):
    """The refusal; and that it is the same byte by byte."""
    with pytest.raises(ServerRefusal) as caught:
        ServerHandshake().receive_data(data)
    handshake = ServerHandshake()
    with pytest.raises(ServerRefusal) as slowly:
        for byte in data:
            handshake.receive_data(bytes([byte]))
    assert slowly.value.raw == caught.value.raw
    check_refusal(caught.value.raw, caught.value.response, data.startswith(b"HEAD "))
    return caught.value


def check_refusal(raw, response, head_only):
    sent = HeadReader().feed(raw)
    line, headers = parse_head(sent)
    assert line.startswith(f"HTTP/1.1 {int(response.status)} ")
    assert headers["Content-Length"] == str(len(response.body or b""))
    assert "close" in headers["Connection"]
    assert raw[len(sent) :] == (b"" if head_only else response.body or b"")


def answer_of(data, result=LISTENER):
    """What is sent when the factory returned ``result``."""
    handshake = received(data)
    response, listener, raw = handshake.respond(result)
    assert raw.startswith(b"HTTP/1.1 %d " % response.status)
    if response.status == 101:
        assert handshake.refusal is None
        assert raw.endswith(b"\r\n\r\n")
    else:
        assert listener is None
        if response.status not in (204, 304):
            check_refusal(raw, response, data.startswith(b"HEAD "))
    return handshake, response, listener, raw


def status_of(data, result=LISTENER):
    return answer_of(data, result)[1].status


# -- the request -------------------------------------------------------------------------------


def test_request():
    handshake = ServerHandshake()
    got = handshake.receive_data(request(b"X-A:  b ", line=b"GET /chat?a=%20b HTTP/1.1"))
    assert got is handshake.request
    assert (got.method, got.path, got.version) == (b"GET", b"/chat?a=%20b", b"HTTP/1.1")
    assert isinstance(got.headers, CIMultiDict)
    assert (got.headers["host"], got.headers["x-a"]) == ("example.com", "b")
    assert handshake.trailing_data == b""
    assert handshake.refusal is None


def test_request_is_complete_once():
    handshake = received(request())
    with pytest.raises(RuntimeError, match="complete already"):
        handshake.receive_data(b"\x81")
    with pytest.raises(RuntimeError, match="before the request"):
        ServerHandshake().respond(LISTENER)


@pytest.mark.parametrize("trailing", [b"", b"\x81\x80abcd", b"\r\n\r\n", bytes(100_000)])
def test_line_03_first_frames_in_the_same_segment(trailing):
    data = request() + trailing
    for cut in range(len(request()) + 3):
        handshake = ServerHandshake()
        if handshake.receive_data(data[:cut]) is None:
            assert cut < len(request())
            assert handshake.receive_data(data[cut:]).path == b"/chat"
            assert handshake.trailing_data == trailing
        else:
            assert handshake.trailing_data == data[len(request()) : cut]


def test_request_byte_by_byte():
    handshake = ServerHandshake()
    requests = [handshake.receive_data(bytes([byte])) for byte in request()]
    assert requests[:-1] == [None] * (len(requests) - 1)
    assert requests[-1].headers["Upgrade"] == "websocket"


@pytest.mark.parametrize(
    "line",
    [
        b"GET",
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET /a b HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET /\t HTTP/1.1",
        b"G@T / HTTP/1.1",
        b"GET / HTTP/1",
        b"GET / HTTP/11",
        b"GET / http/1.1",
        b"GET / HTTP/1.1x",
        b"GET / FTP/1.1",
        b"GET x HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET h:80 HTTP/1.1",
        b"GET /a#b HTTP/1.1",
        b"GET ftp://h/ HTTP/1.1",
        b"GET http:/// HTTP/1.1",
        b"GET http://u@h/ HTTP/1.1",
        b"GET http://h/#b HTTP/1.1",
        b"GET http://h:x/ HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b" GET / HTTP/1.1",
        b"",
        b"\r\nGET / HTTP/1.1",
    ],
)
def test_request_line(line):
    assert refusal_of(request(line=line)).response.status == 400


@pytest.mark.parametrize("data", [b"\x16\x03\x01", b"\r", b"\n", b" ", b"\x00", b"\xff", b":"])
def test_what_never_becomes_a_request_is_refused_at_its_first_byte(data):
    # A TLS client at a plain port sends no blank line; it would wait for the deadline.
    refusal = refusal_of(data)
    assert refusal.response.status == 400
    assert refusal.raw_header == data


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"http://other:81/x?y", b"/x?y", "other:81"),
        (b"ws://other", b"/", "other"),
        (b"WSS://[::1]?y", b"/?y", "[::1]"),
        (b"/http://other/", b"/http://other/", "example.com"),
        (b"//other/", b"//other/", "example.com"),
    ],
)
def test_absolute_form(target, path, host):
    handshake = received(request(line=b"GET %b HTTP/1.1" % target))
    assert handshake.request.path == path
    assert handshake.request.headers.getall("Host") == [host]


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9"])
def test_http_version(version):
    assert refusal_of(request(line=b"GET / " + version)).response.status == 505
    assert refusal_of(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").response.status == 505


@pytest.mark.parametrize("method", [b"POST", b"OPTIONS", b"CONNECT", b"get", b"Head", b"GETS"])
def test_method(method):
    refusal = refusal_of(request(line=method + b" / HTTP/1.1"))
    assert refusal.response.status == 405
    assert refusal.response.headers["Allow"] == "GET, HEAD"
    assert b"\r\nAllow: GET, HEAD\r\n" in refusal.raw


@pytest.mark.parametrize(
    "host",
    [
        None,
        b"Host: a\r\nHost: a",
        b"Host: a\r\nhost: b",
        b"Host:",
        b"Host: a b",
        b"Host: a/b",
        b"Host: u@a",
        b"Host: a, b",
        b"Host: a:b",
        b"Host: ::1",
        b"Host: [::1",
        b"Host: [::1]x",
    ],
)
def test_line_13_host(host):
    assert refusal_of(request(host=host)).response.status == 400


@pytest.mark.parametrize("host", [b"a", b"a:80", b"a:", b"[::1]", b"[::1]:80", b"1.2.3.4", b"a_b"])
def test_host(host):
    assert status_of(request(host=b"Host: " + host)) == 101


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length: 1",
        b"Content-Length: +0",
        b"Content-Length: 0_0",
        b"Content-Length: -0",
        b"Content-Length: 0, 0",
        b"Content-Length:",
        b"Content-Length: 0\r\nContent-Length: 0",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding:",
        b"Transfer-Encoding: identity",
        b"A: b\nC: d",
        b"A: b\n",
        b"A: b\rC: d",
        b"A: b\r\n folded",
        b"A: b\r\n\tfolded",
        b"A : b",
        b"A\t: b",
        b"A(B): c",
        b"no colon",
        b": no name",
        b"A: \x00",
        b"A: \x0c",
        b"A: \x7f",
    ],
)
def test_line_06_malformed_request(line):
    assert refusal_of(request(line)).response.status == 400


def test_content_length_of_nothing():
    assert status_of(request(b"Content-Length: 0")) == 101


@pytest.mark.parametrize("data", [b"\x80", b"\xff", "é".encode(), b"\xed\xa0\x80", b"\xc0\xaf"])
def test_line_05_bytes_beyond_ascii(data):
    for line in (b"User-Agent: " + data, b"A%b: c" % data):
        assert refusal_of(request(line)).response.status == 400
    assert refusal_of(request(line=b"GET /%b HTTP/1.1" % data)).response.status == 400


def test_size_of_a_request():
    assert status_of(request(*[b"A: b"] * 123)) == 101
    assert refusal_of(request(*[b"A: b"] * 124)).response.status == 431
    room = 16384 - len(request(b"A: "))
    assert status_of(request(b"A: " + b"b" * room)) == 101
    assert refusal_of(request(b"A: " + b"b" * (room + 1))).response.status == 431
    refusal = refusal_of(request(b"A: " + b"b" * 100_000))
    assert refusal.response.status == 431
    assert len(refusal.raw_header) == 16384


def test_refusal_says_why_and_repeats_nothing():
    refusal = refusal_of(request(b"X-Evil: <script>\x00"))
    assert refusal.reason == str(refusal)
    assert refusal.reason.startswith("malformed request: ")
    assert b"script" not in refusal.raw
    assert b"Evil" not in refusal.raw
    assert refusal.raw_header == request(b"X-Evil: <script>\x00")


@pytest.mark.parametrize(
    "data", [head(b"HEAD / HTTP/1.1"), b"HEAD / HTTP/1.1\n", b"HEAD \x00\r\n\r\n"]
)
def test_refusal_of_a_head_request_has_no_body(data):
    refusal = refusal_of(data)
    assert refusal.response.status == 400
    assert refusal.raw.endswith(b"\r\n\r\n")


# -- the upgrade -------------------------------------------------------------------------------


def test_listener():
    _, response, listener, raw = answer_of(request())
    assert listener is LISTENER
    assert (
        raw
        == (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n"
        )
        % ACCEPT.encode()
    )
    assert response.status is HTTPStatus.SWITCHING_PROTOCOLS
    assert list(response.headers.items()) == [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", ACCEPT),
    ]
    # The quick way for plain listeners and the general one are the same.
    assert encode_response(response) == raw


@pytest.mark.parametrize("result", [0, "", [], False])
def test_a_listener_may_be_false(result):
    # Only None is a 404: a listener class may define __len__ or __bool__.
    assert answer_of(request(), result)[2] is result


def test_response_with_listener():
    given = WSUpgradeResponse.create_101_response({"Set-Cookie": "a=b"})
    before = list(given.headers.items())
    _, response, listener, raw = answer_of(
        request(), WSUpgradeResponseWithListener(given, LISTENER)
    )
    assert listener is LISTENER
    assert (
        raw
        == (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\nSet-Cookie: a=b\r\n\r\n"
        )
        % ACCEPT.encode()
    )
    assert encode_response(response) == raw
    # One response may be the answer to many clients.
    assert list(given.headers.items()) == before


@pytest.mark.parametrize(
    "connection",
    [
        b"Connection: upgrade",
        b"CONNECTION:UPGRADE",
        b"Connection: keep-alive, Upgrade",
        b"Connection: Upgrade,keep-alive",
        b"Connection: keep-alive\r\nConnection: Upgrade",
    ],
)
def test_line_01_connection_tokens(connection):
    assert status_of(request(connection=connection)) == 101


@pytest.mark.parametrize(
    "connection",
    [
        None,
        b"Connection:",
        b"Connection: notupgrade",
        b"Connection: upgraded",
        b"Connection: keep-alive",
        b"Connection: keep-alive upgrade",
    ],
)
def test_line_01_connection_without_upgrade(connection):
    assert status_of(request(connection=connection)) == 400


@pytest.mark.parametrize(
    "upgrade",
    [
        b"Upgrade: WebSocket",
        b"upgrade:websocket",
        b"Upgrade: h2c, websocket",
        b"Upgrade: a\r\n" + UPGRADE,
    ],
)
def test_upgrade(upgrade):
    assert status_of(request(upgrade=upgrade)) == 101


@pytest.mark.parametrize("upgrade", [None, b"Upgrade:", b"Upgrade: h2c", b"Upgrade: notwebsocket"])
def test_other_upgrade(upgrade):
    handshake, response, _, _ = answer_of(request(upgrade=upgrade))
    assert response.status == 400
    assert "Upgrade" in handshake.refusal


@pytest.mark.parametrize("version", [b"8", b"7", b"0", b"14", b"130", b"", b"13, 8", b"x", b"013"])
def test_line_13_version(version):
    handshake, response, _, raw = answer_of(request(version=b"Sec-WebSocket-Version: " + version))
    assert response.status == 426
    assert response.headers["Sec-WebSocket-Version"] == "13"
    # RFC 9110 section 15.5.22 and 7.8
    assert response.headers["Upgrade"] == "websocket"
    assert response.headers["Connection"] == "Upgrade, close"
    assert b"\r\nSec-WebSocket-Version: 13\r\n" in raw
    assert "13" in handshake.refusal


@pytest.mark.parametrize("version", [None, VERSION + b"\r\n" + VERSION])
def test_line_13_version_missing_or_repeated(version):
    assert status_of(request(version=version)) == 400


@pytest.mark.parametrize(
    "key",
    [
        None,
        b"Sec-WebSocket-Key:",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=",
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA",
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAAA",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ!==",
        KEY + b"\r\n" + KEY,
    ],
)
def test_line_13_key_of_a_wrong_length(key):
    assert status_of(request(key=key)) == 400


# -- what the factory returns ------------------------------------------------------------------


def test_none_is_404():
    for data in (request(), request(upgrade=None, key=None)):
        handshake, response, _, raw = answer_of(data, None)
        assert response.status == 404
        assert raw == (
            b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: 10\r\nConnection: close\r\n\r\nNot Found\n"
        )
        assert handshake.refusal is None


@pytest.mark.parametrize("data", [request(), request(upgrade=None, key=None, version=b"A: b")])
def test_other_statuses_go_out_whether_or_not_an_upgrade_was_asked_for(data):
    ok = WSUpgradeResponse.create_ok_response(b"fine\n", {"Content-Type": "text/plain"})
    _, _, listener, raw = answer_of(data, WSUpgradeResponseWithListener(ok, None))
    assert listener is None
    assert raw == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"
        b"Connection: close\r\n\r\nfine\n"
    )
    redirect = WSUpgradeResponse.create_redirect_response(307, "wss://h/")
    assert answer_of(data, WSUpgradeResponseWithListener(redirect, None))[3] == (
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: wss://h/\r\nContent-Length: 0\r\n"
        b"Connection: close\r\n\r\n"
    )
    error = WSUpgradeResponse.create_error_response(599, b"x")
    assert answer_of(data, WSUpgradeResponseWithListener(error, None))[3] == (
        b"HTTP/1.1 599 \r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
    )


def test_head_request_is_answered_without_body():
    ok = WSUpgradeResponse.create_ok_response(b"fine\n")
    result = WSUpgradeResponseWithListener(ok, None)
    raw = answer_of(request(line=b"HEAD / HTTP/1.1"), result)[3]
    assert raw == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    assert answer_of(request(line=b"HEAD / HTTP/1.1"), None)[3].endswith(b"\r\n\r\n")


def test_head_request_is_never_upgraded():
    upgrade = WSUpgradeResponse.create_101_response()
    for result in (LISTENER, WSUpgradeResponseWithListener(upgrade, LISTENER)):
        assert status_of(request(line=b"HEAD / HTTP/1.1"), result) == 400


@pytest.mark.parametrize("protocol", ["chat", "b.v2", "a/b"])
def test_subprotocol(protocol):
    response = WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": protocol})
    offer = b"Sec-WebSocket-Protocol: a/b, chat\r\nSec-WebSocket-Protocol: b.v2"
    raw = answer_of(request(offer), WSUpgradeResponseWithListener(response, LISTENER))[3]
    assert b"\r\nSec-WebSocket-Protocol: %b\r\n" % protocol.encode() in raw


@pytest.mark.parametrize(
    ("offer", "headers"),
    [
        (None, {"Sec-WebSocket-Protocol": "chat"}),
        (b"Sec-WebSocket-Protocol: chat2, cha", {"Sec-WebSocket-Protocol": "chat"}),
        (b"Sec-WebSocket-Protocol: Chat", {"Sec-WebSocket-Protocol": "chat"}),
        (b"Sec-WebSocket-Protocol: a, b", {"Sec-WebSocket-Protocol": "a, b"}),
        (
            b"Sec-WebSocket-Protocol: a, b",
            [("Sec-WebSocket-Protocol", "a"), ("sec-websocket-protocol", "b")],
        ),
    ],
)
def test_line_12_subprotocol_the_client_did_not_offer(offer, headers):
    response = WSUpgradeResponse.create_101_response(headers)
    handshake, response, _, raw = answer_of(
        request(offer), WSUpgradeResponseWithListener(response, LISTENER)
    )
    assert response.status == 500
    assert "subprotocol" in handshake.refusal
    assert b"protocol" not in raw


def test_extension():
    response = WSUpgradeResponse.create_101_response({"Sec-WebSocket-Extensions": "x-own; a"})
    offer = b"Sec-WebSocket-Extensions: permessage-deflate, X-Own; b"
    assert status_of(request(offer), WSUpgradeResponseWithListener(response, LISTENER)) == 101


@pytest.mark.parametrize(
    ("offer", "selected"),
    [
        (None, "permessage-deflate"),
        (b"Sec-WebSocket-Extensions: x-own", "permessage-deflate"),
        (b"Sec-WebSocket-Extensions: x-own", "x-own, permessage-deflate"),
        (b"Sec-WebSocket-Extensions: x-own", "x-own;"),
        (b"Sec-WebSocket-Extensions: x-own;", "x-own"),
    ],
)
def test_line_12_extension_the_client_did_not_offer(offer, selected):
    response = WSUpgradeResponse.create_101_response({"Sec-WebSocket-Extensions": selected})
    handshake, response, _, _ = answer_of(
        request(offer), WSUpgradeResponseWithListener(response, LISTENER)
    )
    assert response.status == 500
    assert "extension" in handshake.refusal


def test_malformed_offers_of_the_client_are_its_own_business():
    offers = [b"Sec-WebSocket-Extensions: a;;", b"Sec-WebSocket-Protocol: a b, (c)"]
    assert status_of(request(*offers)) == 101


def test_line_15_factory_that_raised():
    handshake = received(request())
    response, listener, raw = handshake.respond_with_error()
    assert (response.status, listener) == (500, None)
    assert raw == (
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: 22\r\nConnection: close\r\n\r\nInternal Server Error\n"
    )
    handshake = received(request(line=b"HEAD / HTTP/1.1"))
    assert handshake.respond_with_error()[2].endswith(b"\r\n\r\n")
    assert ServerHandshake().respond_with_error()[2] == raw


def changed(response, **attributes):
    for name, value in attributes.items():
        setattr(response, name, value)
    return response


OK = WSUpgradeResponse.create_ok_response
UP = WSUpgradeResponse.create_101_response


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (OK(b"geheim"), "without a listener"),
        (UP(), "without a listener"),
        ((OK(), {"headers": CIMultiDict({"A": "geheim\r\nB: c"})}), "cannot be sent.*'A'"),
        ((OK(), {"headers": CIMultiDict({"A\n": "geheim"})}), "cannot be sent.*token"),
        ((OK(), {"headers": CIMultiDict({"A": 1})}), "cannot be sent.*int"),
        ((OK(), {"headers": CIMultiDict({"Transfer-Encoding": "x"})}), "cannot be sent.*coding"),
        ((OK(), {"body": "geheim"}), "cannot be sent.*not str"),
        ((OK(), {"status": 199}), "cannot be sent.*199"),
        ((OK(), {"status": 600}), "cannot be sent.*600"),
        ((OK(), {"status": None}), "cannot be sent"),
        ((OK(), {"status": 101}), "101 without a listener"),
        ((UP(), {"headers": CIMultiDict({"A": "geheim\n"})}), "cannot be sent.*'A'"),
    ],
)
def test_line_14_response_that_cannot_be_sent(result, reason):
    if isinstance(result, tuple):
        response, attributes = result
        listener = LISTENER if response.status == 101 else None
        result = WSUpgradeResponseWithListener(response, listener)
        changed(response, **attributes)
    handshake, response, listener, raw = answer_of(request(), result)
    assert (response.status, listener) == (500, None)
    assert b"geheim" not in raw
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(handshake.refusal)


def test_fields_of_the_handshake_put_in_late_are_replaced():
    response = UP({"A": "b"})
    response.headers.extend({"Sec-WebSocket-Accept": "x", "Content-Length": "7"})
    raw = answer_of(request(), WSUpgradeResponseWithListener(response, LISTENER))[3]
    assert raw.count(b"Sec-WebSocket-Accept: ") == 1
    assert ACCEPT.encode() in raw
    assert b"Content-Length" not in raw


# -- encode_response ---------------------------------------------------------------------------


def test_encode_response_frames_what_it_sends():
    response = OK(b"body", [("Content-Length", "7"), ("connection", "keep-alive"), ("A", "b")])
    raw = b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
    assert encode_response(response) == raw
    assert encode_response(response, head_only=True) == raw[:-4]
    assert response.headers["Content-Length"] == "7"


@pytest.mark.parametrize(
    "body", [bytearray(b"body"), memoryview(b"body"), memoryview(b"b_o_d_y")[::2]]
)
def test_encode_response_takes_bytes_like_bodies(body):
    raw = encode_response(changed(OK(), body=body))
    assert raw == b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"


def test_encode_response_without_body():
    for status, phrase in ((204, b"No Content"), (304, b"Not Modified")):
        response = changed(OK(b"body"), status=status)
        raw = encode_response(response)
        assert raw == b"HTTP/1.1 %d %b\r\nConnection: close\r\n\r\n" % (status, phrase)


def test_encode_response_is_always_http_1_1():
    assert encode_response(changed(OK(), version=b"HTTP/9\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("status", [100, 103, 199, 600, 0])
def test_encode_response_of_no_final_status(status):
    with pytest.raises(ValueError, match=f"{status} is no status"):
        encode_response(changed(OK(), status=status))


# -- end of stream -----------------------------------------------------------------------------


def test_line_02_end_of_stream():
    with pytest.raises(WSHandshakeError, match="without a request") as caught:
        ServerHandshake().receive_eof()
    assert type(caught.value) is WSHandshakeError
    for end in range(1, len(request())):
        handshake = ServerHandshake()
        assert handshake.receive_data(request()[:end]) is None
        with pytest.raises(WSInvalidMessageError, match="inside the head") as caught:
            handshake.receive_eof()
        assert caught.value.raw_header == request()[:end]
    with pytest.raises(WSHandshakeError, match="before the response"):
        received(request()).receive_eof()


# -- both sides, and anything ------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["ws://h", "wss://u:p@[::1]:8443/x?y=z", "ws://[fe80::1%25eth0]:1/ü", "ws://münchen.de/"]
)
def test_our_client_and_our_server(url):
    client = ClientHandshake(parse_url(url), {"Sec-WebSocket-Protocol": "a, b", "X": "y"})
    server = received(client.request_bytes() + b"first")
    assert list(server.request.headers.items()) == list(client.request.headers.items())
    assert server.request.path == client.request.path
    response = UP({"Sec-WebSocket-Protocol": "b"})
    sent, _, raw = server.respond(WSUpgradeResponseWithListener(response, LISTENER))
    got = client.receive_data(raw + b"second")
    assert list(got.headers.items()) == list(sent.headers.items())
    assert (server.trailing_data, client.trailing_data) == (b"first", b"second")


def verdict(data, step):
    handshake = ServerHandshake()
    try:
        for at in range(0, len(data), step):
            if handshake.receive_data(data[at : at + step]) is not None:
                break
        else:
            return "incomplete"
    except ServerRefusal as exc:
        check_refusal(exc.raw, exc.response, data.startswith(b"HEAD "))
        return exc.raw
    # What was taken is well-formed enough to be sent on, and is then the same again.
    got = handshake.request
    again = head(
        b" ".join((got.method, got.path, got.version)),
        *(f"{name}: {value}".encode("ascii") for name, value in got.headers.items()),
    )
    assert list(received(again).request.headers.items()) == list(got.headers.items())
    response, listener, raw = handshake.respond(LISTENER)
    assert (listener is LISTENER) == (response.status == 101)
    assert response.status in (101, 400, 426)
    return raw


MUTATIONS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3)), max_size=4
)


@given(st.binary())
def test_garbage(data):
    for prefix in (b"", b"GET ", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: h\r\n"):
        for suffix in (b"", b"\r\n\r\n"):
            whole = prefix + data + suffix
            assert len({verdict(whole, step) for step in (1, 7, 10_000)}) == 1


@given(MUTATIONS)
def test_nearly_right(mutations):
    data = request(b"Sec-WebSocket-Protocol: a, b")
    for at, removed, inserted in mutations:
        at %= len(data) + 1
        data = data[:at] + inserted + data[at + removed :]
    assert len({verdict(data, step) for step in (1, 7, 10_000)}) == 1
