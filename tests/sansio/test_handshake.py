"""The opening handshake as events: sansio/handshake.py, sides.py, fields.py, and WSConnection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sansio.both import OURS, THEIRS, cut, drained, told

from picows.handshake.extension import Extension
from picows.sansio import CLIENT, SERVER, ConnectionState, H11Handshake, WSConnection
from picows.sansio.events import (
    AcceptConnection,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from picows.sansio.extensions import PerMessageDeflate
from picows.sansio.utilities import LocalProtocolError, RemoteProtocolError
from raw_peer import BINARY, TEXT, accept_key, encode_frame

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
FIELDS = [
    (b"Host", b"example.com"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", KEY),
    (b"Sec-WebSocket-Version", b"13"),
]
BOTH = pytest.mark.parametrize("library", [OURS, THEIRS], ids=repr)


def head(line, fields):
    return b"\r\n".join([line, *(name + b": " + value for name, value in fields), b"", b""])


def request(*more, without=(), line=b"GET /chat?x=1 HTTP/1.1", **changed):
    changes = {name.replace("_", "-").lower(): value for name, value in changed.items()}
    fields = [
        (name, changes.get(name.decode().lower(), value))
        for name, value in FIELDS
        if name.decode().lower() not in without
    ]
    return head(line, [*fields, *more])


def answer(key, *more, without=()):
    fields = [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", accept_key(key)),
    ]
    fields = [field for field in fields if field[0] not in without]
    return head(b"HTTP/1.1 101 Switching Protocols", [*fields, *more])


def asked(library=OURS, **fields):
    """A client that has sent its request; the key it sent."""
    client = library.root.WSConnection(library.side("client"))
    fields.setdefault("host", "example.com")
    fields.setdefault("target", "/")
    sent = client.send(library.event("Request", **fields))
    return client, dict(parsed(sent))[b"sec-websocket-key"]


def parsed(message):
    """The fields of a head, names in lower case."""
    lines = message.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [
        (name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)
    ]


def requested(data=None, library=OURS):
    """A server that has got a request, which was told."""
    server = library.root.WSConnection(library.side("server"))
    server.receive_data(request() if data is None else data)
    (event,) = server.events()
    assert type(event).__name__ == "Request"
    return server


def opened(**parameters):
    """Both sides of an open connection."""
    client, server = WSConnection(CLIENT, **parameters), WSConnection(SERVER, **parameters)
    server.receive_data(client.send(Request("h", "/")))
    assert len(list(server.events())) == 1
    client.receive_data(server.send(AcceptConnection()))
    assert len(list(client.events())) == 1
    return client, server


# -- it works --------------------------------------------------------------------------------------


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize(
    ("one", "other"), [(OURS, OURS), (OURS, THEIRS), (THEIRS, OURS), (THEIRS, THEIRS)], ids=repr
)
def test_from_the_first_byte_to_the_last(one, other, deflate):
    client = one.root.WSConnection(one.side("client"))
    server = other.root.WSConnection(other.side("server"))
    offers = [one.extensions.PerMessageDeflate()] if deflate else []
    data = client.send(
        one.event(
            "Request",
            host="example.com",
            target="/chat?x=1",
            extensions=offers,
            extra_headers=[(b"Origin", b"https://example.com"), (b"X-A", b"b")],
            subprotocols=["chat", "superchat"],
        )
    )
    assert client.state.name == server.state.name == "CONNECTING"
    server.receive_data(data)
    ((name, fields),) = drained(server)
    key = dict(parsed(data))[b"sec-websocket-key"]
    offer = "permessage-deflate; client_max_window_bits=15; server_max_window_bits=15"
    assert (name, fields) == (
        "Request",
        {
            "host": "example.com",
            "target": "/chat?x=1",
            "extensions": [offer] if deflate else [],
            "extra_headers": [
                (b"upgrade", b"websocket"),
                (b"connection", b"Upgrade"),
                (b"sec-websocket-key", key),
                (b"sec-websocket-version", b"13"),
                (b"origin", b"https://example.com"),
                (b"x-a", b"b"),
            ],
            "subprotocols": ["chat", "superchat"],
        },
    )
    data = server.send(
        other.event(
            "AcceptConnection",
            subprotocol="superchat",
            extensions=[other.extensions.PerMessageDeflate()],
            extra_headers=[(b"Set-Cookie", b"a=b"), (b"Set-Cookie", b"c=d")],
        )
    )
    assert server.state.name == "OPEN"
    client.receive_data(data)
    agreed = "<PerMessageDeflate client_max_window_bits=15; server_max_window_bits=15>"
    assert drained(client) == [
        (
            "AcceptConnection",
            {
                "subprotocol": "superchat",
                "extensions": [agreed] if deflate else [],
                "extra_headers": [(b"set-cookie", b"a=b"), (b"set-cookie", b"c=d")],
            },
        )
    ]
    assert client.state.name == "OPEN"
    for library, sender, receiver in ((one, client, server), (other, server, client)):
        sent = sender.send(library.event("TextMessage", data="hello " * 20))
        assert (sent[0] == 0xC1) == deflate
        receiver.receive_data(sent)
        assert [event.data for event in receiver.events()] == ["hello " * 20]
    server.receive_data(client.send(one.event("CloseConnection", code=1000, reason="bye")))
    (event,) = server.events()
    client.receive_data(server.send(event.response()))
    assert [told(event) for event in client.events()] == [told(event)]
    assert client.state.name == server.state.name == "CLOSED"


def test_request_bytes():
    client = WSConnection(CLIENT)
    sent = client.send(
        Request(
            host="example.com:8080",
            target="/a?b",
            extensions=[PerMessageDeflate(client_max_window_bits=10)],
            extra_headers=[(b"Cookie", b"a=b")],
            subprotocols=["a", "b"],
        )
    )
    key = dict(parsed(sent))[b"sec-websocket-key"]
    assert sent == head(
        b"GET /a?b HTTP/1.1",
        [
            (b"Host", b"example.com:8080"),
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Key", key),
            (b"Sec-WebSocket-Version", b"13"),
            (b"Sec-WebSocket-Protocol", b"a, b"),
            (
                b"Sec-WebSocket-Extensions",
                b"permessage-deflate; client_max_window_bits=10; server_max_window_bits=15",
            ),
            (b"Cookie", b"a=b"),
        ],
    )


@BOTH
def test_accept_bytes(library):
    server = requested(request((b"Sec-WebSocket-Protocol", b"a, b")), library)
    sent = server.send(
        library.event("AcceptConnection", subprotocol="b", extra_headers=[(b"X-A", b"b")])
    )
    assert sent == head(
        b"HTTP/1.1 101 Switching Protocols",
        [
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Accept", ACCEPT),
            (b"Sec-WebSocket-Protocol", b"b"),
            (b"X-A", b"b"),
        ],
    )


@BOTH
@given(places=st.lists(st.integers(0, 400)))
def test_a_request_in_pieces(library, places):
    more = [(b"Sec-WebSocket-Protocol", b"a,b"), (b"Sec-WebSocket-Protocol", b"c"), (b"X", b"y")]
    server = library.root.WSConnection(library.side("server"))
    events = []
    for piece in cut(request(*more), places):
        server.receive_data(piece)
        events += drained(server)
    ((name, fields),) = events
    assert name == "Request"
    assert fields["subprotocols"] == ["a", "b", "c"]
    assert fields["extra_headers"][-1] == (b"x", b"y")


@BOTH
@given(places=st.lists(st.integers(0, 400)))
def test_an_answer_in_pieces_with_frames_behind(library, places):
    client, key = asked(library)
    data = answer(key, (b"X", b"y")) + encode_frame(TEXT, b"one") + encode_frame(BINARY, b"two")
    events = []
    for piece in cut(data, places):
        client.receive_data(piece)
        events += drained(client)
    assert events[0][1]["extra_headers"] == [(b"x", b"y")]
    data = [fields["data"] for _, fields in events[1:]]
    assert "".join(each for each in data if isinstance(each, str)) == "one"
    assert b"".join(each for each in data if isinstance(each, bytes)) == b"two"


# -- the server's side -----------------------------------------------------------------------------

EARLY = encode_frame(TEXT, b"early", mask=b"mask") + encode_frame(BINARY, b"bird", mask=b"mask")


@pytest.mark.parametrize("at", [0, 3, len(EARLY)])
def test_deviation_frames_that_came_with_the_request_are_kept(at):
    server = requested(request() + EARLY[:at])
    server.receive_data(EARLY[at:])
    assert list(server.events()) == []
    assert server.trailing_data == EARLY
    server.send(AcceptConnection())
    assert server.trailing_data == b""
    assert [event.data for event in server.events()] == ["early", b"bird"]


def test_early_frames_in_the_loop_that_accepts():
    server = WSConnection(SERVER)
    server.receive_data(request() + EARLY)
    seen = []
    for event in server.events():
        seen.append(type(event).__name__)
        if isinstance(event, Request):
            server.send(AcceptConnection())
    assert seen == ["Request", "TextMessage", "BytesMessage"]


def test_the_client_has_gone_before_it_is_accepted():
    server = requested(request() + EARLY)
    server.receive_data(None)
    server.send(AcceptConnection())
    assert [type(event).__name__ for event in server.events()] == [
        *("TextMessage", "BytesMessage", "CloseConnection"),
    ]
    assert server.state is ConnectionState.CLOSED


@BOTH
def test_the_client_sends_nothing(library):
    server = library.root.WSConnection(library.side("server"))
    server.receive_data(None)
    assert list(server.events()) == []
    assert server.state.name == "CONNECTING"


REFUSED = [
    ("no Upgrade", request(without=["upgrade"]), 400),
    ("another Upgrade", request(upgrade=b"h2c"), 400),
    ("no Connection", request(without=["connection"]), 400),
    ("no key", request(without=["sec-websocket-key"]), 400),
    ("no version", request(without=["sec-websocket-version"]), 400),
    ("version 8", request(sec_websocket_version=b"8"), 426),
    ("no Host", request(without=["host"]), 400),
    ("no HTTP", b"\x16\x03\x01\x02\x00" * 10, 400),
    ("a line that is none", b"hello\r\n\r\n", 400),
    ("HEAD", request(line=b"HEAD / HTTP/1.1"), 400),
]
# wsproto lets them pass, or answers 400.
REFUSED_BY_OURS = [
    ("POST", request(line=b"POST / HTTP/1.1"), 405),
    ("HTTP/1.0", request(line=b"GET / HTTP/1.0"), 505),
    ("short key", request(sec_websocket_key=b"abcd"), 400),
    ("two keys", request((b"Sec-WebSocket-Key", KEY)), 400),
    ("a body", request((b"Content-Length", b"3")) + b"abc", 400),
    ("a chunked body", request((b"Transfer-Encoding", b"chunked")), 400),
    ("beyond ASCII", request((b"X", b"\xe9")), 400),
    ("folded", request((b"X", b"a\r\n b")), 400),
    ("too long", request((b"X", b"a" * 20_000)), 431),
]


@pytest.mark.parametrize(
    ("library", "data", "status"),
    [
        pytest.param(library, data, status, id=f"{library}-{name}")
        for library in (OURS, THEIRS)
        for name, data, status in (REFUSED if library is THEIRS else REFUSED + REFUSED_BY_OURS)
    ],
)
def test_requests_that_are_refused(library, data, status):
    server = library.root.WSConnection(library.side("server"))
    with pytest.raises(library.utilities.RemoteProtocolError) as caught:
        server.receive_data(data)
    hint = caught.value.event_hint
    assert isinstance(hint, library.events.RejectConnection)
    assert (hint.status_code, hint.has_body) == (status, False)
    if status == 426:
        assert (b"sec-websocket-version", b"13") in [
            (name.lower(), value) for name, value in hint.headers
        ]
    assert list(server.events()) == []
    assert server.state.name == "CONNECTING"
    # The hint is what is sent.
    sent = server.send(hint)
    assert sent.startswith(b"HTTP/1.1 %d" % status)
    assert (b"content-length", b"0") in parsed(sent)
    assert server.state.name == "CLOSED"


@pytest.mark.parametrize(
    ("name", "data"), [(name, data) for name, data, _ in REFUSED + REFUSED_BY_OURS]
)
def test_refused_byte_by_byte(name, data):
    server = WSConnection(SERVER)
    with pytest.raises(RemoteProtocolError):
        for octet in data:
            server.receive_data(bytes([octet]))
    # It has failed, and fails from now on.
    with pytest.raises(RemoteProtocolError):
        server.receive_data(request())
    with pytest.raises(LocalProtocolError):
        server.send(AcceptConnection())
    assert server.send(RejectConnection()).startswith(b"HTTP/1.1 400 ")


@BOTH
def test_the_stream_ends_inside_the_request(library):
    server = library.root.WSConnection(library.side("server"))
    server.receive_data(request()[:50])
    with pytest.raises(library.utilities.RemoteProtocolError):
        server.receive_data(None)


def test_bytes_behind_the_end():
    for server in (WSConnection(SERVER), requested()):
        server.receive_data(None)
        server.receive_data(None)
        with pytest.raises(LocalProtocolError, match="behind the end"):
            server.receive_data(b"x")


@BOTH
def test_a_request_that_somebody_else_has_read(library):
    for fields, path in (
        ([(name.lower(), value) for name, value in FIELDS], "/chat?x=1"),
        ([(name.decode(), value.decode()) for name, value in FIELDS], b"/chat?x=1"),
    ):
        server = library.root.WSConnection(library.side("server"))
        server.initiate_upgrade_connection(fields, path)
        (event,) = server.events()
        assert (event.host, event.target) == ("example.com", "/chat?x=1")
        sent = server.send(library.event("AcceptConnection"))
        assert dict(parsed(sent))[b"sec-websocket-accept"] == ACCEPT
        server.receive_data(EARLY)
        assert [event.data for event in server.events()] == ["early", b"bird"]


@BOTH
def test_what_cannot_be_initiated(library):
    with pytest.raises(library.utilities.LocalProtocolError, match="acting as the client"):
        library.root.WSConnection(library.side("client")).initiate_upgrade_connection([], "/")
    with pytest.raises(library.utilities.RemoteProtocolError) as caught:
        library.root.WSConnection(library.side("server")).initiate_upgrade_connection(
            FIELDS[:1], "/"
        )
    assert caught.value.event_hint.status_code == 400


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        (FIELDS, "/a b"),
        (FIELDS, "/\r\nX: y"),
        (FIELDS, b"/\xe9"),
        ([*FIELDS, (b"X", b"a\r\nb: c")], "/"),
        ([*FIELDS, (b"X\r\n", b"a")], "/"),
        ([*FIELDS, (b"X", b"\xe9")], "/"),
        ([*FIELDS, (b"", b"a")], "/"),
    ],
)
def test_what_nobody_should_have_read(fields, path):
    """Fields of another parser are no better than bytes."""
    with pytest.raises(RemoteProtocolError) as caught:
        WSConnection(SERVER).initiate_upgrade_connection(fields, path)
    assert caught.value.event_hint == RejectConnection()


def test_initiated_once():
    server = WSConnection(SERVER)
    server.initiate_upgrade_connection(FIELDS, "/")
    with pytest.raises(LocalProtocolError, match="request already"):
        server.initiate_upgrade_connection(FIELDS, "/")
    with pytest.raises(LocalProtocolError, match="request already"):
        requested().initiate_upgrade_connection(FIELDS, "/")


# -- what a server answers -------------------------------------------------------------------------


@BOTH
def test_a_subprotocol_that_was_not_offered(library):
    server = requested(library=library)
    with pytest.raises(library.utilities.LocalProtocolError, match="unexpected subprotocol x"):
        server.send(library.event("AcceptConnection", subprotocol="x"))
    assert server.state.name == "CONNECTING"
    # Nothing has changed.
    assert server.send(library.event("AcceptConnection"))


@pytest.mark.parametrize(
    "headers",
    [
        [(b"X", b"a\r\nb: c")],
        [(b"X\n", b"a")],
        [(b"X", b"\xe9")],
        [("X", "é")],
        [(b"", b"a")],
        [(b"Connection", b"close")],
        [(b"Sec-WebSocket-Accept", ACCEPT)],
        [(b"Content-Length", b"3")],
        [(b"Transfer-Encoding", b"chunked")],
        [(b"Sec-WebSocket-Protocol", b"x")],
        [(b"Sec-WebSocket-Extensions", b"x")],
    ],
)
def test_headers_that_an_accept_cannot_have(headers):
    server = requested()
    with pytest.raises(LocalProtocolError):
        server.send(AcceptConnection(extra_headers=headers))
    assert server.state is ConnectionState.CONNECTING
    assert server.send(AcceptConnection()).startswith(b"HTTP/1.1 101 ")


WRONG_HEADERS = [3, "X: y", b"X: y", [b"X: y"], [("X",)], [("X", 3)], [(3, b"y")], [{"X": "y"}]]


@pytest.mark.parametrize("headers", WRONG_HEADERS)
def test_headers_that_are_none(headers):
    with pytest.raises(TypeError, match="headers must"):
        requested().send(AcceptConnection(extra_headers=headers))
    with pytest.raises(TypeError, match="headers must"):
        requested().send(RejectConnection(headers=headers))
    with pytest.raises(TypeError, match="headers must"):
        WSConnection(CLIENT).send(Request("h", "/", extra_headers=headers))


@pytest.mark.parametrize("headers", [{"X-A": "b"}, {b"X-A": b"b"}, [["X-A", b" b "]]])
def test_headers_in_other_shapes(headers):
    """The guide to this API once had a dict."""
    sent = requested().send(AcceptConnection(extra_headers=headers))
    assert sent.endswith(b"\r\nX-A: b\r\n\r\n")
    sent = requested().send(RejectConnection(headers=headers))
    assert b"\r\nX-A: b\r\n" in sent
    sent = WSConnection(CLIENT).send(Request("h", "/", extra_headers=headers))
    assert sent.endswith(b"\r\nX-A: b\r\n\r\n")


def test_an_accept_without_a_request():
    for server in (WSConnection(SERVER), WSConnection(CLIENT)):
        with pytest.raises(LocalProtocolError, match="behind a Request"):
            server.send(AcceptConnection())
    server = WSConnection(SERVER)
    server.receive_data(request()[:-1])
    with pytest.raises(LocalProtocolError, match="behind a Request"):
        server.send(AcceptConnection())


@BOTH
def test_handshake_events_on_an_open_connection(library):
    server = requested(library=library)
    server.send(library.event("AcceptConnection"))
    for name, fields in (
        ("AcceptConnection", {}),
        ("RejectConnection", {}),
        ("RejectData", {"data": b""}),
        ("Request", {"host": "h", "target": "/"}),
    ):
        with pytest.raises(library.utilities.LocalProtocolError, match="in state"):
            server.send(library.event(name, **fields))


@BOTH
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("TextMessage", {"data": "x"}),
        ("Ping", {}),
        ("CloseConnection", {"code": 1000}),
    ],
)
def test_frames_during_the_handshake(library, name, fields):
    event = library.event(name, **fields)
    for connection in (requested(library=library), asked(library)[0]):
        with pytest.raises(library.utilities.LocalProtocolError) as caught:
            connection.send(event)
        assert str(caught.value) == f"Event {event} cannot be sent during the handshake"


@pytest.mark.parametrize(
    ("event", "line", "fields"),
    [
        (RejectConnection(), b"400 Bad Request", [(b"content-length", b"0")]),
        (
            RejectConnection(status_code=403, headers=[(b"X-A", b"b")]),
            b"403 Forbidden",
            [(b"x-a", b"b"), (b"content-length", b"0")],
        ),
        (RejectConnection(status_code=599), b"599 ", [(b"content-length", b"0")]),
        (RejectConnection(status_code=204), b"204 No Content", []),
        (
            RejectConnection(status_code=401, has_body=True),
            b"401 Unauthorized",
            [(b"transfer-encoding", b"chunked")],
        ),
        (
            RejectConnection(401, [(b"Content-Length", b"3"), (b"Connection", b"x")], True),
            b"401 Unauthorized",
            [(b"content-length", b"3")],
        ),
        (
            RejectConnection(401, [(b"transfer-encoding", b"Chunked")], has_body=True),
            b"401 Unauthorized",
            [(b"transfer-encoding", b"Chunked")],
        ),
        (
            RejectConnection(400, [(b"Content-Length", b"0")]),
            b"400 Bad Request",
            [(b"content-length", b"0")],
        ),
    ],
    ids=repr,
)
def test_reject_bytes(event, line, fields):
    server = requested()
    sent = server.send(event)
    assert sent.partition(b"\r\n")[0] == b"HTTP/1.1 " + line
    assert parsed(sent) == [*fields, (b"connection", b"close")]
    assert server.state.name == ("REJECTING" if event.has_body else "CLOSED")


def test_a_refusal_that_names_upgrade():
    sent = requested().send(RejectConnection(426, [(b"Upgrade", b"websocket")]))
    assert (b"connection", b"Upgrade, close") in parsed(sent)


@pytest.mark.parametrize(
    "event",
    [
        RejectConnection(status_code=101),
        RejectConnection(status_code=99),
        RejectConnection(status_code=600),
        RejectConnection(status_code=204, has_body=True),
        RejectConnection(status_code=304, has_body=True),
        RejectConnection(headers=[(b"Content-Length", b"3")]),
        RejectConnection(headers=[(b"Transfer-Encoding", b"chunked")]),
        RejectConnection(headers=[(b"Transfer-Encoding", b"gzip")], has_body=True),
        RejectConnection(headers=[(b"Content-Length", b"+3")], has_body=True),
        RejectConnection(headers=[(b"Content-Length", b"3")] * 2, has_body=True),
        RejectConnection(
            headers=[(b"Content-Length", b"3"), (b"Transfer-Encoding", b"chunked")], has_body=True
        ),
        RejectConnection(headers=[(b"X", b"\r\n")[::-1]]),
        RejectConnection(headers=[(b"X", b"a\nb")]),
    ],
    ids=repr,
)
def test_refusals_that_cannot_be_sent(event):
    server = requested()
    with pytest.raises(LocalProtocolError):
        server.send(event)
    assert server.state is ConnectionState.CONNECTING
    assert server.send(AcceptConnection())


@BOTH
def test_a_body_in_chunks(library):
    server = requested(library=library)
    server.send(library.event("RejectConnection", has_body=True))
    sent = [
        server.send(library.event("RejectData", data=data, body_finished=finished))
        for data, finished in ((b"abc", False), (b"", False), (b"x" * 17, True))
    ]
    assert sent == [b"3\r\nabc\r\n", b"", b"11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n"]
    assert server.state.name == "CLOSED"
    with pytest.raises(library.utilities.LocalProtocolError, match=r"in state .*CLOSED"):
        server.send(library.event("RejectData", data=b"x"))


@BOTH
def test_a_body_with_a_length(library):
    server = requested(library=library)
    server.send(
        library.event("RejectConnection", headers=[(b"content-length", b"6")], has_body=True)
    )
    sent = [
        server.send(library.event("RejectData", data=data, body_finished=finished))
        for data, finished in ((b"abc", False), (b"def", True))
    ]
    assert sent == [b"abc", b"def"]
    assert server.state.name == "CLOSED"


@pytest.mark.parametrize(("data", "finished"), [(b"abc", True), (b"abcdefg", False)])
def test_a_body_of_another_length(data, finished):
    server = requested()
    server.send(RejectConnection(headers=[(b"content-length", b"6")], has_body=True))
    with pytest.raises(LocalProtocolError, match="not as long as"):
        server.send(RejectData(data, body_finished=finished))
    assert server.state is ConnectionState.REJECTING
    # It can still be put right.
    assert server.send(RejectData(b"abcdef")) == b"abcdef"


def test_what_does_not_follow_a_refusal():
    server = requested()
    with pytest.raises(LocalProtocolError, match="CONNECTING"):
        server.send(RejectData(b"x"))
    server.send(RejectConnection(has_body=True))
    for event in (AcceptConnection(), RejectConnection(), Ping(), CloseConnection(1000)):
        with pytest.raises(LocalProtocolError):
            server.send(event)
        assert server.state is ConnectionState.REJECTING
    server.send(RejectData(b"x"))
    for event in (AcceptConnection(), RejectConnection(), RejectData(b"x"), TextMessage("x")):
        with pytest.raises(LocalProtocolError):
            server.send(event)
        assert server.state is ConnectionState.CLOSED


@BOTH
@pytest.mark.parametrize("has_body", [False, True])
def test_what_a_refused_client_sends(library, has_body):
    server = requested(library=library)
    server.send(library.event("RejectConnection", has_body=has_body))
    before = server.state
    server.receive_data(EARLY)
    server.receive_data(None)
    assert list(server.events()) == []
    assert server.state is before


def test_what_came_with_a_refused_request():
    server = requested(request() + b"more")
    server.send(RejectConnection())
    assert server.trailing_data == b"more"


# -- the client's side -----------------------------------------------------------------------------

REJECTIONS = [
    (b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\nX-A: b\r\n\r\nabcdef", False),
    (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", False),
    (b"HTTP/1.1 204 No Content\r\n\r\n", False),
    (b"HTTP/1.1 304 Not Modified\r\n\r\n", False),
    (b"HTTP/1.1 200 OK\r\n\r\nabcdef", True),
    (b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 1\r\n\r\na", False),
    (
        b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n3;x=y\r\ndef\r\n0\r\n\r\n",
        False,
    ),
]


def rejection(events):
    """The event, and the body that followed it."""
    (first_name, first), *rest = events
    assert first_name == "RejectConnection"
    assert {name for name, _ in rest} <= {"RejectData"}
    finished = [fields["body_finished"] for _, fields in rest]
    assert finished == [False] * (len(rest) - 1) + [True]
    return first, b"".join(fields["data"] for _, fields in rest)


@pytest.mark.parametrize(("data", "to_the_end"), REJECTIONS)
@given(places=st.lists(st.integers(0, 120)))
def test_refusals_of_a_server(data, to_the_end, places):
    outcomes = []
    for library in (OURS, THEIRS):
        client, _ = asked(library)
        events = []
        for piece in [*cut(data, places), *([None] if to_the_end else [])]:
            client.receive_data(piece)
            events += drained(client)
        outcomes.append(rejection(events))
        assert client.state.name == "CLOSED"
    assert outcomes[0] == outcomes[1]
    first, body = outcomes[0]
    assert first["has_body"] is True
    assert body in (b"abcdef", b"", b"a")


def test_the_body_is_told_as_it_comes():
    client, _ = asked()
    client.receive_data(b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n")
    assert list(client.events()) == [
        RejectConnection(404, [(b"content-length", b"6")], has_body=True)
    ]
    assert client.state is ConnectionState.REJECTING
    client.receive_data(b"abc")
    assert list(client.events()) == [RejectData(b"abc", body_finished=False)]
    client.receive_data(b"def")
    assert list(client.events()) == [
        RejectData(b"def", body_finished=False),
        RejectData(b"", body_finished=True),
    ]
    # Nothing comes of what follows.
    client.receive_data(b"more")
    client.receive_data(None)
    assert list(client.events()) == []
    assert client.state is ConnectionState.CLOSED


def test_a_large_body_is_not_kept():
    client, _ = asked()
    client.receive_data(b"HTTP/1.1 404 Not Found\r\n\r\n" + bytes(3_000_000))
    _, *pieces = client.events()
    assert sum(len(piece.data) for piece in pieces) == 3_000_000
    assert all(len(piece.data) <= 65536 for piece in pieces)
    client.receive_data(bytes(100))
    assert [len(piece.data) for piece in client.events()] == [100]


@BOTH
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nabc",
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
def test_a_body_that_is_cut_off(library, data):
    client, _ = asked(library)
    client.receive_data(data)
    assert [name for name, _ in drained(client)] == ["RejectConnection", "RejectData"]
    with pytest.raises(library.utilities.RemoteProtocolError):
        client.receive_data(None)


@pytest.mark.parametrize("at", [-9, -1, None])
def test_a_malformed_body(at):
    data = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nno\r\n"
    client, _ = asked()
    with pytest.raises(RemoteProtocolError, match="malformed"):
        for piece in (data[:at], data[at:] if at else b""):
            client.receive_data(piece)
    assert next(client.events()).status_code == 404


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: x\r\n",
        b"Content-Length: 3\r\nContent-Length: 3\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
    ],
)
def test_a_malformed_refusal(fields):
    client, _ = asked()
    with pytest.raises(RemoteProtocolError, match="malformed"):
        client.receive_data(b"HTTP/1.1 404 Not Found\r\n" + fields + b"\r\nabc")
    assert list(client.events()) == []


def test_deviation_interim_answers_are_read_past():
    """RFC 9110 section 15.2; wsproto has a 103 for a refusal."""
    client, key = asked()
    client.receive_data(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(key))
    assert list(client.events()) == [AcceptConnection()]


WRONG_ANSWERS = [
    ("no Upgrade", lambda key: answer(key, without=[b"Upgrade"])),
    ("no Connection", lambda key: answer(key, without=[b"Connection"])),
    ("no accept", lambda key: answer(key, without=[b"Sec-WebSocket-Accept"])),
    ("another accept", lambda key: answer(KEY)),
    ("a subprotocol", lambda key: answer(key, (b"Sec-WebSocket-Protocol", b"x"))),
    ("an extension", lambda key: answer(key, (b"Sec-WebSocket-Extensions", b"x"))),
    ("no HTTP", lambda key: b"SSH-2.0-OpenSSH\r\n\r\n"),
    ("the end", lambda key: None),
]
WRONG_TO_OURS = [
    ("HTTP/1.0", lambda key: answer(key).replace(b"HTTP/1.1", b"HTTP/1.0")),
    ("a length", lambda key: answer(key, (b"Content-Length", b"3"))),
    ("two accepts", lambda key: answer(key, (b"Sec-WebSocket-Accept", accept_key(key)))),
    (
        "malformed extensions",
        lambda key: answer(key, (b"Sec-WebSocket-Extensions", b"permessage-deflate; =")),
    ),
]


@pytest.mark.parametrize(
    ("library", "make"),
    [
        pytest.param(library, make, id=f"{library}-{name}")
        for library in (OURS, THEIRS)
        for name, make in (WRONG_ANSWERS if library is THEIRS else WRONG_ANSWERS + WRONG_TO_OURS)
    ],
)
def test_answers_that_are_wrong(library, make):
    client, key = asked(library, extensions=[library.extensions.PerMessageDeflate()])
    with pytest.raises(library.utilities.RemoteProtocolError) as caught:
        client.receive_data(make(key))
    assert told(caught.value.event_hint) == told(library.event("RejectConnection"))
    assert client.state.name == "CONNECTING"
    assert list(client.events()) == []
    if library is OURS:
        # It has failed, and fails from now on.
        with pytest.raises(RemoteProtocolError):
            client.receive_data(answer(key))


def test_the_server_ends_without_an_answer():
    client, _ = asked()
    client.receive_data(b"HTTP/1.1 10")
    with pytest.raises(RemoteProtocolError, match="inside the head"):
        client.receive_data(None)


def test_bytes_ahead_of_the_request():
    client = WSConnection(CLIENT)
    with pytest.raises(LocalProtocolError, match="sends a Request before"):
        client.receive_data(b"x")
    with pytest.raises(RemoteProtocolError, match="ahead of the request"):
        client.receive_data(None)


def test_one_request():
    client, key = asked()
    with pytest.raises(LocalProtocolError, match="once"):
        client.send(Request("h", "/"))
    # The first one counts.
    client.receive_data(answer(key))
    assert list(client.events()) == [AcceptConnection()]


@pytest.mark.parametrize(
    "event",
    [
        Request("h", "chat"),
        Request("h", ""),
        Request("h", "/a b"),
        Request("h", "/é"),
        Request("h", "/#x"),
        Request("h", "/\r\nX: y"),
        Request("h\r\nX: y", "/"),
        Request("é" * 64, "/"),
        Request("h", "/", subprotocols=["a b"]),
        Request("h", "/", subprotocols=["a", "a"]),
        Request("h", "/", extra_headers=[(b"X", b"a\nb")]),
        Request("h", "/", extra_headers=[(b"Host", b"x")]),
        Request("h", "/", extra_headers=[(b"Sec-WebSocket-Key", KEY)]),
        Request("h", "/", extra_headers=[(b"Sec-WebSocket-Extensions", b"=")]),
    ],
    ids=repr,
)
def test_requests_that_cannot_be_sent(event):
    client = WSConnection(CLIENT)
    with pytest.raises(LocalProtocolError):
        client.send(event)
    assert client.state is ConnectionState.CONNECTING
    assert client.send(Request("h", "/"))


@BOTH
def test_a_host_beyond_ascii(library):
    client = library.root.WSConnection(library.side("client"))
    sent = client.send(library.event("Request", host="bücher.example", target="/"))
    assert dict(parsed(sent))[b"host"] == b"xn--bcher-kva.example"


def test_a_request_does_not_offer_text():
    with pytest.raises(TypeError, match="Extension objects"):
        WSConnection(CLIENT).send(Request("h", "/", extensions=["permessage-deflate"]))


def test_a_server_sends_no_request_and_a_client_no_answer():
    with pytest.raises(LocalProtocolError):
        WSConnection(SERVER).send(Request("h", "/"))
    client, _ = asked()
    for event in (AcceptConnection(), RejectConnection(), RejectData(b"")):
        with pytest.raises(LocalProtocolError):
            client.send(event)


# -- extensions ------------------------------------------------------------------------------------


class Named(Extension):
    """An extension that remembers what it was asked."""

    def __init__(self, name, offered=True, accepted=True):
        self.name = name
        self.offered = offered
        self.accepted = accepted
        self.heard = []

    def enabled(self):
        return any(what in ("accept", "finalize") for what, _ in self.heard)

    def offer(self):
        return self.offered

    def accept(self, offer):
        self.heard.append(("accept", offer))
        return self.accepted

    def finalize(self, offer):
        self.heard.append(("finalize", offer))


def test_what_is_offered():
    client = WSConnection(CLIENT)
    extensions = [
        Named("x-a"),
        Named("x-b", "y=1; z"),
        Named("x-c", False),
        Named("x-d", ""),
        PerMessageDeflate(server_no_context_takeover=True),
    ]
    sent = client.send(Request("h", "/", extensions=extensions))
    assert dict(parsed(sent))[b"sec-websocket-extensions"] == (
        b"x-a, x-b; y=1; z, x-d, permessage-deflate; client_max_window_bits=15;"
        b" server_max_window_bits=15; server_no_context_takeover"
    )


def test_extensions_of_both_sides():
    client, server = WSConnection(CLIENT), WSConnection(SERVER)
    ours = [Named("x-a"), Named("x-b", "y=1"), PerMessageDeflate()]
    server.receive_data(client.send(Request("h", "/", extensions=ours)))
    (event,) = server.events()
    assert event.extensions == [
        "x-a",
        "x-b; y=1",
        "permessage-deflate; client_max_window_bits=15; server_max_window_bits=15",
    ]
    theirs = [PerMessageDeflate(), Named("x-b", accepted="y=2"), Named("x-a", accepted=None)]
    client.receive_data(server.send(AcceptConnection(extensions=theirs)))
    assert theirs[1].heard == [("accept", "x-b; y=1")]
    assert theirs[2].heard == [("accept", "x-a")]
    (event,) = client.events()
    # In the order of the answer, on both sides.
    assert event.extensions == [ours[1], ours[2]]
    assert ours[1].heard == [("finalize", "x-b; y=2")]
    assert ours[0].heard == []
    client.receive_data(server.send(TextMessage("hello " * 20)))
    assert list(client.events()) == [TextMessage("hello " * 20)]


def test_extensions_that_were_agreed_on_elsewhere():
    """One instance serves two connections, of which the second agrees on nothing."""
    shared = PerMessageDeflate()
    offer = (b"Sec-WebSocket-Extensions", b"permessage-deflate")
    first, second = requested(request(offer)), requested()
    assert b"permessage-deflate" in first.send(AcceptConnection(extensions=[shared]))
    assert b"permessage-deflate" not in second.send(AcceptConnection(extensions=[shared]))
    message = TextMessage("hello " * 20)
    assert second.send(message)[0] == 0x81
    assert first.send(message)[0] == 0xC1


def test_only_what_was_agreed_on_is_used():
    """Also of extensions that always say that they are enabled."""

    class Always(Named):
        def enabled(self):
            return True

        def frame_outbound(self, proto, opcode, rsv, data, fin):
            return rsv, data + self.name.encode()

    server = requested(request((b"Sec-WebSocket-Extensions", b"x-b, x-c, x-a")))
    extensions = [Always("x-a"), Always("x-b"), Always("x-c", accepted=None), Always("x-d")]
    sent = server.send(AcceptConnection(extensions=extensions))
    assert dict(parsed(sent))[b"sec-websocket-extensions"] == b"x-b, x-a"
    # In the order of the answer, the last one first.
    assert server.send(TextMessage("")) == b"\x81\x06x-ax-b"


def test_quoted_commas_in_offers():
    server = WSConnection(SERVER)
    value = b'x-a; y="1,2", x-b; z="\\",", , x-c'
    server.receive_data(request((b"Sec-WebSocket-Extensions", value)))
    (event,) = server.events()
    assert event.extensions == ['x-a; y="1,2"', 'x-b; z="\\","', "x-c"]


@pytest.mark.parametrize("value", [b'x; y="', b"=", b"x;;y", b'permessage-deflate, x; "', b"x y"])
def test_malformed_offers_are_none(value):
    server = WSConnection(SERVER)
    server.receive_data(request((b"Sec-WebSocket-Extensions", value)))
    (event,) = server.events()
    assert event.extensions == []
    sent = server.send(AcceptConnection(extensions=[PerMessageDeflate()]))
    assert b"sec-websocket-extensions" not in dict(parsed(sent))


@pytest.mark.parametrize(
    "value",
    [
        b"permessage-deflate; server_max_window_bits",
        b"permessage-deflate; server_max_window_bits=7",
        b"permessage-deflate; server_max_window_bits=16",
        b"permessage-deflate; server_max_window_bits=x",
        b"permessage-deflate; client_max_window_bits",
        b"permessage-deflate; unknown",
        b"permessage-deflate; server_no_context_takeover=1",
        b"permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
        b"permessage-deflate, permessage-deflate",
        b'permessage-deflate; server_max_window_bits="',
    ],
)
def test_malformed_answers_are_remote_errors(value):
    """wsproto raises ValueError and IndexError, or goes on."""
    client, key = asked(extensions=[PerMessageDeflate()])
    with pytest.raises(RemoteProtocolError):
        client.receive_data(answer(key, (b"Sec-WebSocket-Extensions", value)))
    assert client.state is ConnectionState.CONNECTING


# -- the handshake alone ---------------------------------------------------------------------------


@BOTH
def test_h11_handshake(library):
    client, server = (
        library.handshake.H11Handshake(library.side(side)) for side in ("client", "server")
    )
    assert repr(client) == "H11Handshake(client=True, state=ConnectionState.CONNECTING)"
    assert repr(server) == "H11Handshake(client=False, state=ConnectionState.CONNECTING)"
    assert client.connection is server.connection is None
    server.receive_data(client.send(library.event("Request", host="h", target="/")))
    assert len(list(server.events())) == 1
    client.receive_data(server.send(library.event("AcceptConnection")))
    assert len(list(client.events())) == 1
    assert client.state.name == server.state.name == "OPEN"
    client.connection.receive_data(server.connection.send(library.event("Ping")))
    assert drained(client.connection) == [("Ping", {"payload": b""})]


def test_h11_handshake_goes_on_as_its_connection():
    server = H11Handshake(SERVER)
    server.receive_data(request())
    server.send(AcceptConnection())
    server.receive_data(EARLY)
    assert list(server.events()) == [
        Request(
            "example.com",
            "/chat?x=1",
            extra_headers=[(name.lower(), value) for name, value in FIELDS[1:]],
        )
    ]
    assert [event.data for event in server.connection.events()] == ["early", b"bird"]


def test_attributes():
    client, server = opened()
    assert client.client is True
    assert server.client is False
    assert client.connection.state is client.state is ConnectionState.OPEN
    assert isinstance(client.handshake, H11Handshake)
    assert WSConnection(CLIENT).trailing_data == WSConnection(SERVER).trailing_data == b""


def test_parameters_reach_the_connection():
    client, server = opened(max_message_size=10, assemble_messages=True)
    for sender, receiver in ((client, server), (server, client)):
        receiver.receive_data(
            sender.send(TextMessage("hello ", message_finished=False))
            + sender.send(TextMessage("all"))
        )
        assert list(receiver.events()) == [TextMessage("hello all")]
        receiver.receive_data(sender.send(TextMessage("x" * 11)))
        assert [event.code for event in receiver.events()] == [1009]


def test_trailing_data_behind_a_close():
    client, server = opened()
    client.receive_data(server.send(CloseConnection(1000)) + b"HTTP")
    assert list(client.events()) == [CloseConnection(1000, "")]
    assert client.trailing_data == b"HTTP"


# -- any bytes -------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_as_a_request(data, ends):
    server = WSConnection(SERVER)
    try:
        server.receive_data(data)
        if ends:
            server.receive_data(None)
    except RemoteProtocolError as exc:
        assert isinstance(exc.event_hint, RejectConnection)


@given(st.integers(0, 1000), st.integers(1, 255))
def test_a_wrong_byte_in_a_request(place, flipped):
    data = bytearray(request((b"Sec-WebSocket-Extensions", b'x; y="1,2", permessage-deflate')))
    data[place % len(data)] ^= flipped
    server = WSConnection(SERVER)
    try:
        server.receive_data(bytes(data))
        events = list(server.events())
        if events:
            server.send(AcceptConnection(extensions=[PerMessageDeflate()]))
    except RemoteProtocolError as exc:
        assert server.send(exc.event_hint)


@given(st.data())
def test_a_wrong_byte_in_an_answer(data):
    client, key = asked(extensions=[PerMessageDeflate()], subprotocols=["a"])
    good = answer(
        key,
        (b"Sec-WebSocket-Protocol", b"a"),
        (b"Sec-WebSocket-Extensions", b"permessage-deflate; server_max_window_bits=10"),
    )
    octets = bytearray(good)
    place = data.draw(st.integers(0, len(octets) - 1))
    octets[place] ^= data.draw(st.integers(1, 255))
    try:
        for piece in cut(bytes(octets), data.draw(st.lists(st.integers(0, len(octets))))):
            client.receive_data(piece)
        client.receive_data(None)
    except RemoteProtocolError:
        pass
    names = [type(event).__name__ for event in client.events()]
    assert set(names) <= {"AcceptConnection", "RejectConnection", "RejectData", "CloseConnection"}


def test_every_prefix_of_a_request():
    """Invalid input at each byte: the request, with a NUL from there on."""
    data = request()
    for at in range(len(data)):
        server = WSConnection(SERVER)
        with pytest.raises(RemoteProtocolError):
            server.receive_data(data[:at] + b"\x00\r\n\r\n\r\n")
