"""handshake/http11.py: the two messages, the head, the body of a refusal."""

import random
import time
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from picows.handshake.http11 import (
    MAX_BODY,
    MAX_FIELDS,
    MAX_HEAD,
    BodyReader,
    HeadReader,
    MalformedMessage,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    as_status,
    body_reader,
    content_length,
    encode_request,
    parse_head,
)

HEAD = b"GET / HTTP/1.1\r\nHost: h\r\nA:b\r\nC: \t d e \t \r\nEmpty:\r\n\r\n"
FIELDS = [("Host", "h"), ("A", "b"), ("C", "d e"), ("Empty", "")]


# -- responses ---------------------------------------------------------------------------------


def test_ok_response():
    response = WSUpgradeResponse.create_ok_response()
    assert (response.version, response.status, response.body) == (b"HTTP/1.1", 200, None)
    assert isinstance(response.status, HTTPStatus)
    assert isinstance(response.headers, CIMultiDict)
    assert not response.headers
    response = WSUpgradeResponse.create_ok_response(b"fine", {"Content-Type": "text/plain"})
    assert response.body == b"fine"
    assert response.headers["content-type"] == "text/plain"


@pytest.mark.parametrize("status", [400, HTTPStatus.FORBIDDEN, 499, 599])
def test_error_response(status):
    response = WSUpgradeResponse.create_error_response(status, b"no", [("A", "b")])
    assert (response.status, response.body, response.headers["a"]) == (status, b"no", "b")
    assert isinstance(response.status, HTTPStatus) == (status in (400, 403))


@pytest.mark.parametrize("status", [101, 200, 399, 600, 0, -1])
def test_error_response_of_another_status(status):
    with pytest.raises(ValueError, match=f"400 to 599, not {status}"):
        WSUpgradeResponse.create_error_response(status)


@pytest.mark.parametrize("status", [300, HTTPStatus.FOUND, 308, 399])
def test_redirect_response(status):
    response = WSUpgradeResponse.create_redirect_response(status, "wss://h/x", {"A": "b"})
    assert (response.status, response.body) == (status, None)
    assert list(response.headers.items()) == [("A", "b"), ("Location", "wss://h/x")]


@pytest.mark.parametrize("status", [200, 299, 400])
def test_redirect_response_of_another_status(status):
    with pytest.raises(ValueError, match=f"300 to 399, not {status}"):
        WSUpgradeResponse.create_redirect_response(status, "wss://h/")


@pytest.mark.parametrize("location", ["ws://h/\r\nSet-Cookie: a=b", "ws://h/\x00", "ws://h/é"])
def test_line_14_location(location):
    with pytest.raises(ValueError, match="Location"):
        WSUpgradeResponse.create_redirect_response(302, location)


def test_redirect_response_takes_one_location():
    with pytest.raises(TypeError, match="location must be str, not bytes"):
        WSUpgradeResponse.create_redirect_response(302, b"ws://h/")
    with pytest.raises(ValueError, match="second Location"):
        WSUpgradeResponse.create_redirect_response(302, "ws://h/", {"location": "ws://i/"})


def test_101_response():
    response = WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": "chat"})
    assert (response.status, response.body) == (101, None)
    assert list(response.headers.items()) == [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Protocol", "chat"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "Upgrade",
        "connection",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "SEC-WEBSOCKET-ACCEPT",
        "Content-Length",
        "Transfer-Encoding",
    ],
)
def test_101_response_leaves_the_handshake_its_fields(name):
    with pytest.raises(ValueError, match=f"'{name}' is set by the handshake"):
        WSUpgradeResponse.create_101_response({name: "x"})


CREATORS = [
    lambda headers: WSUpgradeResponse.create_ok_response(None, headers),
    lambda headers: WSUpgradeResponse.create_error_response(404, None, headers),
    lambda headers: WSUpgradeResponse.create_redirect_response(302, "ws://h/", headers),
    lambda headers: WSUpgradeResponse.create_101_response(headers),
]


