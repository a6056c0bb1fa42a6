"""handshake/client.py: the request that is sent, each answer that is taken or refused."""

from base64 import b64decode
from dataclasses import replace
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from picows.errors import (
    WSHandshakeError,
    WSInvalidHeaderError,
    WSInvalidMessageError,
    WSInvalidStatusError,
    WSInvalidUpgradeError,
)
from picows.handshake.client import ClientHandshake
from picows.handshake.http11 import MAX_BODY
from picows.handshake.negotiate import accept_key
from picows.urls import parse_url

URL = parse_url("ws://example.com/chat")
STATUS_LINE = b"HTTP/1.1 101 Switching Protocols"
UPGRADE = b"Upgrade: websocket"
CONNECTION = b"Connection: Upgrade"
ACCEPT = b"Sec-WebSocket-Accept: @ACCEPT@"


def head(*lines, start=STATUS_LINE):
    return b"\r\n".join([start, *lines, b"", b""])


def answer(*more, upgrade=UPGRADE, connection=CONNECTION, accept=ACCEPT, start=STATUS_LINE):
    """A 101; @ACCEPT@ becomes what belongs to the key."""
    lines = [line for line in (upgrade, connection, accept, *more) if line is not None]
    return head(*lines, start=start)


def handshake_and(data, extra_headers=None):
    handshake = ClientHandshake(URL, extra_headers)
    accept = accept_key(handshake.request.headers["Sec-WebSocket-Key"])
    return handshake, data.replace(b"@ACCEPT@", accept.encode())


def receive(data, extra_headers=None):
    handshake, data = handshake_and(data, extra_headers)
    return handshake.receive_data(data)


def error_of(data, error, extra_headers=None, match=None):
    """The error that the answer raises; and that it raises the same one byte by byte."""
    handshake, filled_in = handshake_and(data, extra_headers)
    with pytest.raises(WSHandshakeError, match=match) as caught:
        handshake.receive_data(filled_in)
    assert type(caught.value) is error
    handshake, filled_in = handshake_and(data, extra_headers)
    with pytest.raises(WSHandshakeError, match=match) as slowly:
        for byte in filled_in:
            handshake.receive_data(bytes([byte]))
    assert type(slowly.value) is error
    return caught.value


# -- the request -------------------------------------------------------------------------------


def sent_fields(url, extra_headers=None):
    handshake = ClientHandshake(parse_url(url), extra_headers)
    line, *fields, blank, end = handshake.request_bytes().decode("ascii").split("\r\n")
    assert (blank, end) == ("", "")
    return line, [tuple(field.split(": ", 1)) for field in fields]


def test_request():
    line, fields = sent_fields("ws://example.com:81/chat?room=1", {"X-A": "b", "Origin": "c"})
    assert line == "GET /chat?room=1 HTTP/1.1"
    assert [name for name, _ in fields] == [
        "Host",
        "Upgrade",
        "Connection",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "X-A",
        "Origin",
    ]
    values = dict(fields)
    assert len(b64decode(values.pop("Sec-WebSocket-Key"), validate=True)) == 16
    assert list(values.values()) == ["example.com:81", "websocket", "Upgrade", "13", "b", "c"]


def test_request_object():
    request = ClientHandshake(URL).request
    assert (request.method, request.path, request.version) == (b"GET", b"/chat", b"HTTP/1.1")
    assert isinstance(request.headers, CIMultiDict)
    assert request.headers["host"] == "example.com"


def test_each_handshake_has_its_own_key():
    keys = {ClientHandshake(URL).request.headers["Sec-WebSocket-Key"] for _ in range(50)}
    assert len(keys) == 50


@pytest.mark.parametrize("name", ["Host", "host", "HOST"])
def test_host_of_the_user_replaces_the_generated_one(name):
    _, fields = sent_fields("ws://example.com/", {"X": "y", name: "other:1"})
    assert fields[0] == ("Host", "other:1")
    assert [name for name, _ in fields].count("Host") == 1
    assert ("X", "y") in fields


