"""Our parser against two others, on streams that nobody thought of.

`websockets` and `wsproto` are used through their sans-I/O doors. A stream is fine when both say so,
since each judges what the other leaves out: wsproto does not look into a CLOSE and knows no
limit, websockets takes lengths that are not minimal and a top bit that is set. Where ours
differs from both, by design (api.md section 5), the streams are made such that it does not matter:

* ours delivers frames with RSV bits. The others get the same stream with the bits cleared;
* the order of fragments is for none of the three parsers to judge.
"""

import itertools
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Close, Frame
from websockets.streams import StreamReader
from wsproto.frame_protocol import FrameDecoder, ParseFailed

from picows.wire.buffers import BufferPool
from picows.wire.receiver import Receiver
from raw_peer import CLOSE, apply_mask

STREAMS = 6000


# -- the three parsers -----------------------------------------------------------------------------
# Each takes (stream, masked, limit) and gives the frames (opcode, fin, payload), and a close code
# or None.


def of_picows(pieces, masked, limit, pool):
    receiver = Receiver(pool, masked, limit, 1024)
    got = [frame for piece in pieces for frame in receiver.receive_data(piece)]
    found = [(int(frame.msg_type), frame.fin, frame.get_payload_as_bytes()) for frame in got]
    reserved = [frame.rsv1 << 6 | frame.rsv2 << 5 | frame.rsv3 << 4 for frame in got]
    return found, receiver.violation_code or None, reserved


def of_websockets(stream, masked, limit):
    reader = StreamReader()
    reader.feed_data(stream)
    reader.feed_eof()
    found = []
    try:
        while True:
            parser = Frame.parse(reader.read_exact, mask=masked, max_size=limit)
            try:
                next(parser)
                raise AssertionError("all there is has been fed")
            except StopIteration as stop:
                frame = stop.value
            if frame.opcode == CLOSE:
                # Code first: of a CLOSE with a bad code and a bad reason, it names the reason.
                Close.parse(bytes(frame.data[:2]))
                Close.parse(bytes(frame.data))
            found.append((int(frame.opcode), frame.fin, bytes(frame.data)))
    except EOFError:
        return found, None
    except ProtocolError:
        return found, 1002
    except PayloadTooBig:
        return found, 1009
    except UnicodeDecodeError:
        return found, 1007


def of_wsproto(stream, masked):
    decoder = FrameDecoder(client=not masked)
    found = []
    payload = b""
    try:
        decoder.receive_bytes(stream)
        while (frame := decoder.process_buffer()) is not None:
            payload += frame.payload
            if frame.frame_finished:
                found.append((int(frame.opcode), frame.message_finished, payload))
                payload = b""
    except ParseFailed as exc:
        return found, int(exc.code)
    return found, None


def of_both(stream, masked, limit):
    """Whoever finds something first; in one header, the syntax comes before the size."""
    found, verdict = of_websockets(stream, masked, limit)
    strict, strict_verdict = of_wsproto(stream, masked)
    common = min(len(found), len(strict))
    assert found[:common] == strict[:common]
    if strict_verdict is not None and len(strict) <= len(found):
        return strict, strict_verdict
    return found, verdict


# -- streams ---------------------------------------------------------------------------------------