@pytest.mark.parametrize("create", CREATORS)
def test_line_14_extra_headers_of_responses(create):
    for name, value in (("A", "b\r\nC: d"), ("A\n", "b"), ("A", "\x00"), ("A b", "c")):
        with pytest.raises(ValueError, match="header"):
            create({name: value})
    with pytest.raises(ValueError, match="set by the handshake"):
        create({"Transfer-Encoding": "chunked"})
    with pytest.raises(TypeError, match="extra_headers"):
        create({"A": 1})


@pytest.mark.parametrize("body", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_bytes_like_bodies(body):
    for response in (
        WSUpgradeResponse.create_ok_response(body),
        WSUpgradeResponse.create_error_response(404, body),
    ):
        assert type(response.body) is bytes
        assert response.body == b"x"


@pytest.mark.parametrize("body", ["text", 1, ["x"]])
def test_other_bodies(body):
    with pytest.raises(TypeError, match="bytes-like or None"):
        WSUpgradeResponse.create_ok_response(body)
    with pytest.raises(TypeError, match="bytes-like or None"):
        WSUpgradeResponse.create_error_response(404, body)


def test_response_with_listener():
    ok = WSUpgradeResponse.create_ok_response()
    upgrade = WSUpgradeResponse.create_101_response()
    both = WSUpgradeResponseWithListener(upgrade, "listener")
    assert (both.response, both.listener) == (upgrade, "listener")
    assert WSUpgradeResponseWithListener(ok, None).listener is None
    with pytest.raises(ValueError, match="101 response needs a listener"):
        WSUpgradeResponseWithListener(upgrade, None)
    with pytest.raises(ValueError, match="403 response must have no listener"):
        WSUpgradeResponseWithListener(WSUpgradeResponse.create_error_response(403), "listener")
    with pytest.raises(TypeError, match="not str"):
        WSUpgradeResponseWithListener("listener", upgrade)


def test_line_04_status_the_enum_does_not_know():
    assert as_status(404) is HTTPStatus.NOT_FOUND
    assert as_status(599) == 599
    assert type(as_status(599)) is int


def test_line_15_repr_hides_credentials():
    headers = CIMultiDict({"Host": "h", "Authorization": "geheim", "Set-Cookie": "geheim"})
    request = WSUpgradeRequest(b"GET", b"/x?token=geheim", b"HTTP/1.1", headers)
    response = WSUpgradeResponse(b"HTTP/1.1", HTTPStatus.OK, headers, b"geheim")
    for message in (request, response, WSUpgradeResponse(b"HTTP/1.1", 599, headers)):
        assert "geheim" not in repr(message)
        assert "('Host', 'h')" in repr(message)


def test_messages_are_told_apart_by_identity():
    # They are used as keys, as any object is; equal fields do not make equal requests.
    one, other = (WSUpgradeRequest(b"GET", b"/", b"HTTP/1.1", CIMultiDict()) for _ in range(2))
    assert len({one, other}) == 2


def test_encode_request():
    request = WSUpgradeRequest(b"GET", b"/x", b"HTTP/1.1", CIMultiDict({"Host": "h"}))
    assert encode_request(request) == b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


# -- the head ----------------------------------------------------------------------------------


def test_parse_head():
    line, headers = parse_head(HEAD)
    assert line == "GET / HTTP/1.1"
    assert list(headers.items()) == FIELDS
    assert headers["HOST"] == "h"
    assert parse_head(b"x\r\n\r\n") == ("x", CIMultiDict())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"A: b\nC: d", "LF alone"),
        (b"A: b\n", "LF alone"),
        (b"\nA: b", "LF alone"),
        (b"A: b\rC: d", "a CR"),
        (b"A: b\r", "a CR"),
        (b" A: b", "folded"),
        (b"\tA: b", "folded"),
        (b"A: b\r\n folded", "no name and value"),
        (b"A: b\r\n folded: x", "folded"),
        (b"A : b", "no token"),
        (b"A\t: b", "no token"),
        (b"A(: b", "no token"),
        (b"A b: c", "no token"),
        (b"A", "no name and value"),
        (b": b", "no name and value"),
        (b":", "no name and value"),
        (b":A: b", "no name and value"),
        (b"A: \x00", "control character"),
        (b"A: \x0b", "control character"),
        (b"A: \x1b[0m", "control character"),
        (b"A: \x7f", "control character"),
        (b"A\x00: b", "control character"),
    ],
)
def test_line_06_malformed_field(line, reason):
    with pytest.raises(MalformedMessage, match=reason) as caught:
        parse_head(b"GET / HTTP/1.1\r\nHost: h\r\n" + line + b"\r\nEnd: 1\r\n\r\n")
    assert caught.value.status == 400


