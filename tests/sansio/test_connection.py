"""sansio/connection.py: what comes in pieces, what may be sent when, how it ends."""

import gc
import random
import struct
import threading
import weakref
import zlib

import pytest
from aio.deflate_peer import PeerDeflater
from aio.traffic import MASK, frame_to
from sansio.both import OURS, THEIRS, drained, whole

from picows.sansio.connection import CLIENT, SERVER, Connection, ConnectionState
from picows.sansio.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from picows.sansio.extensions import Extension, PerMessageDeflate
from picows.sansio.frame_protocol import CloseReason
from picows.sansio.utilities import LocalProtocolError
from raw_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    encode_close,
    encode_frame,
    upgrade_request,
)

SIDES = pytest.mark.parametrize("side", ["client", "server"])
DEFLATE = "permessage-deflate"


def close_to(side, code, reason=b""):
    return encode_close(code, reason, mask=None if side == "client" else MASK)


def open_side(side="client", **kwargs):
    return Connection(CLIENT if side == "client" else SERVER, **kwargs)


def agreed(side, offer=DEFLATE):
    return OURS.agreed(side, offer)


def received(connection, *pieces):
    """What each piece makes it tell."""
    told = []
    for piece in pieces:
        connection.receive_data(piece)
        told.append(list(connection.events()))
    return told


# -- messages --------------------------------------------------------------------------------------


@SIDES
def test_messages(side):
    connection = open_side(side)
    data = (
        frame_to(side, TEXT, "é".encode())
        + frame_to(side, BINARY, b"\x00\xff")
        + frame_to(side, PING, b"p")
        + frame_to(side, PONG)
        + frame_to(side, TEXT)
    )
    assert received(connection, data) == [
        [
            TextMessage("é"),
            BytesMessage(b"\x00\xff"),
            Ping(b"p"),
            Pong(b""),
            TextMessage(""),
        ]
    ]
    assert connection.state is ConnectionState.OPEN


