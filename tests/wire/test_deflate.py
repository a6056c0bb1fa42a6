"""The two halves of permessage-deflate (RFC 7692 section 7.2), against Python's zlib module and
against blocks that were written by hand.

All of this holds for each zlib that can be built with (setup.py, PICOWS_ZLIB): the last tests build
the others and run the rest on them.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from aio.deflate_peer import (
    TAIL,
    PeerDeflater,
    PeerInflater,
    bomb,
    far,
    fixed_block,
    stored_block,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from picows.wire.deflate import ZLIB, Deflater, Inflater

KIB = 1024
MIB = 1024 * KIB
ROOT = Path(__file__).resolve().parent.parent.parent
ZLIB_NG = ROOT / "build" / "zlib-ng"
BITS = range(9, 16)
TAKEOVER = [True, False]
SANITIZED = "PICOWS_SANITIZE" in os.environ
# As the build was told; in the children that run on another one, too.
CHOSEN = os.environ.get("PICOWS_ZLIB")

# Sizes around every buffer on the way: the first output (1 KiB), what lets other threads run
# (16 KiB), a window (32 KiB), a mapping (128 KiB).
SIZES = [0, 1, 2, 3, 63, 64, 1000, 1023, 1024, 1025, 4096, 16_383, 16_384, 32_768, 65_536, 200_000]

both = pytest.mark.parametrize("takeover", TAKEOVER, ids=["takeover", "no takeover"])
each_window = pytest.mark.parametrize("bits", BITS)


def deflater(bits: int = 15, takeover: bool = True, level: int = 1, memory: int = 5) -> Deflater:
    return Deflater(bits, takeover, level, memory)


def inflate(inflater: Inflater, payload: bytes, limit: int = 64 * MIB) -> bytes:
    return inflater.inflate_bytes(payload, True, limit)


def contents() -> list[tuple[str, bytes]]:
    choose = random.Random(7692)
    return [
        *((f"far {size}", far(size)) for size in SIZES),
        *((f"noise {size}", choose.randbytes(size)) for size in SIZES),
        *((f"zeros {size}", bytes(size)) for size in SIZES),
        ("ticks", b'{"symbol":"BTCUSDT","price":"%d","qty":"0.1"}' * 50),
    ]


def test_the_build_is_the_one_that_is_meant() -> None:
    assert (CHOSEN or "zlib") == ZLIB


# -- what goes out ---------------------------------------------------------------------------------


@both
@each_window
def test_a_peer_inflates_each_message(bits: int, takeover: bool) -> None:
    """With the window that was agreed on and not a byte more, and alone if that was agreed on."""
    ours = deflater(bits, takeover)
    peer = PeerInflater(bits, takeover)
    for name, data in contents():
        payload = ours.deflate_bytes(data, True)
        assert not payload.endswith(TAIL)
        assert peer.message(payload) == data, name


@both
def test_megabytes(takeover: bool) -> None:
    """More than zlib itself, and either buffer, holds at once."""
    ours, peer = deflater(takeover=takeover), PeerInflater(takeover=takeover)
    theirs, inflater = PeerDeflater(takeover=takeover), Inflater(15, takeover)
    for data in (bytes(3 * MIB), random.Random(0).randbytes(3 * MIB), far(MIB) + b"end"):
        assert peer.message(ours.deflate_bytes(data, True)) == data
        assert inflate(inflater, theirs.message(data)) == data


@pytest.mark.parametrize("memory", range(1, 10))
@pytest.mark.parametrize("level", range(1, 10))
def test_each_level(level: int, memory: int) -> None:
    for bits, takeover in ((9, True), (15, True), (12, False)):
        ours = deflater(bits, takeover, level, memory)
        peer = PeerInflater(bits, takeover)
        for size in (0, 10, 5000, 70_000):
            data = far(size, level)
            payload = ours.deflate_bytes(data, True)
            assert peer.message(payload) == data
            # far() is about twice as long as what it says; of nothing one byte is left.
            assert size < 5000 or len(payload) < size


@both
def test_takeover_is_used_and_its_absence_kept_to(takeover: bool) -> None:
    ours = deflater(takeover=takeover)
    data = random.Random(1).randbytes(2000)
    first, second, third = (ours.deflate_bytes(data, True) for _ in range(3))
    if takeover:
        assert len(second) < 100 < 2000 <= len(first)
    else:
        assert first == second == third


def cuts(data: bytes, choose: random.Random, count: int) -> list[bytes]:
    edges = sorted(choose.randint(0, len(data)) for _ in range(count - 1))
    return [data[a:b] for a, b in itertools.pairwise([0, *edges, len(data)])]


@both
@each_window
def test_a_peer_inflates_each_fragment_as_it_comes(bits: int, takeover: bool) -> None:
    """Also empty ones, in every place; and each fragment says all that it was given."""
    choose = random.Random(bits)
    ours = deflater(bits, takeover)
    peer = PeerInflater(bits, takeover)
    for _ in range(60):
        parts = cuts(far(choose.choice([0, 5, 3000, 60_000]), bits), choose, choose.randint(2, 9))
        parts.insert(choose.randrange(len(parts) + 1), b"")
        for index, part in enumerate(parts):
            fin = index == len(parts) - 1
            assert peer.piece(ours.deflate_bytes(part, fin), fin) == part


def test_line_22_nothing_but_empty_messages_and_fragments() -> None:
    for takeover in TAKEOVER:
        ours = deflater(takeover=takeover)
        peer = PeerInflater(takeover=takeover)
        fins = [True, True, False, True, False, False, False, True, True, False, False, True]
        for fin in fins * 20:
            payload = ours.deflate_bytes(b"", fin)
            # Section 7.2.3.6: the end of a message is a block, not nothing.
            assert payload or not fin
            assert len(payload) <= 5
            assert peer.piece(payload, fin) == b""
        assert peer.message(ours.deflate_bytes(b"and then", True)) == b"and then"


def test_examples_of_rfc_7692_section_7_2_3() -> None:
    ours = deflater(level=6, memory=8)
    assert ours.deflate_bytes(b"Hello", True) == bytes.fromhex("f248cdc9c90700")
    assert ours.deflate_bytes(b"Hello", True) == bytes.fromhex("f200110000")
    alone = deflater(takeover=False, level=6, memory=8)
    for _ in range(2):
        assert alone.deflate_bytes(b"Hello", True) == bytes.fromhex("f248cdc9c90700")


def test_noise_costs_next_to_nothing() -> None:
    """Stored blocks: five bytes for each, whose size depends on the memory level."""
    choose = random.Random(3)
    for memory, size in itertools.product((1, 5, 9), (100, 16_384, 1_000_000)):
        # With level 1 zlib-ng stores nothing: its codes are the fixed ones, of up to 9 bits.
        ours = deflater(level=2 if ZLIB == "zlib-ng" else 1, memory=memory)
        for _ in range(2):
            payload = ours.deflate_bytes(choose.randbytes(size), True)
            assert len(payload) <= size * 1.05 + 20


def test_nothing_makes_a_message_an_eighth_longer() -> None:
    """The worst that any of the libraries makes of what its codes do not fit."""
    noise = bytes(random.Random(4).choices(range(144, 256), k=100_000))
    for level, memory, size in itertools.product((1, 2, 6, 9), (1, 9), (1, 100, 100_000)):
        payload = deflater(level=level, memory=memory).deflate_bytes(noise[:size], True)
        assert len(payload) <= size * 9 / 8 + 20


# -- what comes in ---------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("bits", [8, *BITS])
def test_we_inflate_what_a_peer_says(bits: int, takeover: bool) -> None:
    for level in (1, 6, 9):
        peer = PeerDeflater(bits, takeover, level)
        ours = Inflater(bits, takeover)
        for name, data in contents():
            assert inflate(ours, peer.message(data)) == data, name


@both
@each_window
def test_line_16_compressed_payloads_cut_anywhere(bits: int, takeover: bool) -> None:
    """Cut where a fragment ends, in the middle of blocks, at every byte."""
    choose = random.Random(bits)
    peer = PeerDeflater(bits, takeover)
    ours = Inflater(bits, takeover)
    for size in (0, 1, 50, 3000):
        data = far(size, bits)
        for count in (1, 2, 3, 10):
            parts = cuts(peer.message(data), choose, count)
            out = [
                ours.inflate_bytes(part, index == count - 1, 64 * MIB)
                for index, part in enumerate(parts)
            ]
            assert b"".join(out) == data
        payload = peer.message(data)
        out = [ours.inflate_bytes(bytes([octet]), False, 64 * MIB) for octet in payload]
        assert b"".join(out) + ours.inflate_bytes(b"", True, 64 * MIB) == data


@given(
    st.lists(
        st.tuples(
            st.lists(st.binary(max_size=60), min_size=1, max_size=5),
            st.booleans(),
        ),
        max_size=8,
    ),
    st.sampled_from(BITS),
    st.booleans(),
    st.integers(1, 9),
    st.integers(1, 9),
    st.randoms(use_true_random=False),
)
@settings(max_examples=300)
def test_any_messages(
    messages: list[tuple[list[bytes], bool]],
    bits: int,
    takeover: bool,
    level: int,
    memory: int,
    choose: random.Random,
) -> None:
    """Through ours, and cut anew on the way."""
    sending = Deflater(bits, takeover, level, memory)
    receiving = Inflater(bits, takeover)
    for parts, long in messages:
        if long:
            parts = [part * 300 for part in parts]
        last = len(parts) - 1
        payload = b"".join(
            sending.deflate_bytes(part, index == last) for index, part in enumerate(parts)
        )
        pieces = cuts(payload, choose, choose.randint(1, 4))
        got = b"".join(
            receiving.inflate_bytes(piece, index == len(pieces) - 1, MIB)
            for index, piece in enumerate(pieces)
        )
        assert got == b"".join(parts)


def test_examples_of_rfc_7692_that_come_in() -> None:
    def hello(*payloads: str) -> None:
        inflater = Inflater(15, True)
        for payload in payloads:
            assert inflate(inflater, bytes.fromhex(payload)) == b"Hello"

    hello("f248cdc9c90700", "f200110000", "f200110000")
    hello("000500faff48656c6c6f00")  # 7.2.3.3: no compression
    hello("f348cdc9c9070000", "f248cdc9c90700")  # 7.2.3.4: BFINAL
    hello("f24805000000" + "ffff" + "cac9c90700")  # 7.2.3.5: two blocks
    inflater = Inflater(15, True)
    parts = [("f248cd", False), ("c9c90700", True)]  # 7.2.3.1: fragments
    out = [inflater.inflate_bytes(bytes.fromhex(part), fin, 100) for part, fin in parts]
    assert b"".join(out) == b"Hello"


# -- windows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, *BITS])
def test_line_29_a_window_is_as_large_as_agreed(bits: int) -> None:
    """What reaches back a whole window, over the end of a message; a byte more is no data."""
    size = 1 << bits
    data = random.Random(bits).randbytes(size + 1)
    for distance in (1, 257, size - 1, size):
        if distance > size:
            continue
        inflater = Inflater(bits, True)
        assert inflate(inflater, stored_block(data) + b"\0") == data
        expected = bytearray(data)
        for _ in range(258):
            expected.append(expected[-distance])
        assert inflate(inflater, fixed_block(distance=distance)) == expected[size + 1 :]
    if bits < 15:
        inflater = Inflater(bits, True)
        inflate(inflater, stored_block(data) + b"\0")
        with pytest.raises(ValueError, match="corrupt"):
            inflate(inflater, fixed_block(distance=size + 1))


def test_line_29_without_takeover_nothing_reaches_back() -> None:
    inflater = Inflater(15, False)
    assert inflate(inflater, fixed_block(b"abc", 3)) == b"abc" * 87
    with pytest.raises(ValueError, match="corrupt"):
        inflate(inflater, fixed_block(b"ab", 3))


# -- BFINAL (RFC 7692 section 7.2.3.4) -------------------------------------------------------------


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_the_window_goes_on_behind_a_final_block(bits: int) -> None:
    size = 1 << bits
    data = random.Random(bits).randbytes(size)
    inflater = Inflater(bits, True)
    # The final block is the last one of a message, ...
    assert (
        inflate(inflater, stored_block(data[:-5]) + stored_block(data[-5:], True) + b"\0") == data
    )
    assert inflate(inflater, fixed_block(distance=size)) == data[:258]
    # ... empty, ...
    assert inflate(inflater, stored_block(data) + stored_block(b"", True) + b"\0") == data
    assert inflate(inflater, fixed_block(distance=size)) == data[:258]
    # ... in the middle of one, in which what follows it reaches back over it, ...
    payload = stored_block(data, True) + fixed_block(distance=size, final=True)
    assert inflate(inflater, payload) == data + data[:258]
    # ... and several times.
    many = b"".join(stored_block(data[start : start + 5], True) for start in range(0, 250, 5))
    assert (
        inflate(inflater, many + fixed_block(distance=250)) == data[:250] + (data[:250] * 2)[:258]
    )


def test_final_blocks_without_takeover() -> None:
    inflater = Inflater(15, False)
    payload = stored_block(b"abc", True) + fixed_block(b"def", 6)
    expected = b"abcdef" + (b"abcdef" * 43)[:258]
    for _ in range(3):
        assert inflate(inflater, payload) == expected
    assert inflate(inflater, stored_block(b"abc", True) + b"\0") == b"abc"
    with pytest.raises(ValueError, match="corrupt"):
        inflate(inflater, fixed_block(distance=3))


@both
def test_a_final_block_that_the_tail_completes(takeover: bool) -> None:
    """
    Section 7.2.1 wants an empty stored block at the end, of which four bytes are left out: with
    BFINAL that is one, too.
    """
    inflater = Inflater(15, takeover)
    for ahead in (b"", stored_block(b"data"), fixed_block(b"da") + TAIL + stored_block(b"ta")):
        data = b"data" if ahead else b""
        assert zlib.decompress(ahead + b"\x01" + TAIL, -15) == data
        for _ in range(2):
            assert inflate(inflater, ahead + b"\x01") == data
            assert inflate(inflater, fixed_block(b"next")) == b"next"
            # What Z_FINISH makes of it, at level 0.
            z = zlib.compressobj(0, zlib.DEFLATED, -15)
            payload = z.compress(data) + z.flush(zlib.Z_FINISH)
            if payload.endswith(TAIL):
                assert inflate(inflater, payload.removesuffix(TAIL)) == data


@both
@pytest.mark.parametrize("behind", [b"", b"\0"], ids=["nothing behind", "as section 7.2.3.4 says"])
def test_final_blocks_of_each_size(takeover: bool, behind: bytes) -> None:
    """Up to 1 KiB the tail is put to the payload, above zlib gets it by itself."""
    inflater = Inflater(15, takeover)
    for size in (1, 100, *range(1015, 1030)):
        data = far(size)
        assert inflate(inflater, stored_block(data, True) + behind) == data
        assert inflate(inflater, stored_block(data) + b"\0") == data


@pytest.mark.parametrize("bits", [9, 15])
def test_final_blocks_cut_anywhere(bits: int) -> None:
    peer = PeerDeflater(bits)
    data = far(600, 5)
    payload = peer.final(data)
    inflater = Inflater(bits, True)
    for at in range(len(payload) + 1):
        first = inflater.inflate_bytes(payload[:at], False, MIB)
        assert first + inflater.inflate_bytes(payload[at:], True, MIB) == data
    out = [inflater.inflate_bytes(bytes([octet]), False, MIB) for octet in payload]
    assert b"".join(out) + inflater.inflate_bytes(b"", True, MIB) == data


def test_final_blocks_between_others() -> None:
    """A peer that sets BFINAL now and then, and begins with a window of nothing behind it."""
    choose = random.Random(77)
    peer = PeerDeflater()
    inflater = Inflater(15, True)
    for number in range(200):
        data = far(choose.choice([0, 1, 100, 5000]), number)
        payload = peer.final(data) if choose.random() < 0.5 else peer.message(data)
        assert inflate(inflater, payload) == data


# -- line 26: bombs and limits ---------------------------------------------------------------------


def shapes(size: int) -> Iterator[list[bytes]]:
    """`size` bytes that inflate, in one and in many pieces, small and large ones."""
    for fragments in (1, 2, 7, 1000):
        yield bomb(size, fragments)
    noise = random.Random(size).randbytes(size)
    yield PeerDeflater().pieces([noise])
    yield PeerDeflater().pieces([noise[:-1], noise[-1:]])
    yield PeerDeflater().pieces([noise, b""])
    yield PeerDeflater().pieces([b"", noise, b"", b""])
    payload = PeerDeflater().message(noise)
    yield [payload[:-1], payload[-1:]]
    yield [payload[at : at + 50] for at in range(0, len(payload), 50)]


@pytest.mark.parametrize("limit", [0, 1, 2, 100, 1023, 1024, 1025, 4096, 40_000, 150_000])
def test_line_26_limit(limit: int) -> None:
    """At limit - 1, limit and limit + 1; bounded pieces, each with what is left of the limit."""
    for size in (limit - 1, limit, limit + 1):
        if size < 0:
            continue
        for pieces in shapes(size):
            inflater = Inflater(15, True)
            left = limit
            got = b""
            overflown = False
            for index, piece in enumerate(pieces):
                try:
                    out = inflater.inflate_bytes(piece, index == len(pieces) - 1, left)
                except OverflowError:
                    overflown = True
                    break
                got += out
                # Down to a budget of 0, which must not mean "no limit".
                left -= len(out)
            assert overflown == (size > limit)
            assert len(got) <= limit
            if not overflown:
                assert len(got) == size
                assert left == limit - size


def test_line_26_a_budget_of_nothing() -> None:
    for limit in (0, 1):
        for size in (limit + 1, limit + 2, 1000, 10 * MIB):
            inflater = Inflater(15, True)
            with pytest.raises(OverflowError):
                inflate(inflater, bomb(size)[0], limit)
    # What says nothing needs no budget.
    inflater = Inflater(15, True)
    for payload in (b"\0", TAIL[:0] + b"\0" + TAIL + b"\0", stored_block(b"", True) + b"\0"):
        assert inflate(inflater, payload, 0) == b""
    assert inflater.inflate_bytes(b"", False, 0) == b""


def test_a_message_that_was_too_big_for_one_fits_another() -> None:
    """The limit is of the caller: nothing of it stays in the codec's own state."""
    payload = PeerDeflater().message(far(100_000))
    for _ in range(2):
        with pytest.raises(OverflowError, match="99999"):
            inflate(Inflater(15, True), payload, 99_999)
        assert inflate(Inflater(15, True), payload, 100_000) == far(100_000)