def test_two_hosts():
    with pytest.raises(ValueError, match="more than one Host"):
        ClientHandshake(URL, [("Host", "a"), ("host", "b")])


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("ws://[::1]:8080/", "[::1]:8080"),
        ("ws://[::1]/", "[::1]"),
        ("ws://[fe80::1%25eth0]/", "[fe80::1]"),
        ("ws://u:p@h:81/", "h:81"),
    ],
)
def test_line_10_host(url, host):
    assert sent_fields(url)[1][0] == ("Host", host)


@pytest.mark.parametrize(
    ("userinfo", "credentials"),
    [
        ("user:pass", b"user:pass"),
        ("user", b"user:"),
        (":pass", b":pass"),
        ("us%40er:p%3As%2F", b"us@er:p:s/"),
        ("j%C3%B6rg:p", "jörg:p".encode()),
        ("user:" + "p" * 300, b"user:" + b"p" * 300),
    ],
)
def test_line_10_userinfo_becomes_basic_authorization(userinfo, credentials):
    _, fields = sent_fields(f"ws://{userinfo}@h/")
    scheme, _, value = dict(fields)["Authorization"].partition(" ")
    assert scheme == "Basic"
    assert b64decode(value, validate=True) == credentials


def test_authorization_of_the_user_wins():
    _, fields = sent_fields("ws://user:pass@h/", {"authorization": "Bearer x"})
    assert [field for field in fields if field[0].lower() == "authorization"] == [
        ("authorization", "Bearer x")
    ]
    assert "Authorization" not in dict(sent_fields("ws://h/")[1])


@pytest.mark.parametrize(
    "name",
    [
        "Upgrade",
        "CONNECTION",
        "Sec-WebSocket-Key",
        "sec-websocket-version",
        "Sec-WebSocket-Accept",
        "Content-Length",
        "Transfer-Encoding",
    ],
)
def test_fields_of_the_handshake_are_not_the_users(name):
    with pytest.raises(ValueError, match=f"'{name}' is set by the handshake"):
        ClientHandshake(URL, {name: "x"})


@pytest.mark.parametrize(
    "extra_headers",
    [
        {"A": "b\r\nC: d"},
        {"A": "b\n"},
        {"A": "\x00"},
        {"A\r\nB": "c"},
        {"A B": "c"},
        {"": "c"},
        {"Host": "h\r\nA: b"},
        {"Cookie": "a\r\n"},
        {"Sec-WebSocket-Protocol": "a\r\nB: c"},
        {"Sec-WebSocket-Protocol": "a b"},
        {"Sec-WebSocket-Protocol": "a, a"},
        {"Sec-WebSocket-Extensions": "a b"},
    ],
)
def test_line_14_extra_headers(extra_headers):
    with pytest.raises(ValueError, match=r"header|Sec-WebSocket"):
        ClientHandshake(URL, extra_headers)


@pytest.mark.parametrize("path", ["", "x", "/a b", "/\r\nA: b", "/\x00", "/é", "/a#b", "/\n"])
def test_line_14_target(path):
    # parse_url never makes such a path; a WSParsedURL can be made by hand.
    with pytest.raises(ValueError, match="path of a URL"):
        ClientHandshake(replace(URL, path=path))


@pytest.mark.parametrize("host", ["h\r\nA: b", "h\x00", "é"])
def test_line_14_host(host):
    with pytest.raises(ValueError, match="'Host'"):
        ClientHandshake(replace(URL, host=host))


@pytest.mark.parametrize("extra_headers", [1, "A: b", [("A", 1)], {"A": b"b"}])
def test_extra_headers_of_another_type(extra_headers):
    with pytest.raises(TypeError, match="extra_headers"):
        ClientHandshake(URL, extra_headers)


def test_line_14_request_changed_before_it_is_sent():
    handshake = ClientHandshake(URL)
    handshake.request.headers["A"] = "b\r\nC: d"
    with pytest.raises(ValueError, match="'A'"):
        handshake.request_bytes()