@SIDES
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 300_000])
def test_every_size(side, size):
    payload = bytes(range(256)) * (size // 256 + 1)
    payload = payload[:size]
    text = "x" * (size - 2) + "é" if size > 2 else "x" * size
    connection = open_side(side)
    data = frame_to(side, BINARY, payload) + frame_to(side, TEXT, text.encode())
    assert received(connection, data) == [[BytesMessage(payload), TextMessage(text)]]
    other = open_side("server" if side == "client" else "client")
    sent = other.send(BytesMessage(payload)) + other.send(TextMessage(text))
    assert received(open_side(side), sent) == [[BytesMessage(payload), TextMessage(text)]]


def test_a_piece_that_looks_like_a_frame():
    """It goes on with a payload, and is not to be unmasked as what it looks like."""
    looks = encode_frame(BINARY, bytes(2000), mask=MASK)
    data = encode_frame(BINARY, b"begin" + looks, mask=bytes(4))
    at = len(data) - len(looks)
    assert received(open_side("server"), data[:at], data[at:]) == [
        [BytesMessage(b"begin", frame_finished=False, message_finished=False)],
        [BytesMessage(looks, frame_finished=True, message_finished=True)],
    ]


class Inverting(Extension):
    """Changes every payload, byte by byte, in whatever parts it comes."""

    name = "x-inverting"

    def offer(self):
        return True

    def enabled(self):
        return True

    def frame_inbound_payload_data(self, proto, data):
        return bytes(0xFF - octet for octet in data)


RANDOM = random.Random(6455).randbytes(6000)
LARGE_MESSAGES = {
    "ascii": (TEXT, b"ascii" * 1000, 0, "ascii" * 1000),
    "other text": (TEXT, "x\N{SNOWMAN}".encode() * 1250, 0, "x\N{SNOWMAN}" * 1250),
    "binary": (BINARY, RANDOM, 0, RANDOM),
    "deflated": (BINARY, PeerDeflater().message(RANDOM), 0b100, RANDOM),
    "inverted": (BINARY, bytes(0xFF - octet for octet in RANDOM), 0, RANDOM),
}


@pytest.mark.parametrize("assembled", [False, True], ids=["in parts", "assembled"])
@pytest.mark.parametrize("fragmented", [False, True], ids=["one frame", "two frames"])
@pytest.mark.parametrize("kind", LARGE_MESSAGES)
@SIDES
def test_large_frames_wherever_they_are_cut(side, kind, fragmented, assembled):
    """They are read where the caller has them, and unmasked on the way to what is made of them;
    those that come byte by byte are not.
    """
    opcode, payload, rsv, data = LARGE_MESSAGES[kind]
    mask = None if side == "client" else MASK
    # The second is larger than what was enough for the first to be unmasked in.
    half = 1501 if fragmented else 0
    octets = encode_frame(BINARY, b"", mask=mask)
    if fragmented:
        octets += encode_frame(opcode, payload[:half], fin=False, rsv=rsv, mask=mask)
        octets += encode_frame(PING, b"between", mask=mask)
        opcode, rsv = CONTINUATION, 0
    octets += encode_frame(opcode, payload[half:], rsv=rsv, mask=mask)
    octets += encode_frame(PONG, b"behind", mask=mask) + encode_frame(BINARY, RANDOM, mask=mask)
    before = bytes(bytearray(octets))

    def events(*pieces):
        extensions = {"deflated": agreed(side), "inverted": [Inverting()]}.get(kind)
        connection = open_side(side, extensions=extensions, assemble_messages=assembled)
        told = []
        for piece in pieces:
            connection.receive_data(piece)
            told += drained(connection)
        return whole(told)

    expected = events(*(octets[at : at + 1] for at in range(len(octets))))
    assert next(fields["data"] for _, fields in expected if fields.get("data")) == data
    # In and behind each header, at both ends of each payload, and in their middle.
    for at in {*range(40), *range(1500, 1570), *range(0, len(octets), 397), len(octets) - 1025}:
        assert events(octets[:at], octets[at:]) == expected, at
    assert octets == before, "the caller's bytes were written to"


@pytest.mark.parametrize("place", [0, 1023, 1024, 5000, 65535])
def test_a_large_text_that_is_not_all_ascii(place):
    text = "a" * place + "é" + "b" * (65535 - place)
    wrong = text.encode("latin-1")
    for side in ("client", "server"):
        connection = open_side(side)
        data = frame_to(side, TEXT, text.encode()) + frame_to(side, TEXT, wrong)
        assert received(connection, data) == [
            [
                TextMessage(text),
                CloseConnection(CloseReason.INVALID_FRAME_PAYLOAD_DATA, "a text is not UTF-8"),
            ]
        ]


@SIDES
def test_payload_in_pieces(side):
    data = frame_to(side, BINARY, b"abcdef")
    header = len(data) - 6
    pieces = data[:1], data[1:header], data[header : header + 2], data[header + 2 :]
    assert received(open_side(side), *pieces) == [
        [],
        [],
        [BytesMessage(b"ab", frame_finished=False, message_finished=False)],
        [BytesMessage(b"cdef", frame_finished=True, message_finished=True)],
    ]


@SIDES
def test_fragments(side):
    data = (
        frame_to(side, TEXT, b"a", fin=False)
        + frame_to(side, PING, b"between")
        + frame_to(side, CONTINUATION, b"", fin=False)
        + frame_to(side, CONTINUATION, b"b")
    )
    assert received(open_side(side), data) == [
        [
            TextMessage("a", frame_finished=True, message_finished=False),
            Ping(b"between"),
            TextMessage("", frame_finished=True, message_finished=False),
            TextMessage("b", frame_finished=True, message_finished=True),
        ]
    ]


def test_text_is_told_up_to_the_last_whole_character():
    # 2, 3 and 4 bytes, a byte at a time.
    text = "é€😀é"
    data = encode_frame(TEXT, text.encode())
    events = received(open_side(), data[:2], *(data[at : at + 1] for at in range(2, len(data))))
    assert [event.data for told in events for event in told] == [
        *("", "é"),
        *("", "", "€"),
        *("", "", "", "😀"),
        *("", "é"),
    ]


def test_a_character_across_fragments():
    octets = "😀".encode()
    data = (
        encode_frame(TEXT, b"a" + octets[:1], fin=False)
        + encode_frame(CONTINUATION, octets[1:3], fin=False)
        + encode_frame(CONTINUATION, b"", fin=False)
        + encode_frame(CONTINUATION, octets[3:] + b"b" + octets)
    )
    (events,) = received(open_side(), data)
    assert [event.data for event in events] == ["a", "", "", "😀b😀"]


@pytest.mark.parametrize("size", [1023, 1024, 1025, 5000])
@pytest.mark.parametrize("place", [0, 1000, -1])
def test_large_texts_with_one_other_character(size, place):
    text = "x" * size
    octets = bytearray(text.encode())
    octets[place : place + 1 or None] = "é".encode()
    (events,) = received(open_side(), encode_frame(TEXT, bytes(octets)))
    assert events == [TextMessage(octets.decode())]
    octets[octets.index(0xC3)] = 0xFF
    (events,) = received(open_side(), encode_frame(TEXT, bytes(octets)))
    assert [event.code for event in events] == [1007]


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda data: memoryview(data)[:]])
@SIDES
def test_what_bytes_come_in(make, side):
    data = frame_to(side, TEXT, b"x")
    connection = open_side(side)
    assert received(connection, make(data)) == [[TextMessage("x")]]
    assert data == frame_to(side, TEXT, b"x"), "the caller's bytes were written to"


