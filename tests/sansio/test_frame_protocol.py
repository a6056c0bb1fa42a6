"""sansio/frame_protocol.py: frames without the state of a connection."""

import pytest
from aio.deflate_peer import PeerDeflater
from hypothesis import given
from hypothesis import strategies as st
from sansio.both import OURS, THEIRS, cut

from picows.sansio.extensions import PerMessageDeflate
from picows.sansio.frame_protocol import CloseReason, Frame, FrameProtocol, Opcode, ParseFailed
from picows.sansio.utilities import LocalProtocolError
from raw_peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, encode_close, encode_frame

LIBRARIES = pytest.mark.parametrize("library", [OURS, THEIRS], ids=repr)
MASK = b"mask"


def as_data(frames):
    return [(int(opcode), *rest) for opcode, *rest in frames]


def frames_of(library, pieces, client=True):
    protocol = library.frame_protocol.FrameProtocol(client, [])
    told = []
    for piece in pieces:
        protocol.receive_bytes(piece)
        told.append(as_data(protocol.received_frames()))
    return told


STREAM = [
    (TEXT, "é€".encode(), {"fin": False}),
    (PING, b"p", {}),
    (CONTINUATION, b"", {"fin": False}),
    (CONTINUATION, "😀!".encode(), {}),
    (PONG, b"", {}),
    (BINARY, bytes(range(200)), {}),
]


@pytest.mark.parametrize("client", [True, False])
@given(places=st.lists(st.integers(0, 260)))
def test_frames_in_pieces(client, places):
    mask = None if client else MASK
    data = b"".join(
        encode_frame(opcode, payload, mask=mask, **more) for opcode, payload, more in STREAM
    )
    data += encode_close(1001, b"bye", mask=mask)
    pieces = cut(data, places)
    assert frames_of(OURS, pieces, client) == frames_of(THEIRS, pieces, client)


@LIBRARIES
def test_frames(library):
    ((*_, last),) = frames_of(library, [encode_frame(BINARY, b"x") + encode_frame(CLOSE, b"")])
    assert last == (CLOSE, (1005, ""), True, True)
    protocol = library.frame_protocol.FrameProtocol(True, [])
    protocol.receive_bytes(encode_frame(TEXT, b"x") + encode_close(3000, b"y"))
    text, close = protocol.received_frames()
    assert isinstance(text, library.frame_protocol.Frame)
    assert text._fields == ("opcode", "payload", "frame_finished", "message_finished")
    assert repr(text) == (
        "Frame(opcode=<Opcode.TEXT: 1>, payload='x', frame_finished=True, message_finished=True)"
    )
    assert close.payload == (3000, "y")
    # Nothing comes behind a CLOSE.
    protocol.receive_bytes(encode_frame(TEXT, b"x"))
    assert list(protocol.received_frames()) == []


@LIBRARIES
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encode_frame(3), 1002),
        (encode_frame(TEXT, b"\xff"), 1007),
        (encode_frame(CLOSE, b"\x03"), 1002),
        (encode_frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (encode_frame(TEXT, mask=MASK), 1002),
        (encode_frame(CONTINUATION), 1002),
        (encode_frame(TEXT, rsv=4), 1002),
    ],
)
def test_parse_failed(library, data, code):
    protocol = library.frame_protocol.FrameProtocol(True, [])
    protocol.receive_bytes(encode_frame(TEXT, b"x") + data + encode_frame(TEXT, b"y"))
    frames = protocol.received_frames()
    assert next(frames).payload == "x"
    with pytest.raises(library.frame_protocol.ParseFailed) as caught:
        next(frames)
    assert caught.value.code == code
    assert isinstance(caught.value.code, library.frame_protocol.CloseReason)
    # Once; then nothing more.
    assert list(frames) == []
    protocol.receive_bytes(encode_frame(TEXT, b"z"))
    assert list(protocol.received_frames()) == []


