"""The frame parser: which frames and which violation come out, however the bytes were cut.

Frames go in through raw_peer's encoder, which shares no code with ours. Tests named after a line
of the list of known accidents say its number.
"""

import array
import bisect
import functools
import itertools
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picows.wire.buffers import BufferPool
from picows.wire.receiver import Receiver
from raw_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawFrame,
    encode_close,
    encode_frame,
)

MAX_FRAME_SIZE = 10 * 1024 * 1024
FIRST_CAPACITY = 16 * 1024
# No byte of it is 0, no two are equal: a key applied from the wrong byte on shows.
KEY = b"\x5a\xc3\x17\x88"
NOISE = random.Random(16).randbytes(300_000)

OPCODES = [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG]
DATA_OPCODES = [CONTINUATION, TEXT, BINARY]
CONTROL_OPCODES = [CLOSE, PING, PONG]

both_sides = pytest.mark.parametrize("masked", [False, True], ids=["client", "server"])


def new_receiver(
    masked, max_frame_size=MAX_FRAME_SIZE, first_capacity=FIRST_CAPACITY, pool=None
) -> Receiver:
    return Receiver(pool or BufferPool(), masked, max_frame_size, first_capacity)


def encode(frame, masked) -> bytes:
    mask = KEY if masked else None
    return encode_frame(frame.opcode, frame.payload, fin=frame.fin, rsv=frame.rsv, mask=mask)


def raw(frame) -> RawFrame:
    """A WSFrame as raw_peer's tuple."""
    rsv = frame.rsv1 << 2 | frame.rsv2 << 1 | frame.rsv3
    return RawFrame(int(frame.msg_type), frame.get_payload_as_bytes(), frame.fin, rsv)


def receive(receiver, pieces) -> list[RawFrame]:
    return [raw(frame) for piece in pieces for frame in receiver.receive_data(piece)]