@SIDES
def test_the_callers_bytes_are_not_written_to(side):
    """In particular not single bytes, which the interpreter shares."""
    data = frame_to(side, TEXT, b"abcd" * 100)
    before = bytes(bytearray(data))
    singles = [bytes([value]) for value in range(256)]
    connection = open_side(side)
    connection.receive_data(data)
    list(connection.events())
    for value in data:
        connection.receive_data(singles[value])
        list(connection.events())
    assert data == before
    assert singles == [chr(value).encode("latin-1") for value in range(256)]


def test_bytes_that_change_later():
    data = bytearray(encode_frame(BINARY, b"abc"))
    connection = open_side()
    connection.receive_data(data)
    data[:] = bytes(len(data))
    assert list(connection.events()) == [BytesMessage(b"abc")]


@pytest.mark.parametrize("data", ["text", 5, [1, 2], object()])
def test_what_are_no_bytes(data):
    connection = open_side()
    with pytest.raises(TypeError):
        connection.receive_data(data)
    assert received(connection, encode_frame(TEXT, b"x")) == [[TextMessage("x")]]


# -- laziness --------------------------------------------------------------------------------------


def test_the_state_changes_with_what_is_told():
    connection = open_side()
    connection.receive_data(encode_frame(TEXT, b"x") + encode_close(1000))
    events = connection.events()
    assert next(events) == TextMessage("x")
    # What came before the CLOSE can be answered.
    assert connection.state is ConnectionState.OPEN
    connection.send(TextMessage("answer"))
    assert next(events) == CloseConnection(1000, "")
    assert connection.state is ConnectionState.REMOTE_CLOSING


def test_what_came_since_is_told_in_one():
    connection = open_side()
    for piece in (b"\x81\x05he", b"ll", b"o"):
        connection.receive_data(piece)
    assert list(connection.events()) == [TextMessage("hello")]


def test_one_event_at_a_time():
    connection = open_side()
    connection.receive_data(encode_frame(TEXT, b"a") + encode_frame(TEXT, b"b"))
    assert next(connection.events()) == TextMessage("a")
    connection.receive_data(encode_frame(TEXT, b"c")[:2])
    assert next(connection.events()) == TextMessage("b")
    events = connection.events()
    assert list(events) == []
    connection.receive_data(b"c")
    assert list(events) == [TextMessage("c")]


@SIDES
def test_bytes_that_come_while_events_are_read(side):
    connection = open_side(side)
    connection.receive_data(frame_to(side, TEXT, b"0"))
    seen = []
    for event in connection.events():
        seen.append(event.data)
        if len(seen) < 5:
            connection.receive_data(frame_to(side, TEXT, str(len(seen)).encode()))
    assert seen == ["0", "1", "2", "3", "4"]


def test_many_pieces_at_once():
    """No piece is looked at more often than a fixed number of times."""
    connection = open_side()
    data = encode_frame(BINARY, bytes(300_000))
    for value in data:
        connection.receive_data(bytes([value]))
    assert list(connection.events()) == [BytesMessage(bytes(300_000))]


# -- what may be sent when -------------------------------------------------------------------------

DATA_EVENTS = [TextMessage("x"), BytesMessage(b"x"), Message("x"), Ping(), Pong()]
NEVER = [
    Request(host="h", target="/"),
    AcceptConnection(),
    RejectConnection(),
    RejectData(b""),
    Event(),
    None,
    3,
]


def in_state(library, name):
    connection = library.open("client")
    if name == "REMOTE_CLOSING":
        connection.receive_data(encode_close(1000))
        list(connection.events())
    elif name in ("LOCAL_CLOSING", "CLOSED"):
        connection.send(library.events.CloseConnection(1000))
    if name == "CLOSED":
        connection.receive_data(encode_close(1000))
        list(connection.events())
    assert connection.state.name == name
    return connection


@pytest.mark.parametrize("library", [OURS, THEIRS], ids=repr)
@pytest.mark.parametrize("name", ["OPEN", "REMOTE_CLOSING", "LOCAL_CLOSING", "CLOSED"])
@pytest.mark.parametrize("event", [*DATA_EVENTS, *NEVER, CloseConnection(1000)], ids=repr)
def test_what_each_state_allows(library, name, event):
    if isinstance(event, Event) and type(event) is not Event:
        fields = {field: getattr(event, field) for field in event.__match_args__}
        event = library.event(type(event).__name__, **fields)
    connection = in_state(library, name)
    allowed = name == "OPEN" and type(event).__name__ in (
        *("TextMessage", "BytesMessage", "Message", "Ping", "Pong"),
    )
    if type(event).__name__ == "CloseConnection":
        allowed = name in ("OPEN", "REMOTE_CLOSING")
    if allowed:
        assert connection.send(event)
        return
    with pytest.raises(library.utilities.LocalProtocolError) as caught:
        connection.send(event)
    if type(event).__name__ != "Event":  # whose repr is an address
        assert str(caught.value) == (
            f"Event {event} cannot be sent in state ConnectionState.{name}."
        )
    assert connection.state.name == name