@LIBRARIES
def test_the_error(library):
    error = library.frame_protocol.ParseFailed("x")
    assert (str(error), error.args, error.code) == ("x", ("x",), 1002)
    too_big = library.frame_protocol.CloseReason.MESSAGE_TOO_BIG
    assert library.frame_protocol.ParseFailed("x", code=too_big).code is too_big


@LIBRARIES
def test_opcodes(library):
    control = [opcode for opcode in library.frame_protocol.Opcode if opcode.iscontrol()]
    assert [opcode.name for opcode in control] == ["CLOSE", "PING", "PONG"]
    assert not library.frame_protocol.Opcode.TEXT.iscontrol()


@LIBRARIES
def test_what_is_sent(library):
    protocol = library.frame_protocol.FrameProtocol(client=False, extensions=[])
    reason = library.frame_protocol.CloseReason.GOING_AWAY
    assert [
        protocol.ping(),
        protocol.ping(b"x"),
        protocol.pong(b"y"),
        protocol.send_data(),
        protocol.send_data("x"),
        protocol.send_data(b"x", fin=False),
        protocol.send_data(bytearray(b"y"), fin=False),
        protocol.ping(),
        protocol.send_data(b"z"),
        protocol.send_data("é"),
        protocol.close(),
        protocol.close(1000),
        protocol.close(reason, "bye"),
    ] == [
        b"\x89\x00",
        b"\x89\x01x",
        b"\x8a\x01y",
        b"\x82\x00",
        b"\x81\x01x",
        b"\x02\x01x",
        b"\x00\x01y",
        b"\x89\x00",
        b"\x80\x01z",
        b"\x81\x02\xc3\xa9",
        b"\x88\x00",
        b"\x88\x02\x03\xe8",
        b"\x88\x05\x03\xe9bye",
    ]
    assert isinstance(protocol.ping(), bytearray)


@LIBRARIES
def test_what_is_not_sent(library):
    protocol = library.frame_protocol.FrameProtocol(False, [])
    with pytest.raises(ValueError, match=r"125|too long"):
        protocol.ping(bytes(126))
    with pytest.raises(TypeError):
        protocol.send_data(3)
    protocol.send_data("x", fin=False)
    with pytest.raises(TypeError):
        protocol.send_data(b"x")
    assert protocol.send_data("y") == b"\x80\x01y"


def test_codes_are_checked():
    protocol = FrameProtocol(False, [])
    for code, reason in ((1006, None), (1015, ""), (999, None), (None, "x"), (1005, "x")):
        with pytest.raises(LocalProtocolError):
            protocol.close(code, reason)
    assert protocol.close(1005) == b"\x88\x00"


@pytest.mark.parametrize("client", [True, False])
def test_permessage_deflate(client):
    extension = PerMessageDeflate()
    extension.accept("permessage-deflate")
    protocol = FrameProtocol(client, [extension, PerMessageDeflate()])
    assert protocol.client is client
    assert protocol.extensions == [extension]
    payload = PeerDeflater().message(b"hello")
    protocol.receive_bytes(encode_frame(TEXT, payload, rsv=4, mask=None if client else MASK))
    assert list(protocol.received_frames()) == [Frame(Opcode.TEXT, "hello", True, True)]
    assert protocol.send_data("x" * 100)[0] == 0xC1


def test_limits():
    protocol = FrameProtocol(True, None, max_message_size=3, assemble_messages=True)
    protocol.receive_bytes(encode_frame(TEXT, b"a", fin=False) + encode_frame(CONTINUATION, b"bc"))
    assert list(protocol.received_frames()) == [Frame(Opcode.TEXT, "abc", True, True)]
    protocol.receive_bytes(encode_frame(TEXT, b"abcd"))
    with pytest.raises(ParseFailed) as caught:
        list(protocol.received_frames())
    assert caught.value.code is CloseReason.MESSAGE_TOO_BIG