LENGTHS = [0, 1, 2, 124, 125, 126, 127, 128, 255, 256, 1000, 65535, 65536, 70_000]
DECLARED = [0, 125, 126, 65535, 65536, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
CODES = [0, 999, 1000, 1003, 1004, 1005, 1006, 1007, 1014, 1015, 1016, 2999, 3000, 4999, 5000]
REASONS = [b"", b"bye", "é€😀".encode(), b"\xff", b"\xc3", b"\xed\xa0\x80", b"r" * 123, b"r" * 124]
LIMITS = [0, 1, 125, 126, 1000, 65535, 65536, 10 * 1024 * 1024, 2**63 - 1]
NOISE = random.Random(7).randbytes(70_000)


def random_frame(choose, masked, wildness) -> tuple[bytes, bool]:
    """A frame, with some of its fields wrong, each in one of `wildness` cases; and whether it is
    shorter than it says.
    """

    def wrong():
        return choose.random() < wildness

    opcode = choose.choice([0, 1, 2, 1, 2, 8, 9, 10])
    control = opcode >= 8
    if opcode == CLOSE:
        code = choose.choice(CODES) if wrong() else 1000
        reason = choose.choice(REASONS) if choose.random() < 10 * wildness else b"fine"
        payload = struct.pack("!H", code) + reason
        if wrong():
            payload = payload[: choose.randrange(2)]
    else:
        size = choose.choice(LENGTHS[:5] if control and not wrong() else LENGTHS)
        if choose.random() < 0.7:
            size = min(size, choose.randrange(200))
        payload = NOISE[:size]
    if wrong():
        opcode = choose.randrange(16)
    fin = (control or choose.random() < 0.5) and not wrong()
    first = (0x80 if fin else 0) | opcode
    mask_bit = 0x80 if masked is not wrong() else 0
    length = choose.choice(DECLARED) if wrong() else len(payload)
    payload = payload[:length]
    bits = 7 if length < 126 else 16 if length < 65536 else 64
    if wrong():
        bits = choose.choice([7, 16, 64])
    if bits == 7 and length < 126:
        head = struct.pack("!BB", first, mask_bit | length)
    elif bits == 16 and length < 65536:
        head = struct.pack("!BBH", first, mask_bit | 126, length)
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, length)
    if mask_bit:
        key = choose.randbytes(4)
        head += key
        payload = apply_mask(payload, key) if len(payload) < 2000 else payload
    return head + payload, len(payload) < length


def check(stream, reserved, masked, limit, choose, pool) -> tuple[int, int | None]:
    """`reserved` are the RSV bits, and where in the stream: for ours alone."""
    expected, verdict = of_both(stream, masked, limit)
    ours = bytearray(stream)
    for position, bits in reserved.items():
        ours[position] |= bits
    cuts = sorted(choose.randrange(len(stream) + 1) for _ in range(choose.choice([0, 1, 2, 9])))
    edges = itertools.pairwise([0, *cuts, len(stream)])
    pieces = [ours[start:end] for start, end in edges]
    found, code, bits = of_picows(pieces, masked, limit, pool)
    assert found == expected
    assert code == verdict
    assert bits == [*reserved.values()][: len(bits)]
    return len(found), code


@pytest.mark.parametrize("masked", [False, True], ids=["client", "server"])
def test_random_streams(masked):
    choose = random.Random(f"oracle {masked}")
    pool = BufferPool()
    seen = {None: 0, 1002: 0, 1007: 0, 1009: 0}
    frames = 0
    for _ in range(STREAMS // 2):
        wildness = choose.choice([0, 0.01, 0.05])
        limit = choose.choice(LIMITS) if choose.random() < 0.3 else LIMITS[-2]
        stream = b""
        reserved = {}
        for _ in range(choose.randrange(12)):
            reserved[len(stream)] = choose.choice([0, 0, choose.randrange(8) << 4])
            frame, cut_off = random_frame(choose, masked, wildness)
            stream += frame
            if cut_off:
                break
        if choose.random() < 0.2:
            stream = stream[: choose.randrange(len(stream) + 1)]
            reserved = {start: bits for start, bits in reserved.items() if start < len(stream)}
        got, code = check(stream, reserved, masked, limit, choose, pool)
        seen[code] += 1
        frames += got
    # What the streams are made of; none of them would be worth much without the others.
    assert frames > STREAMS
    assert min(seen.values()) > STREAMS // 400, seen


def size_on_the_wire(payload, masked) -> int:
    size = len(payload)
    return size + 4 * masked + (2 if size < 126 else 4 if size < 65536 else 10)


@settings(max_examples=500)
@given(st.binary(max_size=80), st.booleans(), st.sampled_from(LIMITS), st.randoms())
def test_any_bytes(data, masked, limit, choose):
    """Garbage, and garbage behind an empty frame."""
    pool = BufferPool()
    for ahead in (b"", b"\x02\x80\1\2\3\4" if masked else b"\x02\x00"):
        stream = bytearray(ahead + data)
        found, _, _ = of_picows([stream], masked, limit, pool)
        sizes = [size_on_the_wire(payload, masked) for _, _, payload in found]
        reserved = {}
        for start in itertools.accumulate(sizes, initial=0):
            if start < len(stream):
                reserved[start] = stream[start] & 0x70
                stream[start] &= 0x8F
        check(bytes(stream), reserved, masked, limit, choose, pool)
