"""The frame parser against a reference in a few lines of Python: any bytes, in any pieces.

The first four bytes choose: side and size of the first buffer; max_frame_size; how the rest is
cut, and what is kept of it; where in the rest a run of bytes is put in, so that a small input makes
a long frame. The rest is what the peer sends.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from picows.wire.buffers import BufferPool
from picows.wire.receiver import Receiver

FIRST_CAPACITIES = [0, 1, 100, 16 * 1024]
LIMITS = [10 * 1024 * 1024, 0, 1, 125, 126, 1000, 65535, 65536, 2**62, 2**63 - 1, 2**64 - 1]
RUNS = [0, 0, 0, 100, 4096, 20_000, 65536, 70_000, 300_000]
# What stands in a run: as a header it is a violation, so that a run is never thousands of frames.
RUN = b"\xff"


class Seen(NamedTuple):
    opcode: int
    bits: int  # FIN and RSV1 to RSV3, as they stand in the first byte
    payload: bytes


def good_code(code: int) -> bool:
    """RFC 6455 section 7.4, and what is registered with IANA."""
    registered = 1000 <= code <= 1014 and code not in (1004, 1005, 1006)
    return registered or 3000 <= code < 5000


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def reference(stream: bytes, masked: bool, limit: int) -> tuple[list[Seen], int]:
    """The frames, and the close code of the violation behind them, or 0."""
    found: list[Seen] = []
    position = 0
    while len(stream) - position >= 2:
        first, second = stream[position : position + 2]
        position += 2
        opcode = first & 15
        size = second & 127
        if opcode not in (0, 1, 2, 8, 9, 10):
            return found, 1002
        if (second >= 128) is not masked:
            return found, 1002
        if opcode >= 8 and (size > 125 or first < 128):
            return found, 1002
        if size > 125:
            width, least = (2, 126) if size == 126 else (8, 65536)
            if len(stream) - position < width:
                break
            size = int.from_bytes(stream[position : position + width], "big")
            position += width
            if size < least or size >= 2**63:
                return found, 1002
        if size > limit:
            return found, 1009
        key = stream[position : position + 4] if masked else b""
        position += len(key)
        payload = stream[position : position + size]
        position += size
        if position > len(stream) or len(key) < 4 * masked:
            break
        if masked:
            stretched = int.from_bytes((key * (size // 4 + 1))[:size], "big")
            payload = (int.from_bytes(payload, "big") ^ stretched).to_bytes(size, "big")
        if opcode == 8 and payload:
            if len(payload) == 1 or not good_code(int.from_bytes(payload[:2], "big")):
                return found, 1002
            if not is_text(payload[2:]):
                return found, 1007
        found.append(Seen(opcode, first & 0xF0, payload))
    return found, 0


def pieces(stream: bytes, choose: random.Random) -> Iterator[bytes]:
    how = choose.randrange(4)
    if how == 0:
        yield stream
    elif how == 1 and len(stream) < 2000:
        yield from (stream[start : start + 1] for start in range(len(stream)))
    else:
        most = choose.choice([8, 100, 5000] if len(stream) < 2000 else [1000, 5000, 70_000])
        start = 0
        while start < len(stream):
            end = start + choose.randint(0, most)
            yield stream[start:end]
            start = end


def check(stream: bytes, masked: bool, limit: int, capacity: int, choose: random.Random) -> None:
    expected, verdict = reference(stream, masked, limit)
    pool = BufferPool()
    receivers = [Receiver(pool, masked, limit, capacity) for _ in range(2)]
    streams = [pieces(stream, choose) for _ in receivers]
    counts = [0, 0]
    kept = []
    # Two connections of one pool, read in turn.
    for fed in itertools.zip_longest(*streams, fillvalue=b""):
        for index, receiver in enumerate(receivers):
            for frame in receiver.receive_data(fed[index]):
                assert counts[index] < len(expected)
                wanted = expected[counts[index]]
                counts[index] += 1
                bits = frame.fin << 7 | frame.rsv1 << 6 | frame.rsv2 << 5 | frame.rsv3 << 4
                assert (frame.msg_type, bits) == (wanted.opcode, wanted.bits)
                assert frame.payload_size == len(wanted.payload)
                assert frame.get_payload_as_bytes() == wanted.payload
                assert frame.tail_size >= 0
                if wanted.opcode == 8:
                    code = frame.get_close_code()
                    assert code == int.from_bytes(wanted.payload[:2], "big")
                    assert (frame.get_close_message() or b"") == wanted.payload[2:]
                if choose.random() < 0.3:
                    held = frame if choose.random() < 0.5 else memoryview(frame)
                    kept.append((held, wanted.payload))
    for receiver, count in zip(receivers, counts, strict=True):
        assert count == len(expected)
        assert receiver.violation_code == verdict
        assert (receiver.violation_text is None) is (verdict == 0)
    del receivers, pool
    choose.shuffle(kept)
    while kept:
        held, payload = kept.pop()
        assert bytes(held) == payload


def one_input(data: bytes) -> None:
    if len(data) < 4:
        return
    side, limit, cuts, run = data[:4]
    stream = data[4:]
    place = min(run >> 4, len(stream))
    stream = stream[:place] + RUN * RUNS[(run & 15) % len(RUNS)] + stream[place:]
    choose = random.Random(zlib.crc32(data) ^ cuts)
    capacity = FIRST_CAPACITIES[side >> 1 & 3]
    check(stream, bool(side & 1), LIMITS[limit % len(LIMITS)], capacity, choose)