def cut(data, *positions) -> list[bytes]:
    edges = [0, *positions, len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def steps(data, size) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


# -- line 16: recorded streams ---------------------------------------------------------------------

SHORT_STREAMS = {
    "opcodes": [RawFrame(opcode) for opcode in OPCODES]
    + [RawFrame(opcode, b"x") for opcode in OPCODES if opcode != CLOSE],
    "lengths": [RawFrame(BINARY, NOISE[:size]) for size in (0, 1, 125, 126, 127, 2)],
    "control frames between fragments": [
        RawFrame(PONG, b"before the first"),
        RawFrame(TEXT, b"hell", fin=False),
        RawFrame(PING, NOISE[:125]),
        RawFrame(CONTINUATION, b"", fin=False),
        RawFrame(PONG),
        RawFrame(CONTINUATION, "ö".encode()[:1], fin=False),
        RawFrame(PING),
        RawFrame(CONTINUATION, "ö".encode()[1:]),
        RawFrame(CLOSE, struct.pack("!H", 1000)),
    ],
    "closes": [
        RawFrame(CLOSE),
        RawFrame(CLOSE, struct.pack("!H", 1000)),
        RawFrame(CLOSE, struct.pack("!H", 3000) + "wörld 😀".encode()),
        RawFrame(CLOSE, struct.pack("!H", 1014) + b"r" * 123),
        RawFrame(CLOSE, struct.pack("!H", 4999)),
        RawFrame(TEXT, b"the frame API goes on"),
    ],
    "reserved bits": [
        RawFrame(opcode, b"reserved", rsv=rsv, fin=opcode == PING)
        for rsv in range(8)
        for opcode in (TEXT, CONTINUATION, PING)
    ],
    "empty": [RawFrame(TEXT, fin=False)] + [RawFrame(CONTINUATION, fin=False)] * 200,
    "text of no meaning": [RawFrame(TEXT, b"\xff\xc0\xed\xa0\x80"), RawFrame(CONTINUATION, b"?")],
}
LONG_STREAMS = {
    str(size): [
        RawFrame(TEXT, b"ahead"),
        RawFrame(BINARY, NOISE[:size], fin=False),
        RawFrame(PING, b"behind"),
        RawFrame(CONTINUATION, b"the last"),
    ]
    for size in (65535, 65536, 100_000, 300_000)
}
# The first length that waits for its rest in a buffer of its own, and those around the largest rest
# that rides in front of the next read.
LONG_STREAMS["rests"] = [
    RawFrame(BINARY, NOISE[size : 2 * size])
    for size in (4095, 4096, 4097, 16383, 16384, 16385, 20_000, 20_481, 40_000)
]
LONG_STREAMS["many"] = [RawFrame(TEXT, NOISE[size : size + size % 300]) for size in range(4000)]
STREAMS = {**SHORT_STREAMS, **LONG_STREAMS}

# Sizes at which something in the receiver, or in those who feed it, changes.
BOUNDARIES = [4096, 16 * 1024, 64 * 1024, 256 * 1024]


@functools.cache
def encoded(name, masked) -> tuple[bytes, list[int]]:
    """A stream's bytes, and where each of its frames ends."""
    pieces = [encode(frame, masked) for frame in STREAMS[name]]
    return b"".join(pieces), list(itertools.accumulate(map(len, pieces)))


def interesting_cuts(name, masked) -> list[int]:
    """Every byte of every header, and what is near to a boundary from either end of a frame."""
    data, ends = encoded(name, masked)
    found = set()
    spans = list(itertools.pairwise([0, *ends]))
    for start, end in spans if len(spans) < 10 else [(0, len(data))]:
        found.update(range(start, start + 16), range(end - 2, end + 1))
        for size in BOUNDARIES:
            found.update(range(size - 2, size + 3))
            found.update(range(start + size - 2, start + size + 17))
            found.update(range(end - size - 2, end - size + 3))
    return sorted(position for position in found if 0 <= position <= len(data))


@both_sides
@pytest.mark.parametrize("name", STREAMS)
def test_line_16_in_one_piece(name, masked):
    data, _ = encoded(name, masked)
    receiver = new_receiver(masked)
    assert receive(receiver, [data]) == STREAMS[name]
    assert receiver.violation_code == 0
    assert receiver.violation_text is None


@both_sides
@pytest.mark.parametrize("name", SHORT_STREAMS)
def test_line_16_split_at_every_byte(name, masked):
    data, _ = encoded(name, masked)
    pool = BufferPool()
    for position in range(len(data) + 1):
        receiver = new_receiver(masked, pool=pool)
        assert receive(receiver, cut(data, position)) == STREAMS[name]
        assert receiver.violation_code == 0


@both_sides
@pytest.mark.parametrize("name", ["opcodes", "lengths", "closes"])
def test_line_16_split_at_every_two_bytes(name, masked):
    """Bytes that wait are joined by bytes that are not enough either."""
    data, _ = encoded(name, masked)
    pool = BufferPool()
    for first in range(0, len(data), 3):
        for second in range(first, min(first + 150, len(data)), 2):
            assert (
                receive(new_receiver(masked, pool=pool), cut(data, first, second)) == STREAMS[name]
            )


@both_sides
@pytest.mark.parametrize("name", LONG_STREAMS)
def test_line_16_long_stream_split(name, masked):
    data, _ = encoded(name, masked)
    pool = BufferPool()
    for position in interesting_cuts(name, masked):
        receiver = new_receiver(masked, pool=pool)
        assert receive(receiver, cut(data, position)) == STREAMS[name], position
        assert receiver.violation_code == 0


@both_sides
@pytest.mark.parametrize("name", STREAMS)
def test_line_16_byte_by_byte(name, masked):
    """Same frames, and each comes with its last byte, not later."""
    data, ends = encoded(name, masked)
    receiver = new_receiver(masked)
    found = []
    came_at = []
    for position, byte in enumerate(steps(data, 1), 1):
        for frame in receiver.receive_data(byte):
            found.append(raw(frame))
            came_at.append(position)
            assert frame.last_in_buffer
            assert frame.tail_size == 0
    assert found == STREAMS[name]
    assert came_at == ends


@both_sides
@pytest.mark.parametrize("first_capacity", [0, 1, 1000, FIRST_CAPACITY, 1024 * 1024])
@pytest.mark.parametrize("size", [2, 3, 7, 64, 1000, 4096, 4097, 16_384, 65_536, 262_144, 262_145])
def test_line_16_pieces_of_one_size(size, first_capacity, masked):
    pool = BufferPool()
    for name in LONG_STREAMS if size > 50 else SHORT_STREAMS:
        data, _ = encoded(name, masked)
        receiver = new_receiver(masked, first_capacity=first_capacity, pool=pool)
        assert receive(receiver, steps(data, size)) == STREAMS[name]
        assert receiver.violation_code == 0


frames = st.builds(
    lambda opcode, size, start, fin, rsv: RawFrame(
        opcode,
        b"" if opcode == CLOSE else NOISE[start : start + (size % 126 if opcode > 2 else size)],
        fin or opcode > 2,
        rsv,
    ),
    st.sampled_from(OPCODES),
    st.one_of(
        st.integers(0, 200),
        st.sampled_from([4090, 16_370, 16_384, 16_400, 65_530, 65_535, 65_536]),
    ),
    st.integers(0, 1000),
    st.booleans(),
    st.integers(0, 7),
)


def check_tails(frames_of_one_call, sizes) -> None:
    """A frame that is not the last one counts the next one, header included, in its tail."""
    for index, frame in enumerate(frames_of_one_call[:-1]):
        following = frames_of_one_call[index + 1]
        if not frame.last_in_buffer:
            assert frame.tail_size == sizes[index + 1] + following.tail_size


@settings(max_examples=150)
@given(st.data(), st.lists(frames, max_size=12), st.booleans(), st.sampled_from([1, 30, 4096]))
def test_line_16_any_cuts(data, sent, masked, first_capacity):
    pieces = [encode(frame, masked) for frame in sent]
    sizes = list(map(len, pieces))
    stream = b"".join(pieces)
    ends = list(itertools.accumulate(sizes))
    anywhere = st.integers(0, len(stream))
    near_an_end = st.sampled_from([0, *ends]).flatmap(
        lambda end: st.integers(max(end - 4100, 0), min(end + 16, len(stream)))
    )
    positions = data.draw(st.lists(anywhere | near_an_end, max_size=8).map(sorted))
    receiver = new_receiver(masked, first_capacity=first_capacity)
    kept = []
    fed = 0
    for piece in cut(stream, *positions):
        fed += len(piece)
        got = receiver.receive_data(piece)
        check_tails(got, sizes[len(kept) :])
        kept += got
        assert len(kept) == bisect.bisect_right(ends, fed)
        if got:
            assert got[-1].last_in_buffer
    assert list(map(raw, kept)) == sent
    assert receiver.violation_code == 0


# -- last_in_buffer and tail_size ------------------------------------------------------------------


@both_sides
def test_tails_of_frames_in_one_read(masked):
    sizes = [0, 125, 126, 70_000, 1]
    data = b"".join(encode(RawFrame(BINARY, NOISE[:size]), masked) for size in sizes)
    got = new_receiver(masked).receive_data(data)
    key = 4 if masked else 0
    ends = list(itertools.accumulate(
        size + key + (2 if size < 126 else 4 if size < 65536 else 10) for size in sizes
    ))  # fmt: skip
    assert [frame.tail_size for frame in got] == [len(data) - end for end in ends]
    assert [frame.last_in_buffer for frame in got] == [False] * 4 + [True]


@both_sides
@pytest.mark.parametrize("size", [0, 5, 125, 126, 300, 65_536, 100_000])
def test_half_a_frame_behind(size, masked):
    """What is there of the next frame counts as tail; it is no further frame until it is whole."""
    first = encode(RawFrame(TEXT, b"first"), masked)
    second = encode(RawFrame(BINARY, NOISE[:size]), masked)
    behind = [0, 1, 2, 3, 4, 5, 9, 10, 11, 13, 14, len(second) - 1]
    for rest in sorted({rest for rest in behind if rest < len(second)}):
        (frame,) = new_receiver(masked).receive_data(first + second[:rest])
        assert frame.last_in_buffer, rest
        assert frame.tail_size == rest
    frame, _ = new_receiver(masked).receive_data(first + second)
    assert not frame.last_in_buffer
    assert frame.tail_size == len(second)


@pytest.mark.parametrize(
    "broken", [b"\x83\x00", b"\x82\x80\0\0\0\0", b"\x09\x00", b"\x88\x01x"], ids=bytes.hex
)
def test_last_in_buffer_promises_no_delivery(broken):
    """It is judged from the next header's length alone (api.md section 5)."""
    (frame,) = new_receiver(False).receive_data(b"\x81\x01a" + broken)
    assert not frame.last_in_buffer
    assert frame.tail_size == len(broken)


@pytest.mark.parametrize("length", [2**31, 2**32, 2**62, 2**63, 2**64 - 1])
def test_line_18_length_of_the_next_frame(length):
    """Header and length must not be added up before they are compared."""
    behind = struct.pack("!BBQ", 0x82, 127, length)
    for payload in (b"", b"payload"):
        (frame,) = new_receiver(False).receive_data(b"\x81\x01a" + behind + payload)
        assert frame.last_in_buffer


# -- violations ------------------------------------------------------------------------------------


def first_two(first, length, masked) -> bytes:
    return bytes([first, (0x80 if masked else 0) | length])


def header16(length, masked, first=0x82) -> bytes:
    return first_two(first, 126, masked) + struct.pack("!H", length)


def header64(length, masked, first=0x82) -> bytes:
    return first_two(first, 127, masked) + struct.pack("!Q", length)


def check_violation(broken, masked, code, text=None, ahead=(), **parameters) -> None:
    """`broken` is just enough to see the violation: not a byte more is waited for."""
    stream = b"".join(encode(frame, masked) for frame in ahead) + broken
    behind = encode(RawFrame(TEXT, b"behind"), masked)
    for pieces in ([stream], [stream + behind * 3], steps(stream, 1), cut(stream, len(stream) - 1)):
        receiver = new_receiver(masked, **parameters)
        assert receive(receiver, pieces) == list(ahead)
        assert receiver.violation_code == code
        assert text is None or text in receiver.violation_text
        # Nothing is parsed any more, and the verdict stays.
        assert receiver.receive_data(behind) == []
        assert receiver.receive_data(b"\x83\x00\x88\x02\x00\x00") == []
        assert receiver.violation_code == code


@both_sides
@pytest.mark.parametrize("opcode", [*range(3, 8), *range(11, 16)])
@pytest.mark.parametrize("bits", [0x00, 0x80, 0xF0])
def test_undefined_opcode(bits, opcode, masked):
    check_violation(first_two(bits | opcode, 0, masked), masked, 1002, f"opcode {opcode}")


@pytest.mark.parametrize("opcode", OPCODES)
@pytest.mark.parametrize("length", [0, 1, 125])
def test_mask_direction(length, opcode):
    check_violation(first_two(0x80 | opcode, length, masked=False), True, 1002, "not masked")
    check_violation(first_two(0x80 | opcode, length, masked=True), False, 1002, "is masked")


@both_sides
@pytest.mark.parametrize("opcode", CONTROL_OPCODES)
@pytest.mark.parametrize("length", [126, 127])
def test_long_control_frame(length, opcode, masked):
    check_violation(first_two(0x80 | opcode, length, masked), masked, 1002, "125")


@both_sides
@pytest.mark.parametrize("opcode", CONTROL_OPCODES)
@pytest.mark.parametrize("length", [0, 125])
def test_fragmented_control_frame(length, opcode, masked):
    check_violation(first_two(opcode, length, masked), masked, 1002, "fragmented")


@both_sides
@pytest.mark.parametrize("opcode", DATA_OPCODES)
def test_length_not_minimal(opcode, masked):
    first = 0x80 | opcode
    for length in (0, 1, 124, 125):
        check_violation(header16(length, masked, first), masked, 1002, f"length {length}")
    for length in (0, 125, 126, 255, 256, 65534, 65535):
        check_violation(header64(length, masked, first), masked, 1002, f"length {length}")


@both_sides
def test_first_length_of_each_encoding(masked):
    """126 and 65,536 are minimal where they begin."""
    for size in (126, 65535, 65536):
        frame = RawFrame(BINARY, NOISE[:size])
        receiver = new_receiver(masked, max_frame_size=size)
        assert receive(receiver, [encode(frame, masked)]) == [frame]


@both_sides
@pytest.mark.parametrize("max_frame_size", [0, 10, 2**62, 2**63 - 1, 2**63, 2**64 - 1])
def test_line_18_top_bit(max_frame_size, masked):
    for length in (2**63, 2**63 + 1, 2**63 + 65536, 2**64 - 1, 2**64 - 14):
        header = header64(length, masked)
        check_violation(header, masked, 1002, "top bit", max_frame_size=max_frame_size)


@both_sides
@pytest.mark.parametrize(
    "limit",
    [125, 126, 65534, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 2],
)
def test_line_18_max_frame_size(limit, masked):
    """At the limit the payload is waited for; one byte more, and the header is enough."""

    def header(size):
        if size < 126:
            return first_two(0x82, size, masked)
        return header16(size, masked) if size < 65536 else header64(size, masked)

    receiver = new_receiver(masked, max_frame_size=limit)
    assert receiver.receive_data(header(limit) + b"\0\0\0\0") == []
    assert receiver.violation_code == 0
    text = f"{limit + 1} bytes"
    check_violation(header(limit + 1), masked, 1009, text, max_frame_size=limit)


@both_sides
@pytest.mark.parametrize("limit", [0, 1, 125, 126, 300, 65535, 65536, 70_000])
def test_frame_at_the_limit(limit, masked):
    frame = RawFrame(BINARY, NOISE[:limit])
    for pieces in (
        [encode(frame, masked)],
        cut(encode(frame, masked), 1),
        cut(encode(frame, masked), 9),
    ):
        receiver = new_receiver(masked, max_frame_size=limit)
        assert receive(receiver, pieces) == [frame]
    over = encode(RawFrame(BINARY, NOISE[: limit + 1]), masked)
    receiver = new_receiver(masked, max_frame_size=limit)
    assert receive(receiver, [over]) == []
    assert receiver.violation_code == 1009


@both_sides
@pytest.mark.parametrize("length", [2**32, 2**32 + 5, 2**33 + 100, 2**40, 2**62, 2**63 - 1])
def test_line_18_length_is_not_truncated(length, masked):
    """The lower 32 bits alone would be within the limit."""
    check_violation(header64(length, masked), masked, 1009, f"{length} bytes", max_frame_size=1000)


@both_sides
def test_max_frame_size_counts_for_control_frames(masked):
    check_violation(first_two(0x89, 101, masked), masked, 1009, max_frame_size=100)


def test_huge_frame_of_huge_limit():
    """Sums of header and length stay below 2**64: nothing wraps, the frame is waited for."""
    for length in (2**62, 2**63 - 1):
        for limit in (length, 2**64 - 1):
            receiver = new_receiver(True, max_frame_size=limit)
            assert receiver.receive_data(header64(length, True) + KEY) == []
            for _ in range(20):
                assert receiver.receive_data(NOISE[:30_000]) == []
            assert receiver.violation_code == 0


# RFC 6455 section 7.4, and what IANA registered since.
GOOD_CODES = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3001, 3999, 4000, 4999]
BAD_CODES = [0, 1, 125, 999, 1004, 1005, 1006, 1015, 1016, 1017, 1100, 2000, 2999, 5000, 65535]


@both_sides
@pytest.mark.parametrize("code", GOOD_CODES)
def test_line_19_close_code(code, masked):
    for reason in (b"", b"why", "😀".encode(), b"r" * 123):
        data = encode_close(code, reason, mask=KEY if masked else None)
        (frame,) = new_receiver(masked).receive_data(data)
        assert frame.get_close_code() == code
        assert frame.get_close_message() == reason


@both_sides
@pytest.mark.parametrize("code", BAD_CODES)
def test_line_19_bad_close_code(code, masked):
    for reason in (b"", b"why", b"\xff"):
        data = encode_close(code, reason, mask=KEY if masked else None)
        check_violation(data, masked, 1002, f"close code {code}")


def test_line_19_every_close_code():
    """A code is read as two unsigned bytes, the high one first."""
    allowed = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    pool = BufferPool()
    for code in range(65536):
        receiver = new_receiver(False, pool=pool)
        delivered = len(receiver.receive_data(b"\x88\x02" + code.to_bytes(2, "big"))) == 1
        assert delivered is (code in allowed), code


@both_sides
def test_line_19_close_payload_of_one_byte(masked):
    for byte in (b"\x03", b"\x00", b"\xff"):
        broken = encode(RawFrame(CLOSE, byte), masked)
        check_violation(broken, masked, 1002, "1 byte")


