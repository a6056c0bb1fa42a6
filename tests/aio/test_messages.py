"""Message mode (assemble_messages=True): order of fragments, sizes and counts, UTF-8 up to the last
byte that is here, memory of what is gathered.

What happens at which byte is tested on detached connections (detached.py), what a socket, a loop or
TLS has a part in on real ones. Tests named after a line of the list of known accidents say its
number.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import gc
import itertools
import logging
import random
import struct
import sysconfig
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aio import measured
from aio.detached import Collecting, Delivered, Detached, Loop, Sent, pieces_of
from aio.measured import linux_only
from aio.traffic import (
    SIDES,
    Recorder,
    connected,
    frame_to,
    octets,
    read_to_end,
    some_iterations,
    until_read,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from picows import WSFrame, WSMsgType, WSProtocolError, WSTransport, ws_connect
from raw_peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, in_thread

KIB = 1024
MIB = 1024 * 1024

both_sides = pytest.mark.parametrize("side", SIDES)


def open_messages(side: str, listener: Collecting | None = None, **options: Any) -> Detached:
    return Detached(side, listener, assemble_messages=True, **options)


def delivered(connection: Detached) -> list[Delivered]:
    assert isinstance(connection.listener, Collecting)
    return connection.listener.delivered


def message(opcode: int, payload: bytes) -> Delivered:
    return Delivered(opcode, True, payload)


def fragments(side: str, opcode: int, *parts: bytes) -> bytes:
    """A message in as many frames as there are parts."""
    last = len(parts) - 1
    return b"".join(
        frame_to(side, CONTINUATION if number else opcode, part, fin=number == last)
        for number, part in enumerate(parts)
    )


def begin(side: str, opcode: int, *parts: bytes) -> bytes:
    """The same, but that more is to come."""
    return b"".join(
        frame_to(side, CONTINUATION if number else opcode, part, fin=False)
        for number, part in enumerate(parts)
    )


def refused(connection: Detached, data: bytes, code: int) -> None:
    """With the last byte of `data`, and not before, the connection is closed with `code`."""
    connection.feed(data[:-1])
    assert connection.close_code is None
    assert not connection.below.is_closing
    connection.feed(data[-1:])
    assert connection.close_code == code
    assert connection.below.is_closing


def header(side: str, opcode: int, **kwargs: Any) -> bytes:
    """A header alone, whatever it declares."""
    return frame_to(side, opcode, b"", **kwargs)


# -- what is delivered -----------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_whole_messages(side: str, opcode: int) -> None:
    payload = ("grüße €😀 " * 30).encode()
    for parts in (
        [payload],
        [b""],
        [payload[:7], payload[7:]],
        [b"", payload],
        [payload, b""],
        [b"", b""],
        [payload[at : at + 1] for at in range(len(payload))],
        [b"", payload[:1], b"", payload[1:], b"", b""],
    ):
        connection = open_messages(side)
        for number in range(1, 4):
            connection.feed(fragments(side, opcode, *parts))
            assert delivered(connection) == [message(opcode, b"".join(parts))] * number
        assert connection.sent() == []


def test_what_a_message_looks_like() -> None:
    seen = []

    def look(transport: WSTransport, frame: WSFrame) -> None:
        seen.append((frame.msg_type, frame.fin, frame.last_in_buffer, frame.tail_size, str(frame)))
        with memoryview(frame) as view:
            assert (view.readonly, view.nbytes, view.obj) == (True, frame.payload_size, frame)
        assert frame.get_payload_as_utf8_text() == "hällo"

    text = "hällo".encode()
    one = fragments("client", TEXT, text[:2], text[2:])
    connection = open_messages("client", Collecting(look))
    connection.feed(one + one + frame_to("client", TEXT, text) + one[:-3])
    assert [each[:4] for each in seen] == [
        (WSMsgType.TEXT, True, False, len(one) * 2 - 3 + 2 + len(text)),
        (WSMsgType.TEXT, True, False, 2 + len(text) + len(one) - 3),
        # What follows is a complete frame, though no message.
        (WSMsgType.TEXT, True, False, len(one) - 3),
    ]
    assert "WSFrame(TEXT, fin=True, rsv1=False" in seen[0][4]
    assert "payload_sz=6" in seen[0][4]


@both_sides
def test_without_the_flag_frames_stay_as_raw_as_they_are(side: str) -> None:
    class Raw(Collecting):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            seen.append((int(frame.msg_type), frame.fin, frame.rsv2, frame.get_payload_as_bytes()))

    seen: list[object] = []
    connection = Detached(side, Raw(), max_message_size=1, max_fragments=1)
    connection.feed(frame_to(side, CONTINUATION, b"\xff", rsv=2) + frame_to(side, TEXT, b"\xc3"))
    connection.feed(frame_to(side, TEXT, b"\xff" * 1000)[:500])
    assert seen == [(CONTINUATION, True, True, b"\xff"), (TEXT, True, False, b"\xc3")]
    assert connection.sent() == []


# Any sequence of messages, with control frames anywhere, cut into frames and segments anywhere.
ANY_TEXT = st.text(max_size=40).map(str.encode)
ANY_MESSAGE = st.one_of(
    st.tuples(st.just(TEXT), ANY_TEXT, st.integers(1, 6)),
    st.tuples(st.just(BINARY), st.binary(max_size=40), st.integers(1, 6)),
    st.tuples(st.just(BINARY), st.integers(0, 20_000).map(octets), st.integers(1, 4)),
    st.tuples(st.just(PONG), st.binary(max_size=125), st.just(1)),
    st.tuples(st.just(PING), st.binary(max_size=125), st.just(1)),
)


@both_sides
@given(st.lists(ANY_MESSAGE, max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_any_messages_however_they_are_cut(
    side: str, messages: list[tuple[int, bytes, int]], choose: random.Random
) -> None:
    stream = bytearray()
    expected: list[Delivered] = []
    replies: list[Sent] = []

    def control(opcode: int, payload: bytes) -> None:
        stream.extend(frame_to(side, opcode, payload))
        if opcode == PING:
            replies.append(Sent(PONG, True, False, payload))
        else:
            expected.append(Delivered(opcode, True, payload))

    for opcode, payload, count in messages:
        if opcode >= CLOSE:
            control(opcode, payload)
            continue
        edges = sorted(choose.randint(0, len(payload)) for _ in range(count - 1))
        for number, (a, b) in enumerate(itertools.pairwise([0, *edges, len(payload)])):
            if number and choose.random() < 0.3:
                control(choose.choice([PING, PONG]), choose.randbytes(choose.randint(0, 125)))
            first = CONTINUATION if number else opcode
            stream.extend(frame_to(side, first, payload[a:b], fin=number == count - 1))
        expected.append(message(opcode, payload))
    connection = open_messages(side)
    connection.feed_pieces(pieces_of(bytes(stream), choose))
    assert delivered(connection) == expected
    assert connection.sent() == replies


# -- line 17: order --------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("fin", [True, False])
def test_line_17_a_continuation_that_continues_nothing(side: str, fin: bool) -> None:
    for ahead in (b"", frame_to(side, TEXT, b"whole"), fragments(side, BINARY, b"a", b"b")):
        connection = open_messages(side)
        connection.feed(ahead)
        before = list(delivered(connection))
        # The header says it already.
        refused(connection, header(side, CONTINUATION, fin=fin, length=5), 1002)
        assert delivered(connection) == before


@both_sides
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fin", [True, False])
def test_line_17_a_data_frame_between_fragments(side: str, opcode: int, fin: bool) -> None:
    for ahead in (begin(side, BINARY, b"a"), begin(side, TEXT, b"", b"", b"b")):
        connection = open_messages(side)
        connection.feed(ahead)
        refused(connection, header(side, opcode, fin=fin, length=5), 1002)
        assert delivered(connection) == []


@both_sides
def test_line_17_control_frames_between_fragments(side: str) -> None:
    """As they come, and before the message; also before the first and behind the last."""
    connection = open_messages(side)
    connection.feed(frame_to(side, PONG, b"first") + begin(side, TEXT, b"he"))
    assert delivered(connection) == [message(PONG, b"first")]
    connection.feed(frame_to(side, PING, b"?"))
    assert connection.sent() == [Sent(PONG, True, False, b"?")]
    connection.feed(frame_to(side, PONG, b"!") + begin(side, CONTINUATION, b"l"))
    assert delivered(connection)[1:] == [message(PONG, b"!")]
    connection.feed(frame_to(side, CONTINUATION, b"lo") + frame_to(side, PONG, b"last"))
    assert delivered(connection)[2:] == [message(TEXT, b"hello"), message(PONG, b"last")]


@both_sides
def test_line_17_a_close_between_fragments(side: str) -> None:
    connection = open_messages(side)
    connection.feed(begin(side, TEXT, b"he") + frame_to(side, CLOSE, b"\x03\xe8"))
    assert delivered(connection) == [message(CLOSE, b"\x03\xe8")]
    connection.feed(frame_to(side, CONTINUATION, b"llo"))
    assert len(delivered(connection)) == 1
    assert connection.close_code is None


@both_sides
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CONTINUATION, PING, PONG, CLOSE])
@pytest.mark.parametrize("rsv", range(1, 8))
def test_line_27_reserved_bits(side: str, opcode: int, rsv: int) -> None:
    for payload in (b"", b"12345"):
        connection = open_messages(side)
        connection.feed(begin(side, BINARY, b"a") if opcode == CONTINUATION else b"")
        length = len(payload)
        refused(connection, header(side, opcode, rsv=rsv, length=length), 1002)


# -- lines 18 and 23: lengths ----------------------------------------------------------------------

HUGE = {"max_frame_size": 2**62, "max_message_size": 2**62}


@both_sides
def test_line_18_64_bit_lengths(side: str) -> None:
    """What is gathered and what is declared are added up without overflow."""
    for length in (2**63, 2**64 - 1, 2**64 - 10):
        connection = open_messages(side, **HUGE)
        connection.feed(begin(side, BINARY, b"ten bytes."))
        head = header(side, CONTINUATION, length=length, length_bits=64)
        # The length's last byte says it, ahead of the mask key.
        refused(connection, head[:10], 1002)
    for length in (2**62 - 9, 2**62):
        connection = open_messages(side, **HUGE)
        connection.feed(begin(side, BINARY, b"ten bytes."))
        refused(connection, header(side, CONTINUATION, length=length, length_bits=64), 1009)
    connection = open_messages(side, **HUGE)
    connection.feed(begin(side, BINARY, b"ten bytes."))
    connection.feed(header(side, CONTINUATION, length=2**62 - 10, length_bits=64) + b"a few")
    assert connection.close_code is None
    assert not connection.below.is_closing


@linux_only
@pytest.mark.parametrize("length", [2**61, 2**40])
def test_line_23_a_fragment_that_declares_much_allocates_nothing(
    picows_env: dict[str, str], length: int
) -> None:
    assert measured.measure(picows_env, measured.declared, length) < 12 * KIB


# -- line 19 to 21 ---------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
def test_line_19_close_codes(side: str, code: int) -> None:
    connection = open_messages(side)
    connection.feed(begin(side, TEXT, b"half"))
    refused(connection, frame_to(side, CLOSE, struct.pack("!H", code)), 1002)
    assert delivered(connection) == []


@both_sides
def test_line_19_close_payloads(side: str) -> None:
    for payload, code in ((b"\x03", 1002), (b"\x03\xe8\xff", 1007), (b"\x03\xe8\xc3", 1007)):
        connection = open_messages(side)
        connection.feed(begin(side, TEXT, b"half"))
        refused(connection, frame_to(side, CLOSE, payload), code)


@both_sides
def test_line_20_a_valid_message_and_a_broken_frame_in_one_read(side: str) -> None:
    """It is delivered, and its reply leaves before the CLOSE."""
    for broken, code in (
        (frame_to(side, CONTINUATION, b"x"), 1002),
        (frame_to(side, TEXT, b"\xff"), 1007),
        (frame_to(side, TEXT, b"\xff and more")[:-8], 1007),
        (frame_to(side, 3, b"x"), 1002),
        (frame_to(side, BINARY, b"x", rsv=4), 1002),
    ):
        listener = Collecting(lambda transport, frame: transport.send(BINARY, b"reply"))
        connection = open_messages(side, listener)
        connection.feed(fragments(side, TEXT, b"va", b"lid") + broken)
        assert delivered(connection) == [message(TEXT, b"valid")]
        reply, close = connection.sent()
        assert reply == Sent(BINARY, True, False, b"reply")
        assert close.payload[:2] == struct.pack("!H", code)


@both_sides
def test_line_21_control_frames_are_short_and_whole(side: str) -> None:
    for opcode in (PING, PONG, CLOSE):
        for kwargs in ({"length": 126}, {"length": 5, "fin": False}):
            connection = open_messages(side)
            connection.feed(begin(side, TEXT, b"half"))
            # The first two bytes say it.
            refused(connection, header(side, opcode, **kwargs)[:2], 1002)


# -- line 22: bounds -------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_line_22_fragments_are_counted(side: str, most: int) -> None:
    """Empty ones too, control frames not, each message anew."""
    connection = open_messages(side, max_fragments=most)
    for _ in range(3):
        parts = [frame_to(side, BINARY, b"", fin=most == 1)]
        parts += [frame_to(side, CONTINUATION, b"", fin=n == 1) for n in reversed(range(1, most))]
        connection.feed(b"".join(part + frame_to(side, PONG, b"") for part in parts))
        assert delivered(connection)[-2].opcode == BINARY
    assert connection.close_code is None
    connection = open_messages(side, max_fragments=most)
    connection.feed(begin(side, BINARY, *[b""] * most))
    # One more, whatever it holds; its header is enough.
    refused(connection, header(side, CONTINUATION, length=7), 1009)
    assert delivered(connection) == []


def test_line_22_the_default_is_65_536() -> None:
    connection = open_messages("client")
    connection.feed(begin("client", BINARY, *[b""] * 65_535) + frame_to("client", CONTINUATION))
    assert delivered(connection) == [message(BINARY, b"")]
    connection.feed(begin("client", BINARY, *[b""] * 65_536))
    assert connection.close_code is None
    connection.feed(frame_to("client", CONTINUATION))
    assert connection.close_code == 1009


@both_sides
@pytest.mark.parametrize("limit", [1, 2, 100, 4096, 4097, 70_000])
def test_line_22_bytes_are_counted(side: str, limit: int) -> None:
    for opcode in (TEXT, BINARY):
        for count in {1, 2, min(limit, 50)}:
            edges = [number * limit // count for number in range(count + 1)]
            parts = [b"a" * (b - a) for a, b in itertools.pairwise(edges)]
            connection = open_messages(side, max_message_size=limit)
            for number in range(1, 4):
                connection.feed(fragments(side, opcode, *parts))
                assert delivered(connection) == [message(opcode, b"a" * limit)] * number
            connection = open_messages(side, max_message_size=limit)
            *most, last = parts
            connection.feed(begin(side, opcode, *most))
            # The header of the one that is too much is enough.
            first = CONTINUATION if most else opcode
            refused(connection, header(side, first, length=len(last) + 1), 1009)
            # A fragment of nothing is no byte too much.
            connection = open_messages(side, max_message_size=limit)
            connection.feed(begin(side, opcode, *parts) + frame_to(side, CONTINUATION))
            assert delivered(connection) == [message(opcode, b"a" * limit)]


@both_sides
def test_max_frame_size_beside_max_message_size(side: str) -> None:
    """Each by itself: a frame may be too large for a message that is not, and the other way."""
    connection = open_messages(side, max_frame_size=100, max_message_size=250)
    connection.feed(fragments(side, BINARY, *[b"x" * 100] * 2, b"x" * 50))
    assert delivered(connection) == [message(BINARY, b"x" * 250)]
    connection.feed(header(side, BINARY, length=101))
    assert connection.close_code == 1009
    connection = open_messages(side, max_frame_size=100, max_message_size=250)
    connection.feed(begin(side, BINARY, *[b"x" * 100] * 2))
    refused(connection, header(side, CONTINUATION, length=51), 1009)
    connection = open_messages(side, max_frame_size=1000, max_message_size=250)
    refused(connection, header(side, BINARY, length=251), 1009)
    # Control frames are no part of a message.
    connection = open_messages(side, max_frame_size=1000, max_message_size=1)
    connection.feed(frame_to(side, PONG, b"p" * 125) + begin(side, BINARY, b"1"))
    connection.feed(frame_to(side, PONG, b"p" * 125) + frame_to(side, CONTINUATION))
    assert delivered(connection)[-1] == message(BINARY, b"1")


@pytest.mark.parametrize(
    ("name", "bad", "error"),
    [
        ("assemble_messages", 1, TypeError),
        ("assemble_messages", None, TypeError),
        ("max_message_size", 0, ValueError),
        ("max_message_size", -1, ValueError),
        ("max_message_size", 2**63, ValueError),
        ("max_message_size", 1.5, TypeError),
        ("max_message_size", True, TypeError),
        ("max_fragments", 0, ValueError),
        ("max_fragments", -1, ValueError),
        ("max_fragments", 2**64, ValueError),
        ("max_fragments", "1", TypeError),
    ],
)
async def test_parameters(name: str, bad: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        await ws_connect(Recorder, "ws://127.0.0.1:1/", **{name: bad})


# -- line 25: UTF-8 --------------------------------------------------------------------------------

# What is wrong, and which byte of it shows that (RFC 3629 section 4).
BAD_UTF8 = [
    *((octet, 0) for octet in (b"\x80", b"\xbf", b"\xc0", b"\xc1", b"\xf5", b"\xf8", b"\xff")),
    *((lead + b"(", 1) for lead in (b"\xc2", b"\xdf", b"\xe1", b"\xf1")),
    *((lead + b"\xc2", 1) for lead in (b"\xc2", b"\xe0", b"\xed", b"\xf0", b"\xf4")),
    (b"\xe0\x9f", 1),
    (b"\xed\xa0", 1),
    (b"\xf0\x8f", 1),
    (b"\xf4\x90", 1),
    (b"\xe2\x82(", 2),
    (b"\xf0\x9f(", 2),
    (b"\xf0\x9f\x98(", 3),
    (b"\xf4\x8f\xbf\xc0", 3),
]
AROUND = "aé€😀".encode()


@both_sides
@pytest.mark.parametrize(("bad", "at"), BAD_UTF8)
def test_line_25_failure_at_the_first_bad_byte(side: str, bad: bytes, at: int) -> None:
    """In a frame of which the rest has not come, and never comes."""
    for ahead in (b"", b"a" * 7, AROUND * 13, b"a" * 4093, AROUND * 40_000):
        text = ahead + bad + AROUND * 100
        for fin in (True, False):
            frame = frame_to(side, TEXT, text, fin=fin)
            wrong = len(frame) - len(text) + len(ahead) + at
            connection = open_messages(side)
            connection.feed(frame[:wrong])
            assert connection.close_code is None
            connection.feed(frame[wrong : wrong + 1])
            assert connection.close_code == 1007
            assert connection.below.is_closing
            assert delivered(connection) == []


@both_sides
@pytest.mark.parametrize(("bad", "at"), BAD_UTF8)
def test_line_25_cut_by_frames_and_by_segments(side: str, bad: bytes, at: int) -> None:
    """Every cut into two frames, and each of these byte by byte."""
    ahead = "né".encode()
    text = ahead + bad + AROUND
    for cut in range(len(text) + 1):
        stream = fragments(side, TEXT, text[:cut], text[cut:])
        head = len(frame_to(side, TEXT))
        good = head + len(ahead) + at
        if len(ahead) + at >= cut:
            good += head
        connection = open_messages(side)
        for number, octet in enumerate(stream):
            assert (connection.close_code is None) == (number <= good)
            connection.feed(bytes([octet]))
        assert connection.close_code == 1007
        # And with a control frame in the middle, at once.
        connection = open_messages(side)
        stream = begin(side, TEXT, text[:cut]) + frame_to(side, PING, b"\xff")
        connection.feed(stream + frame_to(side, CONTINUATION, text[cut:]))
        assert connection.close_code == 1007


@both_sides
def test_line_25_a_text_ends_inside_a_character(side: str) -> None:
    for whole in ("é", "€", "😀", "\U0010ffff"):
        character = whole.encode()
        for end in range(1, len(character)):
            half = b"text " + character[:end]
            for parts in ([half], [half, b""], [half[:-1], half[-1:]], [b"", half, b"", b""]):
                connection = open_messages(side)
                refused(connection, fragments(side, TEXT, *parts), 1007)
                assert delivered(connection) == []
            # The rest in the next message is another text.
            connection = open_messages(side)
            connection.feed(begin(side, TEXT, half))
            connection.feed(frame_to(side, CONTINUATION, character[end:]))
            assert delivered(connection) == [message(TEXT, half + character[end:])]
            assert connection.close_code is None


@both_sides
def test_line_25_characters_cut_by_frames_by_segments_and_by_both(side: str) -> None:
    """Valid text in every cut into two or three frames, whole, byte by byte, in threes."""
    text = "aé€😀\0\u07ff\uffff\U0010ffffz".encode()
    for one, two in itertools.combinations_with_replacement(range(len(text) + 1), 2):
        stream = fragments(side, TEXT, text[:one], text[one:two], text[two:])
        for step in (len(stream), 1, 3):
            connection = open_messages(side)
            connection.feed_pieces(
                stream[start : start + step] for start in range(0, len(stream), step)
            )
            assert delivered(connection) == [message(TEXT, text)]
            assert connection.sent() == []


@both_sides
@pytest.mark.parametrize(
    "size", [10, 125, 126, 4096, 5000, 16_384, 65_535, 65_536, 131_072, 300_000, MIB]
)
def test_line_25_frames_that_come_slowly(side: str, size: int) -> None:
    """Judged as they come, each byte once; what is delivered is what was sent."""
    choose = random.Random(size)
    text = (AROUND * (size // len(AROUND)) + b"0123456789")[:size]
    assert text.decode()
    frame = frame_to(side, TEXT, text)
    for most in (size // 7 + 1, size // 2 + 1, size - 1):
        connection = open_messages(side)
        start = 0
        while start < len(frame):
            end = start + choose.randint(1, most)
            connection.feed(frame[start:end])
            start = end
        assert delivered(connection) == [message(TEXT, text)]
        # The frames behind it are unmasked and judged from their own beginning.
        connection.feed(fragments(side, TEXT, text[:1], text[1:]))
        connection.feed(frame_to(side, BINARY, b"\xff\xfe"))
        assert delivered(connection)[1:] == [message(TEXT, text), message(BINARY, b"\xff\xfe")]
        # Bad in the last byte but one that came.
        bad = bytearray(text)
        at = choose.randrange(size // 2, size)
        bad[at] = 0xFF
        head = len(frame) - size
        broken = frame_to(side, TEXT, bytes(bad))
        connection.feed(broken[: head + at])
        assert connection.close_code is None
        connection.feed(broken[head + at : head + at + 1])
        assert connection.close_code == 1007


@both_sides
def test_binary_messages_are_no_text(side: str) -> None:
    connection = open_messages(side)
    connection.feed(frame_to(side, BINARY, b"\xff" * 100)[:-1])
    assert connection.close_code is None
    connection.feed(frame_to(side, BINARY, b"\xff" * 100)[-1:])
    connection.feed(fragments(side, BINARY, b"\xc3", b"\xff"))
    assert len(delivered(connection)) == 2
    # Behind it text is judged from its own beginning, and control frames are none.
    connection.feed(frame_to(side, PONG, b"\xff") + frame_to(side, TEXT, b"text"))
    assert delivered(connection)[-1] == message(TEXT, b"text")
    refused(connection, frame_to(side, TEXT, b"\xa9"), 1007)


WAITS = {
    "a fragment before": lambda side: begin(side, TEXT, b"before"),
    "messages before": lambda side: frame_to(side, TEXT, b"before") * 3,
    "nothing": lambda side: b"",
}


@both_sides
@pytest.mark.parametrize("ahead", WAITS)
@pytest.mark.parametrize("size", [10, 3000, 200_000, MIB])
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_line_25_the_close_comes_before_the_rest(
    net: Any, side: str, ahead: str, size: int
) -> None:
    """Over TCP and TLS: the peer waits for the CLOSE in the middle of its frame."""
    listener = Recorder()
    text = b"x" * (size // 2 - 1) + b"\xff" + b"x" * (size // 2)
    first = CONTINUATION if ahead == "a fragment before" else TEXT
    frame = frame_to(side, first, text)
    part = frame[: len(frame) - size // 2]
    async with connected(net, side, listener, assemble_messages=True) as peer:
        await in_thread(peer.send, WAITS[ahead](side) + part)
        frames = await in_thread(read_to_end, peer)
        assert [each.opcode for each in frames] == [CLOSE]
        assert frames[0].payload[:2] == struct.pack("!H", 1007)
        await listener.until_gone()
        assert listener.payloads == [b"before"] * (3 if ahead == "messages before" else 0)
    if side == "client":
        with pytest.raises(WSProtocolError) as caught:
            await listener.transport.wait_disconnected()
        assert caught.value.code == 1007


# -- over the network ------------------------------------------------------------------------------


@both_sides
async def test_a_stream_of_messages_of_every_kind(net: Any, side: str) -> None:
    """Sent without a break, so that reads end anywhere; replies in order."""
    choose = random.Random(7)
    expected = []
    stream = []
    for number in range(300):
        size = choose.choice([0, 1, 50, 125, 126, 4000, 70_000] + [600_000] * (number % 50 == 0))
        payload = octets(size, number)
        opcode = BINARY
        if choose.random() < 0.5:
            payload = payload.hex().encode()
            opcode = TEXT
        count = choose.choice([1, 1, 2, 5])
        edges = [0, *sorted(choose.randint(0, len(payload)) for _ in range(count - 1))]
        parts = [payload[a:b] for a, b in itertools.pairwise([*edges, len(payload)])]
        for index, part in enumerate(parts):
            if choose.random() < 0.2:
                stream.append(frame_to(side, PONG, b"pong"))
                expected.append(b"pong")
            first = CONTINUATION if index else opcode
            stream.append(frame_to(side, first, part, fin=index == count - 1))
        expected.append(payload)
    listener = Recorder()
    async with connected(net, side, listener, assemble_messages=True) as peer:
        sending = asyncio.ensure_future(in_thread(peer.send, *stream))
        await listener.until_frames(len(expected))
        await sending
        assert listener.payloads == expected


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_the_peer_vanishes_in_the_middle_of_a_message(net: Any, side: str) -> None:
    listener = Recorder()
    async with connected(net, side, listener, assemble_messages=True) as peer:
        await in_thread(peer.send, begin(side, TEXT, b"ha") + frame_to(side, CONTINUATION)[:1])
        await until_read(listener.transport)
        peer.close()
        await listener.until_gone()
    assert listener.payloads == []
    # No violation of anybody's.
    await listener.transport.wait_disconnected()


@both_sides
async def test_pause_reading_in_the_middle_of_a_message(net: Any, side: str) -> None:
    """What was read waits, is not judged either, and is all there afterwards."""
    pauses = 0

    def pause(transport: WSTransport, frame: WSFrame) -> None:
        nonlocal pauses
        if frame.msg_type == WSMsgType.PONG:
            pauses += 1
            transport.pause_reading()

    listener = Recorder(pause)
    payload = octets(100_000).hex().encode()
    stream = begin(side, TEXT, payload[:70_001]) + frame_to(side, PONG, b"pause")
    stream += frame_to(side, CONTINUATION, payload[70_001:])
    bad = frame_to(side, TEXT, b"\xff" * 30_000)
    async with connected(net, side, listener, assemble_messages=True) as peer:
        for number in range(1, 4):
            await in_thread(peer.send, stream)
            await listener.until(lambda number=number: pauses == number)
            await some_iterations()
            assert len(listener.payloads) == 2 * number - 1
            listener.transport.resume_reading()
            await listener.until_frames(2 * number)
            assert listener.payloads[-2:] == [b"pause", payload]
        await in_thread(peer.send, frame_to(side, PONG, b"pause") + bad[:20_000])
        await listener.until(lambda: pauses == 4)
        await some_iterations()
        assert not listener.transport.is_close_frame_sent
        listener.transport.resume_reading()
        frames = await in_thread(read_to_end, peer)
        assert frames[-1].payload[:2] == struct.pack("!H", 1007)
        await listener.until_gone()
    if side == "client":
        with pytest.raises(WSProtocolError):
            await listener.transport.wait_disconnected()


def test_paused_and_resumed_at_every_byte() -> None:
    """Half frames that were looked into wait as they are: unmasked once, judged once."""
    text = ("grüße " * 20).encode()
    for side in SIDES:
        stream = fragments(side, TEXT, text[:50], text[50:]) + frame_to(side, TEXT, text)
        for at in range(1, len(stream)):
            connection = open_messages(side)
            connection.feed(stream[:at])
            connection.transport.pause_reading()
            # A transport may have read ahead.
            connection.feed(stream[at : at + 1])
            connection.feed(stream[at + 1 : at + 30])
            connection.transport.resume_reading()
            connection.loop.run()
            connection.feed(stream[at + 30 :])
            assert delivered(connection) == [message(TEXT, text)] * 2
            assert connection.close_code is None


# -- callbacks -------------------------------------------------------------------------------------


class Pinging(Collecting):
    """Its pings are texts, and so are the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []

    def send_user_specific_ping(self, transport: WSTransport) -> None:
        transport.send(WSMsgType.TEXT, b"ping")

    def is_user_specific_pong(self, frame: WSFrame) -> bool:
        self.asked.append(frame.get_payload_as_bytes())
        return self.asked[-1] == b"pong"


@both_sides
def test_is_user_specific_pong_is_asked_for_messages(side: str) -> None:
    """Once each, whole; control frames as ever; and not while none is awaited."""
    listener = Pinging()
    options = {"enable_auto_ping": True, "auto_ping_strategy": 2, "auto_ping_idle_timeout": 1e-9}
    connection = open_messages(side, listener, **options)
    connection.feed(fragments(side, TEXT, b"po", b"ng"))
    assert listener.asked == []
    assert delivered(connection) == [message(TEXT, b"pong")]
    connection.loop.expire()
    assert connection.sent() == [Sent(TEXT, True, False, b"ping")]
    connection.feed(fragments(side, TEXT, b"other", b" ", b"text") + frame_to(side, PONG, b"no"))
    connection.feed(fragments(side, TEXT, b"po", b"", b"ng") + fragments(side, TEXT, b"po", b"ng"))
    assert listener.asked == [b"other text", b"no", b"pong"]
    assert [each.payload for each in delivered(connection)[1:]] == [b"other text", b"no", b"pong"]


@both_sides
def test_a_callback_that_ends_the_connection(side: str) -> None:
    """The rest of the read is dropped; the message that it was given stays what it is."""

    def end(transport: WSTransport, frame: WSFrame) -> None:
        view = memoryview(frame)
        transport.disconnect()
        kept.append((frame, view))
        assert frame.get_payload_as_bytes() == payload

    payload = octets(5000)
    kept: list[Any] = []
    connection = open_messages(side, Collecting(end))
    one = fragments(side, BINARY, payload[:100], payload[100:])
    connection.feed(one + begin(side, BINARY, payload) + one)
    assert len(delivered(connection)) == 1
    assert connection.listener.disconnected == 1  # type: ignore[attr-defined]
    assert [bytes(each) for each in kept[0]] == [payload, payload]


@both_sides
def test_a_callback_that_raises(side: str) -> None:
    def fail(transport: WSTransport, frame: WSFrame) -> None:
        raise ValueError(frame.payload_size)

    log = logging.Logger("raising")
    records: list[logging.LogRecord] = []
    log.addFilter(lambda record: bool(records.append(record)))
    listener = Collecting(fail)
    connection = open_messages(side, listener, disconnect_on_exception=False, logger_name=log)
    payload = octets(3000)
    for _ in range(3):
        connection.feed(fragments(side, BINARY, payload[:100], payload[100:]))
        connection.feed(frame_to(side, BINARY, payload))
    assert delivered(connection) == [message(BINARY, payload)] * 6
    assert connection.close_code is None
    held = [
        value
        for record in records
        if record.exc_info and record.exc_info[2]
        for value in last_frame_locals(record.exc_info[2]).values()
        if isinstance(value, WSFrame)
    ]
    assert [each.get_payload_as_bytes() for each in held] == [payload] * 6
    connection = open_messages(side, Collecting(fail))
    connection.feed(fragments(side, BINARY, payload, payload) * 2)
    assert connection.close_code == 1011
    assert len(delivered(connection)) == 1


def last_frame_locals(traceback: Any) -> dict[str, Any]:
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    found: dict[str, Any] = traceback.tb_frame.f_locals
    return found


# -- memory ----------------------------------------------------------------------------------------


class PyBuffer(ctypes.Structure):
    """As much of a Py_buffer as tells where it points to; the rest is room."""

    _fields_ = [("buf", ctypes.c_void_p), ("obj", ctypes.c_void_p), ("room", ctypes.c_byte * 80)]


def address_of(exporter: Any) -> int:
    view = PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(exporter), ctypes.byref(view), 0)
    address = view.buf or 0
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    return address


@both_sides
def test_an_unfragmented_message_is_not_copied(side: str) -> None:
    """It lies where it was read; what is gathered does not."""
    places = []
    connection = open_messages(
        side, Collecting(lambda transport, frame: places.append(address_of(frame)))
    )
    # Behind the first frames the read buffer has its full size.
    connection.feed(frame_to(side, BINARY, b""))
    places.clear()
    buffer = connection.connection.get_buffer(-1)
    start, end = address_of(buffer), address_of(buffer) + len(buffer)
    for opcode in (TEXT, BINARY):
        connection.feed(frame_to(side, opcode, b"a" * 5000))
        connection.feed(fragments(side, opcode, b"a" * 5000, b""))
    assert [start <= place < end for place in places] == [True, False] * 2


KEEPERS: dict[str, Callable[[WSFrame], Any]] = {
    "frame": lambda frame: frame,
    "memoryview": memoryview,
    "slice": lambda frame: memoryview(frame)[1:-1],
    "both": lambda frame: (memoryview(frame), frame),
}
KEPT_SIZES = (0, 1, 32, 4096, 4097, 16 * KIB, 16 * KIB + 1, 70_000, 300_000, 3 * MIB)


def contents(kept: Any) -> bytes:
    if isinstance(kept, tuple):
        first, second = map(contents, kept)
        assert first == second
        return first
    return bytes(kept)


def kinds_of(side: str, payload: bytes) -> Iterator[bytes]:
    """A message as one frame, gathered from two and from many."""
    yield frame_to(side, BINARY, payload)
    yield fragments(side, BINARY, payload[: len(payload) // 3], payload[len(payload) // 3 :])
    step = len(payload) // 20 + 1
    yield fragments(
        side, BINARY, *[payload[at : at + step] for at in range(0, len(payload) + 1, step)]
    )


@functools.cache
def noise(side: str) -> bytes:
    """1,000 messages, of none of whose bytes what is kept is made up."""
    small = [piece for size in (0, 1, 32, 125, 2000) for piece in kinds_of(side, b"\xee" * size)]
    large = [piece for size in (40_000, 300_000) for piece in kinds_of(side, b"\xdd" * size)]
    return b"".join(small * 66 + large + small[:4])


def differences(kept: list[tuple[str, bytes, Any]]) -> list[tuple[str, int]]:
    return [
        (name, len(payload))
        for name, payload, each in kept
        if contents(each) != (payload[1:-1] if name == "slice" else payload)
    ]


@both_sides
@pytest.mark.parametrize("name", KEEPERS)
def test_line_39_kept_messages_stay_what_they_are(side: str, name: str) -> None:
    """After 1,000 others on the same connection and on another one, after the connection's end."""

    def keep(transport: WSTransport, frame: WSFrame) -> None:
        if keeping:
            kept.append((name, frame.get_payload_as_bytes(), KEEPERS[name](frame)))

    kept: list[tuple[str, bytes, Any]] = []
    loop = Loop()
    other = open_messages(side, loop=loop)
    connection = open_messages(side, Collecting(keep), loop=loop)
    keeping = True
    payloads = [octets(size, size) for size in KEPT_SIZES]
    for payload in payloads:
        for piece in kinds_of(side, payload):
            connection.feed(piece)
    keeping = False
    assert [payload for _, payload, _ in kept] == [each for each in payloads for _ in range(3)]
    connection.feed(noise(side))
    assert len(delivered(connection)) == 3 * len(payloads) + 1000
    assert not differences(kept)
    other.feed(noise(side))
    connection.below.close()
    loop.run()
    other.feed(noise(side))
    assert not differences(kept)
    del connection, other
    gc.collect()
    assert not differences(kept)


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
def test_line_39_kept_past_the_disconnect_and_the_loop(net: Any, side: str) -> None:
    kept: list[tuple[str, bytes, Any]] = []
    names = list(KEEPERS)

    def keep(transport: WSTransport, frame: WSFrame) -> None:
        name = names[len(kept) % len(names)]
        kept.append((name, frame.get_payload_as_bytes(), KEEPERS[name](frame)))

    async def talk() -> None:
        listener = Recorder(keep)
        async with connected(net, side, listener, assemble_messages=True) as peer:
            stream = [
                piece
                for seed in range(len(names))
                for size in (0, 32, 5000, 20_000, 300_000)
                for piece in kinds_of(side, octets(size, seed))
            ]
            sending = asyncio.ensure_future(in_thread(peer.send, *stream))
            await listener.until_frames(len(stream))
            await sending
            listener.react = None
            sending = asyncio.ensure_future(in_thread(peer.send, noise(side)))
            await listener.until_frames(len(stream) + 1000)
            await sending
            assert not differences(kept)

    net.run.run(talk)
    gc.collect()
    assert len(kept) == 60
    assert not differences(kept)


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="there a frame never serves twice"
)
def test_a_message_that_nobody_kept_leaves_its_frame_and_its_memory() -> None:
    """One WSFrame and one place serve all that are gathered."""
    seen: list[tuple[int, int]] = []
    connection = open_messages(
        "client",
        Collecting(lambda transport, frame: seen.append((id(frame), address_of(frame)))),
    )
    for size in (10, 3000, 30_000, 5):
        connection.feed(fragments("client", BINARY, bytes(size), bytes(size)) * 2)
    frames, places = zip(*seen, strict=True)
    assert len(set(frames)) == 1
    # It grew for the larger ones, and stayed as large.
    assert len(set(places[-4:])) == 1


@linux_only
def test_an_idle_connection_owns_nothing_of_what_it_gathered(picows_env: dict[str, str]) -> None:
    assert measured.measure(picows_env, measured.idle, False, 60_000) < 1 * KIB
    assert measured.measure(picows_env, measured.idle, False, 600_000) < 1 * KIB


@linux_only
@pytest.mark.parametrize("size", [5, 5000, 140_000, 1_000_000])
def test_half_a_message_pins_twice_what_arrived(picows_env: dict[str, str], size: int) -> None:
    assert measured.measure(picows_env, measured.half, size, 0) < 2 * size + 8 * KIB


@linux_only
@pytest.mark.parametrize("size", [5, 5000, 140_000, 1_000_000])
def test_nor_the_memory_that_a_message_before_it_left_warm(
    picows_env: dict[str, str], size: int
) -> None:
    """Once the loop's timer has run; one of the 30 may have it."""
    pinned = measured.measure(picows_env, measured.half, size, 2_000_000)
    assert pinned < 2 * size + 8 * KIB + 2_100_000 / 30


@linux_only
def test_half_a_message_goes_when_a_close_has_come(picows_env: dict[str, str]) -> None:
    """No rest of it will be taken in, however long the connection stays."""
    before, gathered, after = measured.measure(picows_env, measured.after_close, 20_000_000)
    assert gathered - before > 19_000_000
    assert after - before < 1_000_000
