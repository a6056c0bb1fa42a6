"""The memory behind frames: who keeps it, who overwrites it, and when it goes back.

Frames and memoryviews that are kept must read the same for ever, while the pool's read buffer
serves everybody else; and what nobody keeps must not cost anything. That is measured from
outside: tracemalloc does not see what is mapped or comes from malloc.
"""

import array
import ctypes
import gc
import os
import random
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picows.wire.buffers import BufferPool
from picows.wire.receiver import Receiver
from raw_peer import BINARY, PING, TEXT, encode_frame

KIB = 1024
MIB = 1024 * 1024
KEY = b"\x11\x22\x33\x44"
NOISE = random.Random(39).randbytes(MIB)

STATM = Path("/proc/self/statm")
# Not on macOS and Windows, and not with AddressSanitizer, which keeps freed memory in quarantine.
MEASURED = STATM.exists() and not os.environ.get("PICOWS_SANITIZE")
SLACK = MIB


def new_receiver(pool=None, masked=False, max_frame_size=16 * MIB) -> Receiver:
    return Receiver(pool or BufferPool(), masked, max_frame_size, 16 * KIB)


def payload_of(size, start=0) -> bytes:
    return (NOISE * (size // len(NOISE) + 2))[start : start + size]


def binary(size, start=0, masked=False) -> bytes:
    return encode_frame(BINARY, payload_of(size, start), mask=KEY if masked else None)


def overwrite(pool) -> None:
    """Let the pool's buffers serve others."""
    junk = encode_frame(BINARY, b"\xee" * 500) * 520
    other = new_receiver(pool)
    for data in (junk, junk[:-3]):
        for frame in other.receive_data(data):
            assert frame.payload_size == 500
    # A half-received frame of another connection, in a buffer of its own.
    new_receiver(pool).receive_data(encode_frame(BINARY, b"\xdd" * (MIB - 100))[:-1])


class Memory:
    """What the process has got since: address space and resident pages, in bytes."""

    def __init__(self) -> None:
        gc.collect()
        self.before = self.now()

    def now(self) -> tuple[int, int]:
        if not MEASURED:
            return 0, 0
        mapped, resident = map(int, STATM.read_text().split()[:2])
        page = os.sysconf("SC_PAGE_SIZE")
        return mapped * page, resident * page

    @property
    def mapped(self) -> int:
        return self.now()[0] - self.before[0]

    @property
    def resident(self) -> int:
        return self.now()[1] - self.before[1]


# -- line 39: kept frames --------------------------------------------------------------------------

# Moved to memory of their own up to 16 KiB; beyond, they stay in the block they were received in.
SIZES = [0, 1, 125, 126, 4096, 16_384, 16_385, 65_535, 65_536, 250_000, 262_130, 300_000, 1_500_000]

both_sides = pytest.mark.parametrize("masked", [False, True], ids=["client", "server"])


@both_sides
@pytest.mark.parametrize("size", SIZES)
def test_line_39_kept_frame(size, masked):
    pool = BufferPool()
    receiver = new_receiver(pool, masked)
    (frame,) = receiver.receive_data(binary(size, masked=masked))
    receiver.receive_data(binary(500, 77, masked) * 600)
    overwrite(pool)
    assert frame.get_payload_as_bytes() == payload_of(size)


@pytest.mark.parametrize("size", SIZES)
def test_line_39_kept_view(size):
    """The view holds the frame, the frame the memory: pool and receiver may go."""
    pool = BufferPool()
    receiver = new_receiver(pool)
    (frame,) = receiver.receive_data(binary(size))
    view = frame.get_payload_as_memoryview()
    part = memoryview(frame)[size // 3 : size // 2].cast("b")
    numbers = array.array("B", frame.get_payload_as_memoryview())
    assert part.obj is frame
    del frame
    gc.collect()
    overwrite(pool)
    del pool, receiver
    gc.collect()
    overwrite(BufferPool())
    assert view == payload_of(size)
    assert part.tobytes() == payload_of(size)[size // 3 : size // 2]
    assert numbers.tobytes() == payload_of(size)


def test_line_39_view_lets_go():
    """A released view holds neither its frame nor the frame's memory."""
    pool = BufferPool()
    receiver = new_receiver(pool)
    for size in (100, 20_000, 1_000_000):
        (frame,) = receiver.receive_data(binary(size))
        first = frame.get_payload_as_memoryview()
        second = first[1:]
        first.release()
        with pytest.raises(ValueError, match="released"):
            first[0]
        overwrite(pool)
        assert second == payload_of(size)[1:]
        second.release()
        assert frame.get_payload_as_bytes() == payload_of(size)


@both_sides
def test_line_39_some_frames_of_a_read(masked):
    """Small ones move away, a large one keeps the buffer; those between them are dropped."""
    pool = BufferPool()
    receiver = new_receiver(pool, masked)
    sizes = [10, 20_000, 16_384, 0, 40_000, 5, 100_000, 16_385]
    data = b"".join(binary(size, size, masked) for size in sizes)
    for keep in (slice(0, None, 2), slice(1, None, 2), slice(2, 3), slice(4, 5), slice(None)):
        kept = receiver.receive_data(data)[keep]
        overwrite(pool)
        receiver.receive_data(data)
        for frame, size in zip(kept, sizes[keep], strict=True):
            assert frame.get_payload_as_bytes() == payload_of(size, size)


def test_line_39_frame_that_keeps_a_buffer_with_half_a_frame_behind():
    """The half frame leaves with the receiver; what is kept is not written to any more."""
    pool = BufferPool()
    receiver = new_receiver(pool)
    second = binary(30_000, 1)
    for rest in (1, 2, 9, 100, 20_000, 26_000, len(second) - 1):
        (first,) = receiver.receive_data(binary(20_000) + second[:rest])
        overwrite(pool)
        (other,) = receiver.receive_data(second[rest:])
        overwrite(pool)
        assert first.get_payload_as_bytes() == payload_of(20_000)
        assert other.get_payload_as_bytes() == payload_of(30_000, 1)


@both_sides
def test_line_39_frames_of_connections_that_share_a_pool(masked):
    """Each has half a frame waiting while the others are read."""
    pool = BufferPool()
    sizes = [3, 130, 5_000, 17_000, 70_000, 200_000]
    receivers = [new_receiver(pool, masked) for _ in sizes]
    kept = []
    for start in range(3):
        streams = [binary(size, size + start, masked) for size in sizes]
        for cut in (slice(0, 1), slice(1, 7), slice(7, 10_000), slice(10_000, None)):
            for receiver, stream in zip(receivers, streams, strict=True):
                for frame in receiver.receive_data(stream[cut]):
                    kept.append((frame, frame.payload_size + start))
    assert len(kept) == 3 * len(sizes)
    for frame, start in kept:
        assert frame.get_payload_as_bytes() == payload_of(frame.payload_size, start)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from([0, 5, 300, 16_384, 16_385, 50_000, 262_140]) | st.integers(0, 9000),
            st.integers(0, 60_000),
            st.sampled_from(["drop", "frame", "view", "drop later"]),
        ),
        max_size=30,
    )
)
def test_line_39_any_connections_and_keepers(steps):
    """Connections of one pool, each with its own unread bytes, read in any order and any pieces."""
    pool = BufferPool()
    receivers = [new_receiver(pool) for _ in range(4)]
    unread = [b""] * 4
    sent = [0] * 4
    got = [0] * 4
    kept = []
    for number, (index, size, piece, keep) in enumerate(steps):
        start = 1000 * index + sent[index]
        unread[index] += binary(size, start)
        sent[index] += 1
        data, unread[index] = unread[index][:piece], unread[index][piece:]
        for frame in receivers[index].receive_data(data):
            expected = payload_of(frame.payload_size, 1000 * index + got[index])
            got[index] += 1
            if keep == "view":
                kept.append((frame.get_payload_as_memoryview(), expected))
            elif keep != "drop":
                kept.append((frame, expected))
        if keep == "drop later":
            del kept[number % (len(kept) + 1) :]
        for frame, expected in kept:
            assert bytes(frame) == expected
    for index, receiver in enumerate(receivers):
        got[index] += len(receiver.receive_data(unread[index]))
    assert got == sent


def test_line_39_frame_read_in_another_thread():
    """And dropped there: memory is freed by whoever is last."""
    pool = BufferPool()
    receiver = new_receiver(pool)
    found = []
    for size in (10, 20_000, 300_000):
        frames = receiver.receive_data(binary(size))
        reader = threading.Thread(
            target=lambda kept: found.append(bytes(kept.pop())), args=[frames]
        )
        reader.start()
        reader.join()
        overwrite(pool)
        assert found.pop() == payload_of(size)


@pytest.mark.parametrize(
    "before",
    [
        binary(100),
        binary(100)[:50],
        binary(100) * 2000 + b"\x82",
        binary(20_000),
        binary(20_000)[:-1],
        b"\x83\x00",
        binary(100) + b"\x88\x01x",
    ],
    ids=["frame", "half", "many", "kept", "large half", "violation", "late violation"],
)
def test_shared_buffer_is_free_after_each_batch(before):
    """Whatever was in it; seen from how much fits into one read. Later readers would go on in
    smaller buffers of their own.
    """
    pool = BufferPool()
    kept = new_receiver(pool).receive_data(before)
    data = binary(500) * 500
    frames = new_receiver(pool).receive_data(data)
    assert [frame.tail_size for frame in frames] == list(range(len(data) - 504, -1, -504))
    del kept


class PyBuffer(ctypes.Structure):
    """Py_buffer of CPython's C API."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("format", "shape", "strides", "suboffsets")),
        ("internal", ctypes.c_void_p),
    ]


def bytes_behind(frame) -> bytes:
    """64 bytes behind the payload, read as C code does."""
    buffer = PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(frame), ctypes.byref(buffer), 0)
    try:
        assert buffer.len == frame.payload_size
        return ctypes.string_at(buffer.buf + buffer.len, 64)
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))


@both_sides
def test_padding(masked):
    """At least 64 readable bytes behind the payload (api.md section 5). AddressSanitizer, or the
    end of a mapping, tells where they are missing.
    """
    header = (4 if masked else 0) + 10
    # Blocks that are filled to their last byte: of malloc, mapped, the shared buffer.
    full = [64 * KIB, 128 * KIB, 128 * KIB - 64, 256 * KIB, 512 * KIB, 2 * MIB]
    for size in [0, 1, 16_384, 16_385, 65_536, *(total - header for total in full)]:
        data = binary(size, masked=masked)
        for pieces in ([data], [data[:1], data[1:]], [data[:20_000], data[20_000:]]):
            receiver = new_receiver(masked=masked)
            (frame,) = [frame for piece in pieces for frame in receiver.receive_data(piece)]
            assert len(bytes_behind(frame)) == 64
    # The last frame of a full shared buffer.
    last = binary(20_000, masked=masked)
    first = binary(256 * KIB - len(last) - header, masked=masked)
    _, frame = new_receiver(masked=masked).receive_data(first + last)
    assert len(bytes_behind(frame)) == 64


# -- memory ----------------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("length", [2**31, 2**40, 2**62, 2**63 - 1])
def test_line_23_declared_length_allocates_nothing(length, masked):
    header = struct.pack("!BBQ", 0x82, 0xFF if masked else 0x7F, length) + KEY
    pool = BufferPool()
    receivers = [new_receiver(pool, masked, 2**63 - 1) for _ in range(100)]
    memory = Memory()
    for receiver in receivers:
        assert receiver.receive_data(header) == []
    # The shared buffer, and read_buffer_init_size each.
    assert memory.mapped < 100 * 17 * KIB + 512 * KIB + SLACK
    assert memory.resident < 512 * KIB + SLACK


def test_line_23_buffer_grows_with_what_arrives():
    receiver = new_receiver(max_frame_size=2**63 - 1)
    memory = Memory()
    receiver.receive_data(struct.pack("!BBQ", 0x82, 0x7F, 2**62))
    for received in range(1, 17):
        assert receiver.receive_data(NOISE[: 256 * KIB]) == []
        # Twice as much at most, as buffers double.
        assert memory.mapped < 2 * received * 256 * KIB + 512 * KIB + SLACK
    assert memory.resident < 5 * MIB + SLACK
    del receiver
    assert memory.mapped < 512 * KIB + SLACK


def test_line_46_memory_of_a_spike_goes_back():
    """On each of 50 connections; one block of up to 2 MiB may stay warm."""
    pool = BufferPool()
    receivers = [new_receiver(pool) for _ in range(50)]
    data = binary(8 * MIB)
    memory = Memory()
    for receiver in receivers:
        (frame,) = receiver.receive_data(data)
        assert frame.payload_size == 8 * MIB
    assert memory.mapped >= 8 * MIB or not MEASURED
    del frame
    assert memory.mapped < 3 * MIB + SLACK
    assert memory.resident < 3 * MIB + SLACK


def test_memory_of_a_kept_frame():
    """A large frame costs its own bytes, and none once it is dropped."""
    receiver = new_receiver()
    data = binary(8 * MIB)
    expected = payload_of(8 * MIB)
    memory = Memory()
    kept = receiver.receive_data(data) + receiver.receive_data(data)
    assert memory.mapped < 17 * MIB + SLACK
    # Through memoryviews: a copy would come from malloc, which may keep it.
    assert all(memoryview(frame) == expected for frame in kept)
    view = memoryview(kept[0])[5:10]
    del kept
    gc.collect()
    assert memory.mapped < 9 * MIB + SLACK
    del view
    assert memory.mapped < MIB + SLACK


def test_ten_thousand_kept_frames_cost_their_own_bytes():
    """Received one by one, and many in a read: not one read buffer each."""
    receiver = new_receiver()
    memory = Memory()
    kept = []
    for start in range(5000):
        kept += receiver.receive_data(binary(100, start))
    data = b"".join(binary(100, start) for start in range(5000))
    kept += receiver.receive_data(data)
    assert len(kept) == 10_000
    del data
    assert memory.mapped < 8 * MIB + SLACK
    for number in range(0, 10_000, 111):
        assert bytes(kept[number]) == payload_of(100, number % 5000)


def test_idle_connections_own_no_buffer():
    """Nor do those with a few bytes of a frame."""
    pool = BufferPool()
    receivers = [new_receiver(pool) for _ in range(5000)]
    pool_user = new_receiver(pool)
    pool_user.receive_data(binary(250_000))
    memory = Memory()
    for receiver in receivers:
        receiver.receive_data(encode_frame(TEXT, b"text"))
        receiver.receive_data(encode_frame(PING, b"ping")[:-1])
    assert memory.mapped < 4 * MIB + SLACK
    for receiver in receivers:
        assert len(receiver.receive_data(b"g")) == 1


def test_nothing_is_left():
    """A thousand rounds of everything: frames, halves, violations, kept and not."""
    pool = BufferPool()
    data = b"".join(binary(size, masked=True) for size in (3, 200, 20_000)) + b"\x82"
    half = binary(100_000)[:50_000]

    def rounds(count):
        for _ in range(count):
            receiver = new_receiver(pool, masked=True)
            kept = receiver.receive_data(data)
            view = memoryview(kept[1])
            receiver.receive_data(b"\x80" + KEY + b"\x88\x81" + KEY + b"x")
            assert receiver.violation_code == 1002
            new_receiver(pool).receive_data(half)
            del kept, view

    rounds(100)
    memory = Memory()
    rounds(1000)
    assert memory.mapped < MIB + SLACK
    assert memory.resident < MIB + SLACK


def test_garbage_collector_sees_a_receiver_in_a_cycle():
    """A subclass of the pool, as the loop's own state is one, may refer back to its receivers."""

    class Pool(BufferPool):
        receiver = None

    memory = Memory()
    for _ in range(40):
        pool = Pool()
        pool.receiver = new_receiver(pool)
        pool.receiver.receive_data(binary(MIB)[:-1])
        del pool
    gc.collect()
    assert memory.mapped < 4 * MIB + SLACK
