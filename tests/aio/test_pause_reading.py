"""pause_reading as a slow consumer uses it: over and over, at any moment, beside others, for
hundreds of megabytes. Each of its rules by itself is in test_reading.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import sys
from typing import Any

import pytest
from aio.traffic import (
    SIDES,
    Recorder,
    connected,
    frame_to,
    octets,
    read_payloads,
    read_to_end,
    resident_bytes,
    some_iterations,
    until_read,
)

from picows import WSFrame, WSMsgType, WSTransport
from raw_peer import BINARY, CLOSE, TEXT, RawPeer, in_thread

both_sides = pytest.mark.parametrize("side", SIDES)
MIB = 1024 * 1024

linux_only = pytest.mark.skipif(
    sys.platform != "linux" or "PICOWS_SANITIZE" in os.environ,
    reason="reads /proc/self, where ASan's quarantine would be counted",
)


class Moody(Recorder):
    """Pauses and resumes as chance has it: inside the callback, right behind it, some iterations
    later, several times in a row.
    """

    def __init__(self, seed: str) -> None:
        super().__init__(self.mood)
        self.random = random.Random(seed)
        self.paused = False
        # Frames that came though reading was paused.
        self.unasked = 0

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.unasked += self.paused
        super().on_ws_frame(transport, frame)

    def pause(self) -> None:
        self.paused = True
        self.transport.pause_reading()

    def resume(self) -> None:
        before = len(self.payloads)
        self.paused = False
        self.transport.resume_reading()
        assert len(self.payloads) == before, "delivered inside resume_reading()"

    def mood(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = self.random.randrange(6)
        if kind == 0:
            self.pause()
            asyncio.get_running_loop().call_soon(self.resume)
        elif kind == 1:
            self.pause()
            self.resume()
        elif kind == 2:
            self.pause()
            asyncio.get_running_loop().call_later(0.001, self.resume)
        elif kind == 3:
            self.pause()
            self.pause()
            self.resume()
            self.pause()
            asyncio.get_running_loop().call_soon(self.change_its_mind)

    def change_its_mind(self) -> None:
        """Pauses again before the resume took place."""
        self.resume()
        self.pause()
        asyncio.get_running_loop().call_soon(self.resume)


@both_sides
async def test_whenever_it_pauses_every_frame_comes_once_in_order_and_none_meanwhile(
    net: Any, side: str
) -> None:
    sizes = [n * n * 11 % 700 for n in range(300)] + [n * 9_973 for n in range(1, 20)]
    sizes += [300_000, 0, 300_000, 1, 5_000, 5_000] * 2 + [20] * 200
    payloads = [octets(size, number) for number, size in enumerate(sizes)]
    listener = Moody(f"{net.loop_kind} {side}")
    async with connected(net, side, listener) as peer:
        sending = asyncio.ensure_future(
            in_thread(peer.send, *(frame_to(side, BINARY, each) for each in payloads))
        )
        await listener.until_frames(len(sizes))
        await sending
        await some_iterations()
        assert listener.unasked == 0
        assert list(map(len, listener.payloads)) == sizes
        assert listener.payloads == payloads
        # Nothing of that is left: what comes next comes at once.
        listener.react = None
        listener.resume()
        peer.send(frame_to(side, TEXT, b"next"))
        await listener.until_frames(len(sizes) + 1)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.net(tls=(True,), aiofastnet=(None,))
async def test_what_the_transport_below_had_read_when_it_was_paused_comes_by_itself(
    net: Any, side: str
) -> None:
    """One read of the TLS below brings many records. The peer sends nothing behind them."""
    payloads = [octets(40_000), *(octets(1_000, number) for number in range(50))]
    stream = b"".join(frame_to(side, BINARY, each) for each in payloads)

    def pause(transport: WSTransport, frame: WSFrame) -> None:
        transport.pause_reading()
        asyncio.get_running_loop().call_soon(transport.resume_reading)

    listener = Recorder(pause)
    async with connected(net, side, listener) as peer:
        # The first frame is half there, so the rest does not go into the shared buffer.
        peer.send(stream[:9_000])
        await until_read(listener.transport)
        peer.send(stream[9_000:])
        await until_read(listener.transport)
        for _ in range(20):
            await some_iterations()
        assert listener.payloads == payloads


class OneAtATime(Recorder):
    """Takes a frame, and asks for the next one some iterations of the loop later."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.consumed = 0
        self.digest = hashlib.sha256()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.count += 1
        self.consumed += frame.payload_size
        self.digest.update(frame.get_payload_as_memoryview())
        transport.pause_reading()
        self.wait(5)
        self._changed.set()

    def wait(self, iterations: int) -> None:
        if iterations:
            asyncio.get_running_loop().call_soon(self.wait, iterations - 1)
        else:
            self.transport.resume_reading()