@pytest.mark.parametrize("library", [OURS, THEIRS], ids=repr)
def test_bytes_behind_the_end(library):
    connection = in_state(library, "CLOSED")
    with pytest.raises(library.utilities.LocalProtocolError, match="already closed"):
        connection.receive_data(b"")
    connection.receive_data(None)
    assert drained(connection) == [("CloseConnection", {"code": 1006, "reason": None})]


@SIDES
def test_data_decide_on_the_frame(side):
    """As with wsproto, the class of the event does not."""
    for event, opcode in (
        (Message("x"), TEXT),
        (Message(b"x"), BINARY),
        (Message(bytearray(b"x")), BINARY),
        (Message(memoryview(b"x")), BINARY),
        (TextMessage(b"x"), BINARY),
        (BytesMessage("x"), TEXT),
    ):
        assert open_side(side).send(event)[0] == 0x80 | opcode


def test_fragments_are_sent():
    connection = open_side("server")
    assert connection.send(TextMessage("a", message_finished=False)) == b"\x01\x01a"
    # What only a receiver says is not looked at.
    event = TextMessage("b", frame_finished=False, message_finished=False)
    assert connection.send(event) == b"\x00\x01b"
    assert connection.send(Ping(b"p")) == b"\x89\x01p"
    assert connection.send(TextMessage("c")) == b"\x80\x01c"
    assert connection.send(TextMessage("d")) == b"\x81\x01d"


@pytest.mark.parametrize("library", [OURS, THEIRS], ids=repr)
def test_a_message_goes_on_as_it_began(library):
    connection = library.open("server")
    connection.send(library.events.TextMessage("a", message_finished=False))
    with pytest.raises(TypeError):
        connection.send(library.events.BytesMessage(b"b"))
    assert connection.send(library.events.TextMessage("b")) == b"\x80\x01b"


@pytest.mark.parametrize("library", [OURS, THEIRS], ids=repr)
@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("Message", 3, TypeError),
        ("Message", None, TypeError),
        ("Message", "\ud800", UnicodeEncodeError),
        ("Ping", "text", TypeError),
        ("Pong", "text", TypeError),
        ("Ping", bytes(126), ValueError),
        ("Pong", bytes(126), ValueError),
    ],
)
def test_data_that_no_frame_holds(library, name, data, error):
    connection = library.open("server")
    with pytest.raises(error):
        connection.send(getattr(library.events, name)(data))
    assert connection.send(library.events.TextMessage("x")) == b"\x81\x01x"


def test_masks_are_fresh():
    connection = open_side()
    masks = {connection.send(TextMessage("x" * 20))[2:6] for _ in range(1000)}
    assert len(masks) > 990


# -- closing ---------------------------------------------------------------------------------------


@SIDES
@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (b"", 1005, ""),
        (b"\x03\xe8", 1000, ""),
        (b"\x03\xe8bye", 1000, "bye"),
        (b"\x03\xf3" + "é".encode(), 1011, "é"),
        (b"\x0b\xb8", 3000, ""),
        (b"\x13\x87", 4999, ""),
    ],
)
def test_the_remote_closes(side, payload, code, reason):
    for library in (OURS, THEIRS):
        connection = library.open(side)
        connection.receive_data(frame_to(side, CLOSE, payload))
        (event,) = connection.events()
        assert (event.code, event.reason) == (code, reason)
        assert isinstance(event.code, library.frame_protocol.CloseReason) == (code < 3000)
        assert connection.state.name == "REMOTE_CLOSING"
        answer = connection.send(event.response())
        assert connection.state.name == "CLOSED"
        assert side == "client" or answer[2:] == payload
        peer = library.open("server" if side == "client" else "client")
        peer.receive_data(answer)
        (event,) = peer.events()
        assert (event.code, event.reason) == (code, reason)


@SIDES
def test_the_local_closes(side):
    connection = open_side(side)
    connection.send(CloseConnection(1001, "away"))
    assert connection.state is ConnectionState.LOCAL_CLOSING
    # What the other side sent before it knew is told.
    (events,) = received(
        connection, frame_to(side, TEXT, b"late") + frame_to(side, PING) + close_to(side, 1001)
    )
    assert events == [TextMessage("late"), Ping(), CloseConnection(1001, "")]
    assert connection.state is ConnectionState.CLOSED


@SIDES
def test_both_close_at_once(side):
    connection = open_side(side)
    connection.receive_data(close_to(side, 1000))
    connection.send(CloseConnection(1001))
    assert connection.state is ConnectionState.LOCAL_CLOSING
    assert list(connection.events()) == [CloseConnection(1000, "")]
    assert connection.state is ConnectionState.CLOSED


@SIDES
def test_what_comes_behind_a_close_is_dropped_and_kept_apart(side):
    connection = open_side(side)
    rest = frame_to(side, TEXT, b"x")
    connection.receive_data(close_to(side, 1000) + rest[:3])
    connection.receive_data(rest[3:])
    assert connection.trailing_data == b""
    assert list(connection.events()) == [CloseConnection(1000, "")]
    assert connection.trailing_data == rest
    assert received(connection, rest) == [[]]
    assert connection.trailing_data == rest