def test_line_15_redacted_request():
    handshake = ClientHandshake(
        parse_url("ws://user:geheim@h/x?listenKey=geheim&a=b"),
        {"Cookie": "geheim", "X-API-Key": "geheim", "Proxy-Authorization": "geheim", "A": "b"},
    )
    text = handshake.redacted_request()
    assert "geheim" not in text
    assert "Z2VoZWlt" not in text  # in base64
    key = handshake.request.headers["Sec-WebSocket-Key"]
    assert text.split("\r\n") == [
        "GET /x?listenKey=***&a=b HTTP/1.1",
        "Host: h",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        "Cookie: ***",
        "X-API-Key: ***",
        "Proxy-Authorization: ***",
        "A: b",
        "Authorization: ***",
    ]


# -- the 101 -----------------------------------------------------------------------------------


def test_101():
    response = receive(answer(b"Server: x"))
    assert (response.version, response.status, response.body) == (b"HTTP/1.1", 101, None)
    assert response.status is HTTPStatus.SWITCHING_PROTOCOLS
    assert response.headers["server"] == "x"


@pytest.mark.parametrize(
    "trailing", [b"", b"\x81\x01a", b"\x81\x04\r\n\r\n", b"HTTP/1.1 200\r\n\r\n"]
)
def test_line_03_first_frames_in_the_same_segment(trailing):
    for cut in range(len(answer()) + len(trailing) + 20):
        handshake, data = handshake_and(answer())
        whole = data + trailing
        response = handshake.receive_data(whole[:cut])
        if cut < len(data):
            assert response is None
            response = handshake.receive_data(whole[cut:])
            assert handshake.trailing_data == trailing
        else:
            assert handshake.trailing_data == whole[len(data) : cut]
        assert response.status == 101


def test_101_byte_by_byte():
    handshake, data = handshake_and(answer())
    answers = [handshake.receive_data(bytes([byte])) for byte in data]
    assert answers[:-1] == [None] * (len(data) - 1)
    assert answers[-1].status == 101
    assert handshake.trailing_data == b""
    with pytest.raises(RuntimeError, match="over"):
        handshake.receive_data(b"x")


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 101", b"HTTP/1.1 101 ", b"HTTP/1.1 101 Switching Protocols", b"HTTP/1.1 101 \t!"],
)
def test_line_04_reason_phrase(start):
    assert receive(answer(start=start)).status == 101


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1  101 x",
        b"HTTP/1.1\t101 x",
        b"HTTP/1.1 10",
        b"HTTP/1.1 1010",
        b"HTTP/1.1 101x",
        b"HTTP/1.1 +101",
        b"HTTP/1.1 1_1",
        b"HTTP/1.1 000",
        b"HTTP/1.1 099",
        b"HTTP/1.2 101 x",
        b"HTTP/1. 101 x",
        b"HTTP/2 101 x",
        b"HTTP/2.0 101 x",
        b"http/1.1 101 x",
        b"ICY 200 OK",
        b"SSH-2.0-OpenSSH",
        b" HTTP/1.1 101 x",
        b"",
        b"\r\nHTTP/1.1 101 x",
        b"\x15\x03\x03",
    ],
)
def test_status_line(start):
    error = error_of(answer(start=start), WSInvalidMessageError)
    assert error.response is None


@pytest.mark.parametrize(
    "connection",
    [
        b"Connection: upgrade",
        b"connection:UPGRADE",
        b"Connection: keep-alive, Upgrade",
        b"Connection: keep-alive\r\nConnection: Upgrade",
        b"Connection: ,Upgrade ,",
    ],
)
def test_line_01_connection_tokens(connection):
    assert receive(answer(connection=connection)).status == 101


@pytest.mark.parametrize(
    ("connection", "value"),
    [
        (None, None),
        (b"Connection:", ""),
        (b"Connection: notupgrade", "notupgrade"),
        (b"Connection: close\r\nConnection: keep-alive", "close, keep-alive"),
    ],
)
def test_line_01_connection_without_upgrade(connection, value):
    error = error_of(answer(connection=connection), WSInvalidUpgradeError)
    assert (error.name, error.value) == ("Connection", value)


@pytest.mark.parametrize("upgrade", [b"Upgrade: WebSocket", b"UPGRADE:websocket"])
def test_upgrade(upgrade):
    assert receive(answer(upgrade=upgrade)).status == 101


@pytest.mark.parametrize(
    ("upgrade", "value"),
    [
        (None, None),
        (b"Upgrade:", ""),
        (b"Upgrade: h2c", "h2c"),
        (b"Upgrade: notwebsocket", "notwebsocket"),
        (b"Upgrade: websocket, h2c", "websocket, h2c"),
        (b"Upgrade: websocket\r\nUpgrade: websocket", "websocket, websocket"),
    ],
)
def test_other_upgrade(upgrade, value):
    error = error_of(answer(upgrade=upgrade), WSInvalidUpgradeError)
    assert (error.name, error.value) == ("Upgrade", value)


@pytest.mark.parametrize(
    "accept",
    [
        None,
        b"Sec-WebSocket-Accept:",
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        ACCEPT + b"x",
        ACCEPT + b"\r\n" + ACCEPT,
    ],
)
def test_accept(accept):
    error = error_of(answer(accept=accept), WSInvalidHeaderError)
    assert error.name == "Sec-WebSocket-Accept"
    assert (error.value is None) == (accept is None)


def test_accept_compares_with_case():
    handshake, data = handshake_and(answer())
    at = data.index(b"Accept: ") + 8
    assert data[at : at + 28].swapcase() != data[at : at + 28]
    with pytest.raises(WSInvalidHeaderError, match="Accept"):
        handshake.receive_data(data[:at] + data[at : at + 28].swapcase() + data[at + 28 :])


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("chat", b"Sec-WebSocket-Protocol: chat"),
        ("a, chat, b", b"sec-websocket-protocol:chat"),
        ("chat", None),
        (None, None),
    ],
)
def test_subprotocol(asked, line):
    extra_headers = {"Sec-WebSocket-Protocol": asked} if asked else None
    assert receive(answer(line), extra_headers).status == 101


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (None, b"Sec-WebSocket-Protocol: chat"),
        (None, b"Sec-WebSocket-Protocol:"),
        ("chat", b"Sec-WebSocket-Protocol: other"),
        ("chat", b"Sec-WebSocket-Protocol: Chat"),
        ("chat", b"Sec-WebSocket-Protocol: cha"),
        ("chat", b"Sec-WebSocket-Protocol:"),
        ("a, b", b"Sec-WebSocket-Protocol: a, b"),
        ("a, b", b"Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b"),
        ("a", b"Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: a"),
    ],
)
def test_line_12_subprotocol_nobody_asked_for(asked, line):
    extra_headers = {"sec-websocket-protocol": asked} if asked else None
    error = error_of(answer(line), WSInvalidHeaderError, extra_headers)
    assert error.name == "Sec-WebSocket-Protocol"


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("x-own", b"Sec-WebSocket-Extensions: x-own; a=1"),
        ("x-own, b", b"Sec-WebSocket-Extensions: b\r\nSec-WebSocket-Extensions: x-own"),
        ("x-own", None),
        (None, b"Sec-WebSocket-Extensions:"),
    ],
)
def test_extension(asked, line):
    extra_headers = {"Sec-WebSocket-Extensions": asked} if asked else None
    assert receive(answer(line), extra_headers).status == 101


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (None, b"Sec-WebSocket-Extensions: permessage-deflate"),
        ("x-own", b"Sec-WebSocket-Extensions: permessage-deflate"),
        ("x-own", b"Sec-WebSocket-Extensions: x-own, permessage-deflate"),
        ("x-own; permessage-deflate", b"Sec-WebSocket-Extensions: permessage-deflate"),
        ("x-own", b"Sec-WebSocket-Extensions: x-own;"),
        ("x-own", b"Sec-WebSocket-Extensions: x"),
    ],
)
def test_line_12_extension_nobody_asked_for(asked, line):
    extra_headers = {"Sec-WebSocket-Extensions": asked} if asked else None
    error = error_of(answer(line), WSInvalidHeaderError, extra_headers)
    assert error.name == "Sec-WebSocket-Extensions"
    assert error.value == line.partition(b": ")[2].decode()