@pytest.mark.parametrize("data", [b"\x80", b"\xff", "é".encode(), "é".encode("latin-1"), b"\xc3"])
def test_line_05_bytes_beyond_ascii(data):
    for head in (b"GET /%b H\r\n\r\n", b"x\r\nA%b: b\r\n\r\n", b"x\r\nA: b%b\r\n\r\n"):
        with pytest.raises(MalformedMessage, match="beyond ASCII"):
            parse_head(head % data)


def test_number_of_fields():
    head = b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * MAX_FIELDS
    assert len(parse_head(head + b"\r\n")[1]) == MAX_FIELDS == 128
    with pytest.raises(MalformedMessage, match="128") as caught:
        parse_head(head + b"A: b\r\n\r\n")
    assert caught.value.status == 431


def test_names_that_nearly_every_request_holds_are_shared():
    """Each of ten thousand idle connections keeps its request."""
    head = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nSec-WebSocket-Key: k\r\n\r\n"
    first, second = (list(parse_head(head)[1]) for _ in range(2))
    assert first == ["Host", "Connection", "Sec-WebSocket-Key"]
    assert all(name is other for name, other in zip(first, second, strict=True))


def test_head_split_at_every_byte():
    data = HEAD + b"trailing"
    for cut in range(len(data) + 1):
        reader = HeadReader()
        heads = [reader.feed(data[:cut]), reader.feed(data[cut:])]
        assert heads == ([HEAD, None] if cut >= len(HEAD) else [None, HEAD])
        assert bytes(reader.buffer) == b"trailing"


def test_head_byte_by_byte():
    reader = HeadReader()
    heads = [reader.feed(bytes([byte])) for byte in HEAD]
    assert heads == [None] * (len(HEAD) - 1) + [HEAD]
    assert not reader.buffer


def head_of(size):
    return b"x\r\nA: " + b"b" * (size - 10) + b"\r\n\r\n"


@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
def test_size_of_a_head(step):
    def feed(data):
        reader = HeadReader()
        return [reader.feed(data[at : at + step]) for at in range(0, len(data), step)][-1]

    largest = head_of(MAX_HEAD)
    assert len(largest) == MAX_HEAD == 16384
    assert feed(largest) == largest
    # What is behind the head does not count.
    assert HeadReader().feed(largest + bytes(MAX_HEAD)) == largest
    for data in (head_of(MAX_HEAD + 1), head_of(MAX_HEAD + 4), head_of(10 * MAX_HEAD)):
        with pytest.raises(MalformedMessage, match="16 KiB") as caught:
            feed(data)
        assert caught.value.status == 431
        with pytest.raises(MalformedMessage, match="16 KiB"):
            feed(data[:MAX_HEAD])
    assert feed(largest[:-1]) is None


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\n", b"a\r\nb\nc", b"\n", b"a\r\n\n", b"\na\r"])
def test_line_06_bare_lf_is_told_at_once(data):
    # A client that ends its lines with LF never sends the blank line that is waited for.
    with pytest.raises(MalformedMessage, match="LF alone"):
        HeadReader().feed(data)
    reader = HeadReader()
    with pytest.raises(MalformedMessage, match="LF alone"):
        for byte in data:
            reader.feed(bytes([byte]))