@linux_only
@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_slow_consumer_stops_the_sender_and_memory_stays_flat(net: Any, side: str) -> None:
    """80 MB, each frame looked at for a while: what is on its way is the kernel's to hold, and what
    that holds is bounded.
    """
    size, count = 40_000, 2_000
    frame = frame_to(side, BINARY, octets(size))
    sent = 0
    ahead = 0

    def stream(peer: RawPeer) -> None:
        nonlocal sent, ahead
        for _ in range(count):
            peer.send(frame)
            sent += size
            ahead = max(ahead, sent - listener.consumed)

    listener = OneAtATime()
    async with connected(net, side, listener) as peer:
        before = resident_bytes()
        most = 0
        sending = asyncio.ensure_future(in_thread(stream, peer))
        for part in range(1, 11):
            await listener.until(lambda: listener.count >= part * count // 10)
            most = max(most, resident_bytes() - before)
        await sending
        assert listener.count == count
    expected = hashlib.sha256(octets(size) * count)
    assert listener.digest.digest() == expected.digest()
    # Two socket buffers, and what TLS of the loops keeps; not the 80 MB.
    assert ahead < 24 * MIB
    assert most < 8 * MIB


class Counting(Recorder):
    """Looks at each message, keeps none."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.wrong = 0

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.wrong += frame.get_payload_as_bytes() != b"%03d" % (self.count % 1000)
        self.count += 1
        if self.count % 1000 == 0:
            self._changed.set()


@linux_only
@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,), aiofastnet=(None,))
async def test_a_million_tiny_messages_behind_a_pause_are_bounded(net: Any, side: str) -> None:
    """Line 47: in bytes and in objects. Most of them wait at the sender; none is an object of ours
    before it is delivered.
    """
    batches = 1000
    batch = b"".join(frame_to(side, TEXT, b"%03d" % number) for number in range(1000))
    sent = 0

    def stream(peer: RawPeer) -> None:
        nonlocal sent
        for _ in range(batches):
            peer.send(batch)
            sent += 1

    listener = Counting()
    async with connected(net, side, listener) as peer:
        peer.send(batch)
        await listener.until(lambda: listener.count == 1000)
        before, blocks = resident_bytes(), sys.getallocatedblocks()
        listener.transport.pause_reading()
        sending = asyncio.ensure_future(in_thread(stream, peer))
        # Until the sender waits for us: nothing but time can tell.
        last = -1
        while last != sent:
            last = sent
            for _ in range(5):
                await some_iterations()
        assert sent < batches
        assert listener.count == 1000
        assert resident_bytes() - before < 4 * MIB
        listener.transport.resume_reading()
        for part in range(1, 11):
            wanted = 1000 + part * batches * 100
            await listener.until(lambda: listener.count >= wanted)
            assert resident_bytes() - before < 4 * MIB
            assert sys.getallocatedblocks() - blocks < 5_000
        await sending
        assert (listener.count, listener.wrong) == (1_001_000, 0)


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_frames_that_wait_are_not_touched_by_what_others_read(net: Any, side: str) -> None:
    """All connections of a loop read into the same buffer; what was there when this one paused, in
    the middle of a read, is its own from then on.
    """
    payloads = [octets(size, 1) for size in (10, 3_000, 9_000, 1, 20_000, 500)]
    listener = Recorder(lambda transport, frame: transport.pause_reading())
    other = Recorder()
    async with connected(net, side, listener) as peer, connected(net, side, other) as other_peer:
        peer.send(*(frame_to(side, BINARY, each) for each in payloads))
        for count in range(1, len(payloads) + 1):
            await listener.until_frames(count)
            noise = [octets(size, count) for size in (60_000, 5, 100_000, 300_000)]
            await in_thread(other_peer.send, *(frame_to(side, BINARY, each) for each in noise))
            await other.until_frames(4)
            assert other.payloads == noise
            other.payloads.clear()
            assert listener.payloads == payloads[:count]
            listener.transport.resume_reading()


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_sending_goes_on_while_reading_is_paused(net: Any, side: str) -> None:
    """Also what the peer reads slowly: pause_writing and resume_writing are another matter."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        transport = listener.transport
        transport.pause_reading()
        peer.send(frame_to(side, TEXT, b"waits"))
        count = 0
        while not listener.pauses:
            transport.send(WSMsgType.BINARY, octets(1_000_000, count))
            count += 1
        wanted = [octets(1_000_000, number) for number in range(count)]
        assert await in_thread(read_payloads, peer, count) == wanted
        await listener.until(lambda: listener.resumes)
        transport.send_close(1001)
        frame = await in_thread(peer.recv_frame)
        assert (frame.opcode, frame.payload) == (CLOSE, b"\x03\xe9")
        assert listener.payloads == []
        transport.resume_reading()
        await listener.until_frames(1)


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_pausing_and_resuming_without_need_does_nothing(net: Any, side: str) -> None:
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        transport = listener.transport
        # Not paused: there is nothing to resume.
        transport.resume_reading()
        transport.resume_reading()
        peer.send(frame_to(side, TEXT, b"0"))
        await listener.until_frames(1)
        # Paused twice is paused once.
        transport.pause_reading()
        transport.pause_reading()
        peer.send(frame_to(side, TEXT, b"1"))
        await some_iterations()
        assert listener.payloads == [b"0"]
        transport.resume_reading()
        await listener.until_frames(2)
        # Behind a CLOSE of ours frames come until the peer's, and may be held as well.
        transport.send_close(1000)
        transport.pause_reading()
        peer.send(frame_to(side, TEXT, b"2"), frame_to(side, CLOSE, b"\x03\xe8"))
        await some_iterations()
        assert listener.payloads == [b"0", b"1"]
        transport.resume_reading()
        await listener.until_frames(4)
        # Behind the end there is nothing to pause.
        transport.disconnect()
        for each in (transport.pause_reading, transport.resume_reading):
            each()
        assert len(await in_thread(read_to_end, peer)) == 1
        await listener.until_gone()
        for each in (transport.pause_reading, transport.resume_reading):
            each()
        await some_iterations()


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_pausing_in_on_ws_disconnected_does_nothing(net: Any, side: str) -> None:
    class Late(Recorder):
        def on_ws_disconnected(self, transport: WSTransport) -> None:
            super().on_ws_disconnected(transport)
            transport.pause_reading()
            transport.resume_reading()
            transport.resume_reading()

    listener = Late()
    async with connected(net, side, listener) as peer:
        peer.send(frame_to(side, TEXT, b"x"))
        await listener.until_frames(1)
    await some_iterations()
    assert listener.payloads == [b"x"]