def test_101_that_announces_a_body():
    assert receive(answer(b"Content-Length: 0")).status == 101
    error = error_of(answer(b"Content-Length: 1"), WSInvalidHeaderError)
    assert (error.name, error.value) == ("Content-Length", "1")
    error = error_of(answer(b"Transfer-Encoding: chunked"), WSInvalidHeaderError)
    assert (error.name, error.value) == ("Transfer-Encoding", "chunked")


def test_101_over_http_1_0():
    error_of(answer(start=b"HTTP/1.0 101 x"), WSInvalidMessageError, match=r"HTTP/1\.0")


def test_error_holds_the_answer():
    data = answer(b"Server: x", upgrade=b"Upgrade: h2c")
    handshake, data = handshake_and(data)
    with pytest.raises(WSInvalidUpgradeError) as caught:
        handshake.receive_data(data + b"more")
    assert caught.value.raw_header == data
    assert caught.value.raw_body is None
    assert caught.value.response.status == 101
    assert caught.value.response.headers["Server"] == "x"


# -- interim responses -------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 5, 1000])
@pytest.mark.parametrize(
    "interim",
    [
        head(start=b"HTTP/1.1 100 Continue"),
        head(b"Link: </style.css>; rel=preload", start=b"HTTP/1.1 103 Early Hints"),
        head(start=b"HTTP/1.1 199") * 16,
    ],
)
def test_interim_responses_are_skipped(interim, step):
    handshake, data = handshake_and(interim + answer() + b"frames")
    for at in range(0, len(data), step):
        response = handshake.receive_data(data[at : at + step])
        if response is not None:
            break
    assert response.status == 101
    assert handshake.trailing_data == b"frames"[: len(b"frames") + at + step - len(data)]


def test_interim_responses_without_end():
    error_of(head(start=b"HTTP/1.1 100 Continue") * 17, WSInvalidMessageError, match="interim")


def test_each_interim_head_is_checked():
    error_of(head(b"A : b", start=b"HTTP/1.1 100") + answer(), WSInvalidMessageError)
    error_of(head(start=b"HTTP/1.1 100") + b"SSH", WSInvalidMessageError)


# -- other statuses ----------------------------------------------------------------------------


def test_line_11_body_that_arrives_later():
    handshake = ClientHandshake(URL)
    raw_header = head(
        b"Retry-After: 7", b"Content-Length: 12", start=b"HTTP/1.1 429 Too Many Requests"
    )
    assert handshake.receive_data(raw_header) is None
    assert handshake.receive_data(b"slow ") is None
    with pytest.raises(WSInvalidStatusError, match="429 Too Many Requests") as caught:
        handshake.receive_data(b"down...and more")
    error = caught.value
    assert error.raw_header == raw_header
    assert error.raw_body == error.response.body == b"slow down..."
    assert error.response.status is HTTPStatus.TOO_MANY_REQUESTS
    assert error.response.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (head(b"Content-Length: 4", start=b"HTTP/1.1 503 x") + b"body", b"body"),
        (head(b"Content-Length: 0", start=b"HTTP/1.1 503 x"), b""),
        (
            head(b"Transfer-Encoding: chunked", start=b"HTTP/1.1 503 x")
            + b"2\r\nbo\r\n2;x\r\ndy\r\n0\r\n\r\n",
            b"body",
        ),
        (head(start=b"HTTP/1.1 204 No Content"), b""),
        (head(b"Content-Length: 4", start=b"HTTP/1.1 304 Not Modified"), b""),
        (head(b"Content-Length: 2", start=b"HTTP/1.0 200 OK") + b"ok", b"ok"),
    ],
)
def test_line_11_split_at_every_byte(raw, body):
    for cut in range(len(raw) + 1):
        handshake = ClientHandshake(URL)
        with pytest.raises(WSInvalidStatusError) as caught:
            assert handshake.receive_data(raw[:cut]) is None
            handshake.receive_data(raw[cut:])
        assert caught.value.raw_body == body
        assert raw.startswith(caught.value.raw_header)
    error_of(raw, WSInvalidStatusError)