BAD_REASONS = [
    b"\x80",
    b"\xc0\xaf",
    b"\xe2\x82",  # cut off inside a character
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xff",
    b"a" * 122 + b"\xc3",
    b"a" * 60 + b"\xff" + b"a" * 62,
    "é".encode() * 61 + b"\xa9",
]


@both_sides
@pytest.mark.parametrize("reason", BAD_REASONS, ids=bytes.hex)
def test_line_19_close_reason(reason, masked):
    broken = encode_close(1000, reason, mask=KEY if masked else None)
    check_violation(broken, masked, 1007, "UTF-8")


def test_line_25_reason_of_any_cut():
    """The reason is judged as a whole: where TCP cuts a character does not matter."""
    data = encode_close(1000, "aé€😀".encode(), mask=KEY)
    for position in range(len(data)):
        (frame,) = receive(new_receiver(True), cut(data, position))
        assert frame.payload[2:].decode() == "aé€😀"


@both_sides
@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (lambda masked: first_two(0x83, 0, masked), 1002),
        (lambda masked: first_two(0x82, 0, not masked), 1002),
        (lambda masked: first_two(0x89, 126, masked), 1002),
        (lambda masked: header16(125, masked), 1002),
        (lambda masked: header64(2**63, masked), 1002),
        (lambda masked: header64(2**62, masked), 1009),
        (lambda masked: encode(RawFrame(CLOSE, b"\x03"), masked), 1002),
        (lambda masked: encode(RawFrame(CLOSE, b"\x03\xed"), masked), 1002),
        (lambda masked: encode(RawFrame(CLOSE, b"\x03\xe8\xff"), masked), 1007),
    ],
    ids=["opcode", "mask", "control", "minimal", "top bit", "size", "1 byte", "code", "reason"],
)
def test_line_20_frames_ahead_of_a_violation(broken, code, masked):
    ahead = [
        RawFrame(TEXT, b"valid"),
        RawFrame(PING, b"!"),
        RawFrame(BINARY, NOISE[:300]),
        RawFrame(CONTINUATION),
    ]
    check_violation(broken(masked), masked, code, ahead=ahead)
    # Ahead of it a frame in a buffer of its own, which ends where the broken one begins.
    ahead = [RawFrame(BINARY, NOISE[:70_000])]
    data = encode(ahead[0], masked) + broken(masked)
    for position in (5, 20_000, 70_000):
        receiver = new_receiver(masked)
        assert receive(receiver, cut(data, position)) == ahead
        assert receiver.violation_code == code