# -- what is no deflate ----------------------------------------------------------------------------


@given(st.binary(max_size=200), st.booleans(), st.sampled_from([8, 9, 15]), st.booleans())
@settings(max_examples=1000)
def test_garbage(data: bytes, fin: bool, bits: int, takeover: bool) -> None:
    inflater = Inflater(bits, takeover)
    for piece in (data[:50], data[50:]):
        try:
            assert len(inflater.inflate_bytes(piece, fin, 10_000)) <= 10_000
        except (ValueError, OverflowError):
            return


def test_broken_bits() -> None:
    """Each bit of a message turned over: other bytes, or a refusal, but never more than allowed."""
    data = far(400)
    payload = PeerDeflater().message(data)
    refused = 0
    for bit in range(8 * len(payload)):
        broken = bytearray(payload)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            out = inflate(Inflater(15, True), bytes(broken), 2000)
        except (ValueError, OverflowError):
            refused += 1
        else:
            assert len(out) <= 2000
    assert refused > 0


@both
def test_a_message_that_stops_inside_a_block(takeover: bool) -> None:
    """
    The tail of section 7.2.2 would be read as data. What was inflated is not the message, and with
    takeover what follows would not be the next one.
    """
    text = far(300).hex().encode()
    for data, level in ((b"hello, world, " * 20 + b"end", 9), (text, 1), (b"x" * 10, 6)):
        payload = PeerDeflater(level=level).message(data)
        for end in range(len(payload)):
            with pytest.raises(ValueError, match="corrupt"):
                inflate(Inflater(15, takeover), payload[:end])
    stored = stored_block(b"stored as it is")
    # Its first byte alone is an empty message; four bytes short, the tail completes it.
    for end in {*range(2, len(stored))} - {len(stored) - 4}:
        with pytest.raises(ValueError, match="corrupt"):
            inflate(Inflater(15, takeover), stored[:end])