def test_line_11_body_until_the_end_of_the_stream():
    handshake = ClientHandshake(URL)
    assert handshake.receive_data(head(start=b"HTTP/1.0 503 Busy") + b"come ") is None
    assert handshake.receive_data(b"back") is None
    with pytest.raises(WSInvalidStatusError, match="503") as caught:
        handshake.receive_eof()
    assert caught.value.raw_body == caught.value.response.body == b"come back"
    assert caught.value.response.version == b"HTTP/1.0"


@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
def test_line_11_body_cut_off(framing):
    handshake = ClientHandshake(URL)
    assert handshake.receive_data(head(framing, start=b"HTTP/1.1 503 x") + b"5\r\nab") is None
    with pytest.raises(WSInvalidStatusError) as caught:
        handshake.receive_eof()
    assert caught.value.raw_body == (b"ab" if b"chunked" in framing else b"5\r\nab")


def test_line_11_deadline():
    handshake = ClientHandshake(URL)
    assert handshake.give_up() is None
    raw_header = head(b"Content-Length: 9", start=b"HTTP/1.1 503 x")
    assert handshake.receive_data(raw_header[:-1]) is None
    assert handshake.give_up() is None
    assert handshake.receive_data(raw_header[-1:] + b"part") is None
    error = handshake.give_up()
    assert type(error) is WSInvalidStatusError
    assert (error.raw_header, error.raw_body) == (raw_header, b"part")
    assert error.response.status == 503


def test_line_11_body_is_read_up_to_1_mib():
    for framing in (b"Content-Length: 9999999", b"Server: x"):
        handshake = ClientHandshake(URL)
        assert handshake.receive_data(head(framing, start=b"HTTP/1.1 500 x")) is None
        assert handshake.receive_data(bytes(MAX_BODY - 1)) is None
        with pytest.raises(WSInvalidStatusError) as caught:
            handshake.receive_data(b"12")
        assert caught.value.raw_body == bytes(MAX_BODY - 1) + b"1"


@pytest.mark.parametrize("status", [599, 299, 999, 600])
def test_line_04_status_the_enum_does_not_know(status):
    for phrase in (b"", b" ", b" Whatever"):
        raw = head(b"Content-Length: 0", start=b"HTTP/1.1 %d%b" % (status, phrase))
        error = error_of(raw, WSInvalidStatusError, match=f"answered {status} where")
        assert error.response.status == status
        assert type(error.response.status) is int


@pytest.mark.parametrize("status", [200, 301, 400, 401, 404, 426, 500])
def test_status(status):
    raw = head(b"Content-Length: 0", start=b"HTTP/1.1 %d x" % status)
    error = error_of(raw, WSInvalidStatusError, match=str(status))
    assert error.response.status is HTTPStatus(status)


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: +0"],
        [b"Content-Length: 0_0"],
        [b"Content-Length: 0", b"Content-Length: 0"],
        [b"Content-Length: 0", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: gzip"],
    ],
)
def test_line_06_framing(lines):
    error = error_of(head(*lines, start=b"HTTP/1.1 503 x"), WSInvalidMessageError)
    # Even so it is told who answered, and what.
    assert error.response.status == 503
    assert error.response.headers["Content-Length" if b"Con" in lines[0] else "Transfer-Encoding"]


def test_malformed_chunk_in_the_body():
    raw = head(b"Transfer-Encoding: chunked", start=b"HTTP/1.1 503 x") + b"2\r\nab\r\nx\r\n"
    error = error_of(raw, WSInvalidMessageError, match="chunk")
    assert error.raw_body == b"ab"
    assert error.response.status == 503


@pytest.mark.parametrize(
    "line",
    [
        b"A: b\nC: d",
        b"A: b\r\n folded",
        b"A : b",
        b"A\x00: b",
        b"A: \x00",
        b"A: b\rC: d",
        b"no colon",
        b": no name",
        b"Content-Length: 0_0",
        b"Content-Length: 0\r\nContent-Length: 0",
    ],
)
def test_line_06_malformed_101(line):
    error = error_of(answer(line), WSInvalidMessageError)
    assert error.raw_header.startswith(b"HTTP/1.1 101")


@pytest.mark.parametrize("data", [b"\x80", b"\xff\xfe", "é".encode(), b"\xed\xa0\x80"])
def test_line_05_bytes_beyond_ascii(data):
    for line in (b"Server: " + data, data + b": x"):
        error_of(answer(line), WSInvalidMessageError, match="ASCII")
    error_of(answer(start=b"HTTP/1.1 101 " + data), WSInvalidMessageError, match="ASCII")


def test_size_of_the_head():
    error_of(answer(*[b"A: b"] * 126), WSInvalidMessageError, match="128")
    assert receive(answer(*[b"A: b"] * 125)).status == 101
    error = error_of(answer(b"A: " + b"b" * 17000), WSInvalidMessageError, match="16 KiB")
    assert len(error.raw_header) == 16384
    assert receive(answer(b"A: " + b"b" * 16000)).status == 101


# -- end of stream -----------------------------------------------------------------------------


def test_line_02_end_of_stream_before_the_head():
    with pytest.raises(WSHandshakeError, match="without an answer") as caught:
        ClientHandshake(URL).receive_eof()
    assert type(caught.value) is WSHandshakeError


def test_line_02_end_of_stream_inside_the_head():
    for end in range(1, len(answer())):
        handshake = ClientHandshake(URL)
        # @ACCEPT@ is as good as anything: the head never gets complete.
        assert handshake.receive_data(answer()[:end]) is None
        with pytest.raises(WSInvalidMessageError, match="inside the head") as caught:
            handshake.receive_eof()
        assert caught.value.raw_header == answer()[:end]
        assert caught.value.response is None


def test_line_02_end_of_stream_after_an_interim_response():
    handshake = ClientHandshake(URL)
    assert handshake.receive_data(head(start=b"HTTP/1.1 100 Continue")) is None
    with pytest.raises(WSHandshakeError, match="without an answer"):
        handshake.receive_eof()


# -- anything ----------------------------------------------------------------------------------


def verdict(data, step):
    handshake, data = handshake_and(data, {"Sec-WebSocket-Protocol": "a, b"})
    try:
        for at in range(0, len(data), step):
            response = handshake.receive_data(data[at : at + step])
            if response is not None:
                return response.status, list(response.headers.items())[:2]
        handshake.receive_eof()
    except WSHandshakeError as exc:
        # Not the message: it may show the answer to a key, and each handshake has its own.
        return type(exc), getattr(exc, "name", None), exc.raw_body


MUTATIONS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3)), max_size=4
)


def mutated(data, mutations):
    for at, removed, inserted in mutations:
        at %= len(data) + 1
        data = data[:at] + inserted + data[at + removed :]
    return data


@given(st.binary())
def test_garbage(data):
    for prefix in (b"", b"HTTP/1.1 ", b"HTTP/1.1 101 x\r\n", b"HTTP/1.1 503 x\r\n\r\n"):
        assert len({str(verdict(prefix + data, step)) for step in (1, 7, 10_000)}) == 1


@given(MUTATIONS)
def test_nearly_right(mutations):
    for data in (
        answer(b"Sec-WebSocket-Protocol: a"),
        head(start=b"HTTP/1.1 100 x") + answer(),
        head(b"Content-Length: 4", start=b"HTTP/1.1 503 x") + b"body",
        head(b"Transfer-Encoding: chunked", start=b"HTTP/1.1 503 x") + b"2\r\nbo\r\n0\r\n\r\n",
    ):
        data = mutated(data, mutations)
        assert len({str(verdict(data, step)) for step in (1, 7, 10_000)}) == 1