@SIDES
def test_what_came_apart_from_the_close_is_kept_too(side):
    connection = open_side(side)
    connection.receive_data(frame_to(side, TEXT, b"x") + close_to(side, 1000) + b"HT")
    events = connection.events()
    assert next(events) == TextMessage("x")
    connection.receive_data(b"TP")
    assert next(events) == CloseConnection(1000, "")
    assert connection.trailing_data == b"HTTP"


@SIDES
def test_the_stream_ends(side):
    connection = open_side(side)
    assert received(connection, frame_to(side, TEXT, b"x"), None) == [
        [TextMessage("x")],
        [CloseConnection(CloseReason.ABNORMAL_CLOSURE, None)],
    ]
    assert connection.state is ConnectionState.CLOSED
    with pytest.raises(LocalProtocolError, match="already closed"):
        connection.receive_data(b"x")


@SIDES
def test_the_end_is_told_last(side):
    connection = open_side(side)
    connection.receive_data(frame_to(side, TEXT, b"x") + close_to(side, 1000))
    connection.receive_data(None)
    assert list(connection.events()) == [
        TextMessage("x"),
        CloseConnection(1000, ""),
        CloseConnection(1006, None),
    ]
    assert connection.state is ConnectionState.CLOSED


@SIDES
def test_the_stream_ends_inside_a_frame(side):
    connection = open_side(side)
    told = received(connection, frame_to(side, TEXT, b"xyz")[:-1], None)
    assert told == [
        [TextMessage("xy", frame_finished=False, message_finished=False)],
        [CloseConnection(1006, None)],
    ]


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_codes_that_may_be_sent(code):
    connection = open_side("server")
    sent = connection.send(CloseConnection(code, "why"))
    assert sent == b"\x88\x05" + struct.pack("!H", code) + b"why"
    assert connection.state is ConnectionState.LOCAL_CLOSING


@pytest.mark.parametrize(
    "code", [-1, 0, 1, 999, 1004, 1006, 1015, 1016, 2999, 5000, 65535, 65536, 2**70]
)
def test_codes_that_must_not_be_sent(code):
    connection = open_side("server")
    with pytest.raises(LocalProtocolError, match=f"close code {code} must not be sent"):
        connection.send(CloseConnection(code))
    assert connection.state is ConnectionState.OPEN


@pytest.mark.parametrize("code", [None, 1005, CloseReason.NO_STATUS_RCVD])
def test_a_close_without_a_code(code):
    assert open_side("server").send(CloseConnection(code)) == b"\x88\x00"
    assert open_side("server").send(CloseConnection(code, "")) == b"\x88\x00"
    with pytest.raises(LocalProtocolError, match="without a code has no reason"):
        open_side("server").send(CloseConnection(code, "why"))


@pytest.mark.parametrize("code", ["1000", 1000.0, True, b"x"])
def test_codes_that_are_no_ints(code):
    with pytest.raises(TypeError, match="a close code is an int"):
        open_side("server").send(CloseConnection(code))


def test_a_reason_that_is_no_text():
    with pytest.raises(TypeError, match="reason of a CLOSE is a str"):
        open_side("server").send(CloseConnection(1000, b"x"))


@pytest.mark.parametrize("reason", ["x" * 200, "é" * 100, "x" + "€" * 60, "😀" * 40])
def test_a_long_reason_is_cut_at_a_character(reason):
    ours = open_side("server").send(CloseConnection(1000, reason))
    theirs = THEIRS.open("server").send(THEIRS.events.CloseConnection(1000, reason))
    assert ours == theirs
    assert reason.startswith(ours[4:].decode())


# -- what the other side must not send -------------------------------------------------------------

VIOLATIONS = {
    "reserved bit": ({"opcode": TEXT, "payload": b"x", "rsv": 4}, 1002),
    "reserved bit 3": ({"opcode": TEXT, "payload": b"x", "rsv": 1}, 1002),
    "reserved bit of a PING": ({"opcode": PING, "rsv": 2}, 1002),
    "opcode 3": ({"opcode": 3}, 1002),
    "opcode 11": ({"opcode": 11}, 1002),
    "continuation of nothing": ({"opcode": CONTINUATION, "payload": b"x"}, 1002),
    "fragmented PING": ({"opcode": PING, "fin": False}, 1002),
    "long PING": ({"opcode": PING, "payload": bytes(126)}, 1002),
    "7 bits in 16": ({"opcode": TEXT, "payload": b"x", "length_bits": 16}, 1002),
    "16 bits in 64": ({"opcode": TEXT, "payload": bytes(200), "length_bits": 64}, 1002),
    "not UTF-8": ({"opcode": TEXT, "payload": b"ab\xff"}, 1007),
    "half a character": ({"opcode": TEXT, "payload": b"ab\xc3"}, 1007),
    "CLOSE of 1 byte": ({"opcode": CLOSE, "payload": b"\x03"}, 1002),
    "CLOSE 1005": ({"opcode": CLOSE, "payload": b"\x03\xed"}, 1002),
    "CLOSE 999": ({"opcode": CLOSE, "payload": b"\x03\xe7"}, 1002),
    "CLOSE 5000": ({"opcode": CLOSE, "payload": b"\x13\x88"}, 1002),
    "CLOSE without UTF-8": ({"opcode": CLOSE, "payload": b"\x03\xe8\xff"}, 1007),
}


@SIDES
@pytest.mark.parametrize("name", VIOLATIONS)
@pytest.mark.parametrize("library", [OURS, THEIRS], ids=repr)
def test_violations(library, side, name):
    arguments, code = VIOLATIONS[name]
    connection = library.open(side)
    good, bad = frame_to(side, TEXT, b"ok"), frame_to(side, **arguments)
    connection.receive_data(good + bad + good)
    first, failure = connection.events()
    assert first.data == "ok"
    assert failure.code == code
    assert isinstance(failure.code, library.frame_protocol.CloseReason)
    assert failure.reason
    # It is the program that closes, and nothing more is told.
    assert connection.state.name == "OPEN"
    connection.receive_data(good)
    assert list(connection.events()) == []
    assert connection.send(failure.response())
    assert connection.state.name == "LOCAL_CLOSING"
    connection.receive_data(None)
    assert [event.code for event in connection.events()] == [1006]
    assert connection.state.name == "CLOSED"


@pytest.mark.parametrize("library", [OURS, THEIRS], ids=repr)
def test_a_message_inside_a_message(library):
    connection = library.open("client")
    connection.receive_data(encode_frame(TEXT, b"a", fin=False) + encode_frame(TEXT, b"b"))
    told = drained(connection)
    assert [name for name, _ in told] == ["TextMessage", "CloseConnection"]
    assert told[1][1]["code"] == 1002


@pytest.mark.parametrize("library", [OURS, THEIRS], ids=repr)
def test_masks_of_the_wrong_side(library):
    for side, other in (("client", "server"), ("server", "client")):
        connection = library.open(side)
        connection.receive_data(frame_to(other, TEXT, b"x"))
        assert [fields["code"] for _, fields in drained(connection)] == [1002]


def test_the_reason_of_a_violation_fits_into_a_close():
    connection = open_side("server", max_message_size=10)
    (events,) = received(connection, frame_to("server", BINARY, bytes(200_000)))
    assert len(connection.send(events[0].response())) <= 127


@SIDES
def test_text_fails_at_the_first_byte_that_cannot_be(side):
    """Also inside a frame that has not come to its end, and where a lenient decoder would wait."""
    data = frame_to(side, TEXT, b"a\xed\xa0\x80")  # a surrogate
    connection = open_side(side)
    assert [event.data for event in received(connection, data[:-2])[0]] == ["a"]
    ((failure,),) = received(connection, data[-2:-1])
    assert failure.code == 1007


@SIDES
def test_a_header_fails_before_its_payload_comes(side):
    for first in (
        frame_to(side, CONTINUATION, bytes(100)),
        frame_to(side, BINARY, bytes(100), rsv=2),
        frame_to(side, PING, b"abc", rsv=4),
    ):
        header = 2 if side == "client" else 6
        connection = open_side(side)
        ((failure,),) = received(connection, first[:header])
        assert failure.code == 1002


# -- permessage-deflate ----------------------------------------------------------------------------


@SIDES
def test_compressed_messages(side):
    peer = PeerDeflater()
    connection = open_side(side, extensions=agreed(side))
    data = frame_to(side, TEXT, peer.message(b"hello hello"), rsv=4)
    data += frame_to(side, BINARY, b"as it is")
    data += frame_to(side, BINARY, peer.message(b"hello hello"), rsv=4)
    assert received(connection, data) == [
        [TextMessage("hello hello"), BytesMessage(b"as it is"), BytesMessage(b"hello hello")]
    ]


@SIDES
def test_line_30_a_send_that_fails_leaves_the_compressor_where_it_was(side):
    connection = open_side(side, extensions=agreed(side))
    far = "server" if side == "client" else "client"
    other = open_side(far, extensions=agreed(far))
    begun = TextMessage("tick " * 50, message_finished=False)
    for wrong, error in (
        (Message("tock \ud800" * 50), UnicodeEncodeError),
        (Message(memoryview(b"tock" * 50)[::2]), (BufferError, TypeError)),
        (Message(3), TypeError),
        (Ping(bytes(126)), ValueError),
        (CloseConnection(1005, "tock"), LocalProtocolError),
        (Request("host", "/"), LocalProtocolError),
    ):
        for before in (None, begun):
            stream = connection.send(before) if before else b""
            with pytest.raises(error):
                connection.send(wrong)
            if before:
                with pytest.raises(TypeError, match="goes on with the same"):
                    connection.send(BytesMessage(b"tock"))
            stream += connection.send(TextMessage("tock " * 50))
            assert stream[0] & 0x40
            (events,) = received(other, stream)
            told = "".join(event.data for event in events)
            assert told == (before.data if before else "") + "tock " * 50
    connection.send(CloseConnection(1000))
    with pytest.raises(LocalProtocolError):
        connection.send(TextMessage("tick"))


@SIDES
def test_compressed_pieces_are_told_as_they_inflate(side):
    data = frame_to(side, BINARY, PeerDeflater().message(bytes(range(256)) * 40), rsv=4)
    connection = open_side(side, extensions=agreed(side))
    told = received(connection, *(data[at : at + 50] for at in range(0, len(data), 50)))
    events = [event for events in told for event in events]
    assert b"".join(event.data for event in events) == bytes(range(256)) * 40
    assert [event.message_finished for event in events] == [False] * (len(events) - 1) + [True]
    assert len(events) > 3


@SIDES
def test_deviation_a_ping_between_compressed_fragments(side):
    first, second = PeerDeflater().pieces([b"hello ", b"hello"])
    data = (
        frame_to(side, TEXT, first, fin=False, rsv=4)
        + frame_to(side, PING, b"p")
        + frame_to(side, CONTINUATION, second)
    )
    connection = open_side(side, extensions=agreed(side))
    assert received(connection, data) == [
        [
            TextMessage("hello ", message_finished=False),
            Ping(b"p"),
            TextMessage("hello"),
        ]
    ]


@SIDES
def test_deviation_final_blocks(side):
    """RFC 7692 section 7.2.3.4: the stream goes on behind a block with BFINAL set."""
    peer = PeerDeflater()
    data = frame_to(side, TEXT, peer.final(b"first"), rsv=4)
    data += frame_to(side, TEXT, peer.message(b"second"), rsv=4)
    both = zlib.compressobj(9, zlib.DEFLATED, -15)
    ended = both.compress(b"one") + both.flush(zlib.Z_FINISH)
    data += frame_to(side, TEXT, ended + PeerDeflater().message(b", two"), rsv=4)
    connection = open_side(side, extensions=agreed(side))
    assert received(connection, data) == [
        [TextMessage("first"), TextMessage("second"), TextMessage("one, two")]
    ]


@SIDES
@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([{"opcode": TEXT, "payload": b"\xff\xff\xff", "rsv": 4}], 1007),
        ([{"opcode": TEXT, "payload": PeerDeflater().message(b"\xff"), "rsv": 4}], 1007),
        ([{"opcode": TEXT, "payload": b"x", "rsv": 6}], 1002),
        ([{"opcode": PING, "payload": b"x", "rsv": 4}], 1002),
        (
            [
                {"opcode": TEXT, "payload": b"x", "fin": False},
                {"opcode": CONTINUATION, "payload": b"x", "rsv": 4},
            ],
            1002,
        ),
    ],
)
@pytest.mark.parametrize("library", [OURS, THEIRS], ids=repr)
def test_compressed_violations(library, side, frames, code):
    connection = library.open(side, DEFLATE)
    connection.receive_data(b"".join(frame_to(side, **frame) for frame in frames))
    assert drained(connection)[-1][1]["code"] == code


@SIDES
def test_without_context_takeover(side):
    offer = f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover"
    connection = open_side(side, extensions=agreed(side, offer))
    text = "a message that is long enough to be compressed, again and again and again"
    one, two = (connection.send(TextMessage(text)) for _ in range(2))
    assert one[0] == 0xC1
    if side == "server":
        assert one == two
    else:
        assert len(one) == len(two)
    peer = PeerDeflater(takeover=False)
    data = b"".join(frame_to(side, TEXT, peer.message(text.encode()), rsv=4) for _ in range(2))
    assert received(connection, data) == [[TextMessage(text)] * 2]


def test_short_messages_go_uncompressed():
    connection = open_side("server", extensions=agreed("server"))
    assert connection.send(TextMessage("x" * 63))[0] == 0x81
    assert connection.send(TextMessage("x" * 64))[0] == 0xC1
    extension = PerMessageDeflate(threshold=0)
    extension.accept(DEFLATE)
    connection = open_side("server", extensions=[extension])
    assert connection.send(TextMessage(""))[0] == 0xC1
    # How long a message becomes is not known with its first fragment.
    connection = open_side("server", extensions=agreed("server"))
    assert connection.send(TextMessage("x", message_finished=False))[0] == 0x41
    assert connection.send(TextMessage("x"))[0] == 0x80


def test_a_window_of_8_bits_is_not_compressed_to():
    offer = f"{DEFLATE}; client_max_window_bits=8"
    connection = open_side("client", extensions=agreed("client", offer))
    assert connection.send(TextMessage("x" * 1000))[0] == 0x81


def test_one_set_of_settings_for_two_connections():
    """What a connection has is made when it begins."""
    extension = PerMessageDeflate()
    extension.accept(DEFLATE)
    one = open_side("server", extensions=[extension])
    two = open_side("server", extensions=[extension])
    message = TextMessage("hello " * 50)
    for connection in (one, two):
        (event,) = received(
            open_side("client", extensions=agreed("client")), connection.send(message)
        )
        assert event == [message]


# -- parameters ------------------------------------------------------------------------------------


class Other(Extension):
    name = "x-other"

    def offer(self):
        return True


def test_trailing_data():
    data = encode_frame(TEXT, b"x")
    assert list(Connection(CLIENT, None, data).events()) == [TextMessage("x")]
    connection = Connection(CLIENT, trailing_data=data[:2])
    connection.receive_data(data[2:])
    assert list(connection.events()) == [TextMessage("x")]


def test_extensions_that_are_not_enabled():
    for extensions in (None, [], (), [PerMessageDeflate()], [PerMessageDeflate(), Other()]):
        connection = Connection(SERVER, extensions)
        assert connection.send(TextMessage("x" * 100))[0] == 0x81


@pytest.mark.parametrize("first", [[PerMessageDeflate()], None, True, "client", 1])
def test_the_connection_type_comes_first(first):
    with pytest.raises(TypeError, match=r"connection_type must be ConnectionType\.CLIENT or"):
        Connection(first)
    with pytest.raises(TypeError, match="connection_type must be"):
        OURS.root.WSConnection(first)
    with pytest.raises(TypeError, match="connection_type must be"):
        OURS.handshake.H11Handshake(first)


@pytest.mark.parametrize("extensions", [DEFLATE, [DEFLATE], [PerMessageDeflate], 3, {1: 2}])
def test_what_are_no_extensions(extensions):
    with pytest.raises(TypeError, match="extensions must"):
        Connection(CLIENT, extensions)


@pytest.mark.parametrize("make", [Connection, OURS.root.WSConnection, OURS.handshake.H11Handshake])
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_message_size", 0, ValueError),
        ("max_message_size", -1, ValueError),
        ("max_message_size", 2**49, ValueError),
        ("max_message_size", "1", TypeError),
        ("max_message_size", None, TypeError),
        ("max_message_size", 1.5, TypeError),
        ("max_inflated_size", 0, ValueError),
        ("max_inflated_size", True, TypeError),
        ("max_fragments", 0, ValueError),
        ("max_fragments", b"1", TypeError),
        ("assemble_messages", 1, TypeError),
        ("assemble_messages", None, TypeError),
    ],
)
def test_parameters_out_of_range(make, name, value, error):
    with pytest.raises(error, match=name):
        make(CLIENT, **{name: value})


def test_attributes():
    assert Connection(CLIENT).client is True
    assert Connection(SERVER).client is False
    assert Connection(SERVER).trailing_data == b""


def test_a_connection_goes_when_nobody_holds_it():
    gc.disable()
    try:
        for make in (lambda: open_side("server", extensions=agreed("server")), opened):
            connection = make()
            received(connection, frame_to("server", TEXT, b"x"))
            gone = weakref.ref(connection)
            del connection
            assert gone() is None
    finally:
        gc.enable()


def opened():
    """A server's, from its handshake on."""
    server = OURS.root.WSConnection(SERVER)
    server.receive_data(upgrade_request())
    list(server.events())
    server.send(AcceptConnection())
    return server


# -- one at a time ---------------------------------------------------------------------------------


class Patient(Extension):
    """Says when it was asked, and answers when it may."""

    name = "x-patient"

    def __init__(self):
        self.asked = threading.Event()
        self.may_answer = threading.Event()

    def offer(self):
        return True

    def enabled(self):
        return True

    def frame_inbound_payload_data(self, proto, data):
        self.asked.set()
        assert self.may_answer.wait(10)
        return data


def test_two_threads_do_not_read_at_once():
    extension = Patient()
    connection = open_side("client", extensions=[extension])
    connection.receive_data(encode_frame(TEXT, b"x") * 2)
    told = []
    thread = threading.Thread(target=lambda: told.extend(connection.events()))
    thread.start()
    try:
        assert extension.asked.wait(10)
        with pytest.raises(RuntimeError, match="read by one at a time"):
            next(connection.events())
        # What is only put down meanwhile is found.
        connection.receive_data(encode_frame(TEXT, b"y"))
    finally:
        extension.may_answer.set()
        thread.join()
    assert told == [TextMessage("x"), TextMessage("x"), TextMessage("y")]


def test_an_extension_does_not_read_what_it_is_asked_about():
    class Curious(Patient):
        def frame_inbound_payload_data(self, proto, data):
            return next(self.connection.events()).data

    extension = Curious()
    extension.connection = connection = open_side("client", extensions=[extension])
    connection.receive_data(encode_frame(TEXT, b"x"))
    with pytest.raises(RuntimeError, match="nor by an extension"):
        next(connection.events())