def test_order_of_fragments_is_not_judged():
    """Nor are RSV bits and text: the frame API is raw (api.md section 5); line 17 is for those who
    assemble messages.
    """
    sent = [
        RawFrame(CONTINUATION, b"without a start"),
        RawFrame(TEXT, b"a", fin=False),
        RawFrame(BINARY, b"inside", fin=False),
        RawFrame(TEXT, b"\xff", rsv=7),
        RawFrame(CLOSE, rsv=7),
        RawFrame(TEXT, b"after a close"),
    ]
    data = b"".join(encode(frame, False) for frame in sent)
    assert receive(new_receiver(False), [data]) == sent


# -- the door --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        bytes,
        bytearray,
        memoryview,
        lambda data: memoryview(b"##" + data + b"##")[2:-2],
        lambda data: memoryview(data).toreadonly(),
        lambda data: array.array("H", data),
    ],
)
def test_any_contiguous_bytes(wrap):
    data = encode(RawFrame(TEXT, b"payload!"), True)
    assert receive(new_receiver(True), [wrap(data)]) == [RawFrame(TEXT, b"payload!")]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("text", TypeError),
        (None, TypeError),
        (5, TypeError),
        (memoryview(b"abcd")[::2], BufferError),
    ],
    ids=["str", "None", "int", "strided"],
)
def test_other_input(data, error):
    receiver = new_receiver(False)
    with pytest.raises(error):
        receiver.receive_data(data)
    assert receive(receiver, [b"\x81\x01a"]) == [RawFrame(TEXT, b"a")]


def test_nothing():
    receiver = new_receiver(False)
    assert receiver.receive_data(b"") == []
    receiver.receive_data(b"\x81")
    assert receiver.receive_data(b"") == []
    assert receive(receiver, [b"\x01a"]) == [RawFrame(TEXT, b"a")]


def test_input_is_not_unmasked_in_place():
    """Nor do frames refer to it: the caller's buffer is the caller's."""
    frame = RawFrame(BINARY, NOISE[:50_000])
    data = bytearray(encode(frame, True))
    before = bytes(data)
    (got,) = new_receiver(True).receive_data(data)
    assert data == before
    data[:] = bytes(len(data))
    data.clear()  # BufferError, were it still exported
    assert raw(got) == frame


def test_own_frame_as_input():
    """A frame that carries WebSocket frames, parsed from where it lies, in the same pool."""
    pool = BufferPool()
    inner = RawFrame(BINARY, NOISE[:100_000])
    outer = encode(RawFrame(BINARY, encode(inner, True)), True)
    (frame,) = new_receiver(True, pool=pool).receive_data(outer)
    assert receive(new_receiver(True, pool=pool), [frame]) == [inner]
    assert raw(frame).payload == encode(inner, True)


def test_receiver_needs_a_pool():
    with pytest.raises(TypeError):
        Receiver(None, False, 1, 1)


@pytest.mark.parametrize("size", [-1, 2**64])
def test_max_frame_size_is_a_size(size):
    with pytest.raises(OverflowError):
        new_receiver(False, max_frame_size=size)