def test_beginning():
    def is_fine(buffer):
        return b"HTTP/1.".startswith(buffer[:7])

    for data in (b"S", b"SSH-2.0-x\r\n", b"HTTP/2", b"\x15\x03\x01", b"HTTP 1", b"\n"):
        reader = HeadReader(is_fine)
        with pytest.raises(MalformedMessage, match="begin"):
            reader.feed(data)
        assert reader.buffer == data
    reader = HeadReader(is_fine)
    assert [reader.feed(bytes([byte])) for byte in b"HTTP/1.1 "] == [None] * 9


def test_dribbled_head_takes_linear_time():
    data = head_of(MAX_HEAD)
    started = time.perf_counter()
    reader = HeadReader()
    for byte in data:
        reader.feed(bytes([byte]))
    # Some 10 ms; a search from the beginning for each byte takes seconds.
    assert time.perf_counter() - started < 0.5


# -- Content-Length ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "length"),
    [("0", 0), ("7", 7), ("007", 7), ("1048577", 1048577), ("9" * 18, 10**18 - 1)],
)
def test_content_length(value, length):
    assert content_length(CIMultiDict({"content-length": value})) == length


def test_no_content_length():
    assert content_length(CIMultiDict()) is None


@pytest.mark.parametrize(
    "value", ["", "+0", "-0", "0_0", "0x0", "0 0", "0,0", "0, 0", "1e3", "٣", "9" * 19, "9" * 5000]
)
def test_line_06_content_length_is_digits(value):
    with pytest.raises(MalformedMessage, match="Content-Length"):
        content_length(CIMultiDict({"Content-Length": value}))


@pytest.mark.parametrize("values", [("0", "0"), ("1", "2")])
def test_line_06_duplicate_content_length(values):
    with pytest.raises(MalformedMessage, match="repeated"):
        content_length(CIMultiDict(("Content-Length", value) for value in values))


# -- bodies ------------------------------------------------------------------------------------


def read(reader, data, step):
    """(complete, body), fed in pieces until the reader has had enough."""
    for at in range(0, len(data), step):
        if reader.feed(data[at : at + step]):
            return True, bytes(reader.body)
    return False, bytes(reader.body)


def reader_for(*fields, status=503):
    return body_reader(status, CIMultiDict(fields))


STEPS = pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])


@STEPS
def test_body_of_a_length(step):
    assert read(reader_for(("Content-Length", "5")), b"12345", step) == (True, b"12345")
    assert read(reader_for(("Content-Length", "5")), b"1234567", step) == (True, b"12345")
    assert read(reader_for(("Content-Length", "5")), b"1234", step) == (False, b"1234")
    assert reader_for(("Content-Length", "0")).feed(b"")


@STEPS
def test_body_until_the_end_of_the_stream(step):
    assert read(reader_for(), b"12345", step) == (False, b"12345")


@pytest.mark.parametrize("status", [204, 304])
def test_status_without_body(status):
    for fields in ([], [("Content-Length", "5")], [("Transfer-Encoding", "chunked")]):
        reader = body_reader(status, CIMultiDict(fields))
        assert read(reader, b"12345", 10) == (True, b"")


@STEPS
@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\n12345\r\n0\r\n\r\n", b"12345"),
        (b"2\r\n12\r\n3\r\n345\r\n0\r\n\r\n", b"12345"),
        (b"005\r\n12345\r\n0000\r\n\r\n", b"12345"),
        (b"a;x=y\r\n1234567890\r\n0;z\r\n\r\n", b"1234567890"),
        (b'A ; x="y"\r\n1234567890\r\n0\r\nTrailer: x\r\n\r\n', b"1234567890"),
        (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    ],
)
def test_chunked_body(data, body, step):
    reader = reader_for(("Transfer-Encoding", "Chunked"))
    assert read(reader, data, step) == (True, body)
    # Cut off anywhere before the last chunk's line ended: what was read is there.
    complete = data.index(b"\r\n", data.rindex(b"\r\n0") + 2 if b"\r\n0" in data else 0) + 2
    for end in range(complete):
        reader = reader_for(("Transfer-Encoding", "chunked"))
        done, part = read(reader, data[:end], step)
        assert not done
        assert body.startswith(part)


@STEPS
@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b"1_0\r\n",
        b" 1\r\n",
        b"1 1\r\n",
        b";x\r\n",
        b"1\n1\r\n",
        b"f" * 16 + b"\r\n",
        b"1\r\n12\r\n",
        b"1\r\n1\n0\r\n",
        b"1\r\n1\r\r\n",
        b"1;" + b"x" * 1100,
        b"1;" + b"x" * 1100 + b"\r\n",
        b"1" * 1100,
    ],
)
def test_malformed_chunks(data, step):
    with pytest.raises(MalformedMessage, match="chunk"):
        read(reader_for(("Transfer-Encoding", "chunked")), data, step)


@given(st.binary(max_size=200), st.lists(st.integers(1, 30)), st.integers(1, 50))
def test_chunked_body_of_any_shape(body, sizes, step):
    data = b""
    at = 0
    for size in [*sizes, 200]:
        if chunk := body[at : at + size]:
            data += b"%x\r\n%b\r\n" % (len(chunk), chunk)
        at += size
    # The sizes may not have covered it all.
    body = body[:at]
    reader = reader_for(("Transfer-Encoding", "chunked"))
    assert read(reader, data + b"0\r\n\r\n", step) == (True, body)


@given(st.binary())
def test_any_bytes_as_chunks(data):
    outcomes = set()
    for step in (1, 3, len(data) + 1):
        try:
            outcomes.add(read(reader_for(("Transfer-Encoding", "chunked")), data, step))
        except MalformedMessage as exc:
            outcomes.add(str(exc))
    assert len(outcomes) == 1


@pytest.mark.parametrize("size", [MAX_BODY - 1, MAX_BODY, MAX_BODY + 1, 3 * MAX_BODY])
@pytest.mark.parametrize("step", [65536, 100_000, 1 << 24])
def test_size_of_a_body(size, step):
    assert MAX_BODY == 1_048_576
    data = random.Random(size).randbytes(size)
    expected = data[:MAX_BODY]
    assert read(reader_for(("Content-Length", str(size))), data, step) == (True, expected)
    assert read(reader_for(), data, step) == (size >= MAX_BODY, expected)
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(data[at : at + 70_000]), data[at : at + 70_000])
        for at in range(0, size, 70_000)
    )
    reader = reader_for(("Transfer-Encoding", "chunked"))
    assert read(reader, chunks + b"0\r\n\r\n", step) == (True, expected)


def test_chunks_that_cost_more_than_they_carry():
    reader = reader_for(("Transfer-Encoding", "chunked"))
    chunk = b"1;" + b"x" * 1000 + b"\r\ny\r\n"
    fed = 0
    while not reader.feed(chunk * 100):
        fed += 100 * len(chunk)
        assert fed < 10 * MAX_BODY
    assert len(reader.body) < MAX_BODY


def test_dribbled_body_takes_linear_time():
    started = time.perf_counter()
    reader = reader_for(("Transfer-Encoding", "chunked"))
    reader.feed(b"fffff\r\n")
    for _ in range(100_000):
        reader.feed(b"x")
    assert len(reader.body) == 100_000
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([("Content-Length", "+0")], "Content-Length"),
        ([("Content-Length", "1"), ("Content-Length", "1")], "repeated"),
        ([("Content-Length", "1"), ("Transfer-Encoding", "chunked")], "both"),
        ([("Transfer-Encoding", "gzip")], "not chunked"),
        ([("Transfer-Encoding", "gzip, chunked")], "not chunked"),
        ([("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")], "not chunked"),
        ([("Transfer-Encoding", "")], "not chunked"),
    ],
)
def test_line_06_framing_of_a_body(fields, reason):
    with pytest.raises(MalformedMessage, match=reason):
        reader_for(*fields)
    assert isinstance(reader_for(("Content-Length", "1")), BodyReader)