@both
def test_messages_without_the_byte_that_section_7_2_3_asks_for(takeover: bool) -> None:
    """
    A message of no bytes at all, and one that ends with BFINAL and nothing behind it: with the tail
    they are half a block. A refusal, or what was meant; and then what follows is intact.
    """
    data = far(300)
    for ahead, payload, expected in (
        (b"", b"", b""),
        (data, b"", b""),
        (b"", PeerDeflater().final(data)[:-1], data),
        (data, stored_block(b"stored", True), b"stored"),
    ):
        peer = PeerDeflater(takeover=takeover)
        inflater = Inflater(15, takeover)
        assert inflate(inflater, peer.message(ahead)) == ahead
        try:
            out = inflate(inflater, payload)
        except ValueError:
            continue
        assert out == expected
        # Without a reference to anything behind it.
        assert inflate(inflater, PeerDeflater().message(data)) == data


# -- the state -------------------------------------------------------------------------------------


class Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated() -> int:
    """Bytes that malloc has handed out in this thread's arena, and by mapping."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo2
    gc.collect()
    info = libc.mallinfo2()
    return int(info.uordblks + info.hblkhd)


counts_memory = pytest.mark.skipif(
    SANITIZED or sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="asks glibc for what is allocated",
)


def cost_of_each(make: Callable[[], object], count: int = 50) -> float:
    kept = [make() for _ in range(3)]
    before = allocated()
    kept += [make() for _ in range(count)]
    return (allocated() - before) / count


@counts_memory
def test_state_is_made_with_the_first_message_and_goes_with_its_object() -> None:
    data = far(40_000)
    payload = PeerDeflater(9).message(data)

    def used_inflater(bits: int) -> Inflater:
        inflater = Inflater(bits, True)
        inflate(inflater, payload)
        return inflater

    def used_deflater(bits: int, memory: int) -> Deflater:
        ours = deflater(bits, memory=memory)
        ours.deflate_bytes(data, True)
        return ours

    assert cost_of_each(lambda: Inflater(15, True)) < 400
    assert cost_of_each(lambda: deflater(15, memory=9)) < 400
    # zlib's own figures: a window, and four of them and what the memory level says. zlib-ng has one
    # size of window to inflate with, and one of hash table, 128 KiB, to deflate with.
    for bits in (9, 12, 15):
        cost = cost_of_each(lambda: used_inflater(bits))
        window = 1 << (15 if ZLIB == "zlib-ng" else bits)
        windows = window * (2 if ZLIB == "python" else 1)
        assert windows < cost < windows + 12_000
        for memory in (1, 5, 9):
            cost = cost_of_each(lambda: used_deflater(bits, memory))
            table = 128 * KIB if ZLIB == "zlib-ng" else 0
            theirs = (1 << bits + 2) + (1 << memory + 9) + table
            assert (1 << bits + 1) < cost < theirs + 12_000
    before = allocated()
    for _ in range(20):
        inflater = Inflater(15, True)
        inflate(inflater, payload)
        used_deflater(15, 9)
        # In the middle of a message.
        inflater.inflate_bytes(payload[:20], False, MIB)
        del inflater
    assert allocated() - before < 10_000


def test_two_threads_at_once() -> None:
    """Large pieces run without the GIL, each on its own state."""
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            ours = deflater()
            inflater = Inflater(15, True)
            for number in range(8):
                data = far(300_000, seed * 100 + number)
                assert inflate(inflater, ours.deflate_bytes(data, True)) == data
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_it_is_zlib_that_both_mean() -> None:
    """The windows above are those of this library; another one may look back further."""
    assert zlib.ZLIB_RUNTIME_VERSION.startswith("1.")


# -- the other builds ------------------------------------------------------------------------------


class OtherBuild(NamedTuple):
    zlib: str
    packages: Path

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Python, on this build."""
        # Python 3.10 searches the current folder first. Not the one of the build in place.
        return subprocess.run(
            [sys.executable, *command],
            cwd=ROOT / "tests",
            env=dict(
                os.environ,
                PYTHONPATH=str(self.packages),
                PYTHONSAFEPATH="1",
                PICOWS_ZLIB=self.zlib,
            ),
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="session", params=["python", "zlib-ng"])
def other_build(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> OtherBuild:
    """picows with that zlib. One module is another than in the release build, if there is one."""
    if request.param == "zlib-ng" and not (ZLIB_NG / "libz-ng.a").exists():
        pytest.skip("no build/zlib-ng: make zlib-ng")
    folder = tmp_path_factory.mktemp(request.param)
    platform = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    release = ROOT / "build" / "release" / f"lib.{platform}"
    if release.exists():
        shutil.copytree(release, folder / "lib", ignore=shutil.ignore_patterns("deflate.*"))
    env = {name: value for name, value in os.environ.items() if name != "PICOWS_BUILD"}
    env |= {
        "PICOWS_ZLIB": request.param,
        "C_INCLUDE_PATH": str(ZLIB_NG),
        "LIBRARY_PATH": str(ZLIB_NG),
    }
    options = ["--build-base", folder / "objects", "--build-lib", folder / "lib"]
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build", *options],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return OtherBuild(request.param, folder / "lib")


if not CHOSEN:

    def test_other_builds_are_what_was_asked_for(other_build: OtherBuild) -> None:
        program = "import picows, picows.wire.deflate as d; print(d.ZLIB, picows.__file__)"
        done = other_build.run("-c", program)
        assert done.returncode == 0, done.stderr
        zlib_, where = done.stdout.split(maxsplit=1)
        assert zlib_ == other_build.zlib
        assert Path(where.strip()).is_relative_to(other_build.packages)

    @pytest.mark.parametrize(
        ("file", "chosen"),
        [
            ("tests/wire/test_deflate.py", ""),
            (
                "tests/aio/test_deflate.py",
                "any_messages or final or bombs or stops_inside or ours",
            ),
        ],
    )
    def test_other_builds_pass_the_same_tests(
        other_build: OtherBuild, file: str, chosen: str
    ) -> None:
        options = ["-q", "-p", "no:cacheprovider", "-k", chosen]
        done = other_build.run("-m", "pytest", *options, ROOT / file)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr
