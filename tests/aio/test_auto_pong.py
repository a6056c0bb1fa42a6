"""Auto pong: every PING of a peer that reads is answered; of one that does not, the newest alone,
and nothing piles up (line 43). Off, a PING is the listener's own.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from aio.traffic import (
    SIDES,
    Recorder,
    connected,
    frame_to,
    our_socket,
    read_frame,
    read_frames,
    read_payloads,
    read_to_end,
    resident_bytes,
    some_iterations,
)

from picows import WSFrame, WSMsgType, WSTransport
from raw_peer import CLOSE, PING, PONG, TEXT, RawFrame, RawPeer, in_thread

both_sides = pytest.mark.parametrize("side", SIDES)

# Far more than the buffers between us and the peer take in PONGs.
FLOOD = 20_000


def numbered_ping(side: str, number: int) -> bytes:
    return frame_to(side, PING, b"%0125d" % number)


def numbered_pings(side: str, numbers: Iterable[int]) -> bytes:
    return b"".join(numbered_ping(side, number) for number in numbers)


def make_small(transport: WSTransport) -> None:
    """Let our socket take little, and the transport below go on late: the kernel may make room for
    some more of what waits.
    """
    our_socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    transport.underlying_transport.set_write_buffer_limits(high=128 * 1024, low=1)


def queued(transport: WSTransport) -> int:
    size: int = transport.underlying_transport.get_write_buffer_size()
    return size


async def flooded(side: str, listener: Recorder, peer: RawPeer, numbers: range) -> None:
    """The peer has sent these, and we have worked them off."""
    seen = len(listener.payloads)
    await in_thread(peer.send, numbered_pings(side, numbers), frame_to(side, TEXT, b"mark"))
    await listener.until_frames(seen + 1)


async def until_paused(listener: Recorder) -> int:
    """Send until the queue is too long; returns how many frames that took."""
    make_small(listener.transport)
    count = 0
    while not listener.pauses:
        listener.transport.send(WSMsgType.BINARY, bytes(64 * 1024))
        count += 1
    return count


@both_sides
async def test_every_ping_of_a_peer_that_reads_is_answered_in_order(net: Any, side: str) -> None:
    """Also those of one read, on the server gathered with the replies between them."""
    listener = Recorder(lambda transport, frame: transport.send(WSMsgType.TEXT, frame))
    async with connected(net, side, listener) as peer:
        for count in (1, 200):
            pieces = []
            for number in range(count):
                pieces += [numbered_ping(side, number), frame_to(side, TEXT, b"%d" % number)]
            peer.send(*pieces)
            frames = await in_thread(read_frames, peer, 2 * count)
            wanted = [
                (opcode, payload % number)
                for number in range(count)
                for opcode, payload in ((PONG, b"%0125d"), (TEXT, b"%d"))
            ]
            assert [(frame.opcode, frame.payload) for frame in frames] == wanted


@both_sides
async def test_of_a_flood_the_newest_ping_alone_is_answered_when_the_peer_reads(
    net: Any, side: str
) -> None:
    """What the socket and the queue took before it was full was answered in order; while it is full
    it does not grow by a byte.
    """
    listener = Recorder()
    async with connected(net, side, listener, receive_buffer=4096) as peer:
        transport = listener.transport
        make_small(transport)
        await flooded(side, listener, peer, range(FLOOD))
        assert (listener.pauses, listener.resumes) == (1, 0)
        full = queued(transport)
        for turn in range(1, 4):
            await flooded(side, listener, peer, range(turn * FLOOD, (turn + 1) * FLOOD))
            assert queued(transport) <= full
        newest = 4 * FLOOD - 1
        numbers = await in_thread(read_numbers_to, peer, newest)
        answered = len(numbers) - 1
        assert 0 < answered < FLOOD
        assert numbers == [*range(answered), newest]
        # And then it goes on as ever.
        await listener.until(lambda: listener.resumes)
        await flooded(side, listener, peer, range(3))
        assert await in_thread(read_numbers_to, peer, 2) == [0, 1, 2]


def read_numbers_to(peer: RawPeer, last: int) -> list[int]:
    numbers: list[int] = []
    while not numbers or numbers[-1] != last:
        frame = read_frame(peer)[0]
        assert frame.opcode == PONG
        numbers.append(int(frame.payload))
    return numbers


@both_sides
async def test_behind_data_that_waits_there_is_one_pong(net: Any, side: str) -> None:
    listener = Recorder()
    async with connected(net, side, listener, receive_buffer=4096) as peer:
        count = await until_paused(listener)
        full = queued(listener.transport)
        await flooded(side, listener, peer, range(FLOOD))
        assert queued(listener.transport) <= full
        frames = await in_thread(read_frames, peer, count + 1)
        assert [len(frame.payload) for frame in frames[:-1]] == [64 * 1024] * count
        assert (frames[-1].opcode, int(frames[-1].payload)) == (PONG, FLOOD - 1)
        # There is no second one.
        listener.transport.send(WSMsgType.TEXT, b"next")
        assert await in_thread(read_payloads, peer, 1) == [b"next"]


@both_sides
@pytest.mark.parametrize("end", ["send_close", "disconnect"])
async def test_a_pong_that_waits_is_not_sent_behind_the_end(net: Any, side: str, end: str) -> None:
    """RFC 6455 section 5.5.1: nothing behind a CLOSE, and nothing is answered when we leave."""
    listener = Recorder()
    async with connected(net, side, listener, receive_buffer=4096) as peer:
        count = await until_paused(listener)
        await flooded(side, listener, peer, range(10))
        if end == "send_close":
            listener.transport.send_close(1000)
            # Those that come behind it are not answered either.
            await flooded(side, listener, peer, range(10, 20))
            await in_thread(read_payloads, peer, count)
            frame: RawFrame = await in_thread(peer.recv_frame)
            assert (frame.opcode, frame.payload) == (CLOSE, b"\x03\xe8")
            await some_iterations()
            listener.transport.disconnect()
            assert await in_thread(read_to_end, peer) == []
        else:
            listener.transport.disconnect()
            frames = await in_thread(read_to_end, peer)
            assert len(frames) == count
            assert {frame.opcode for frame in frames} == {2}


linux_only = pytest.mark.skipif(
    sys.platform != "linux" or "PICOWS_SANITIZE" in os.environ,
    reason="reads /proc/self, where ASan's quarantine would be counted",
)


@linux_only
@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_memory_is_flat_under_a_flood(net: Any, side: str) -> None:
    """50 MB of PINGs to which the peer never reads an answer."""
    listener = Recorder()
    block = numbered_pings(side, range(8_000))
    async with connected(net, side, listener, receive_buffer=4096) as peer:
        await flooded(side, listener, peer, range(FLOOD))
        before = resident_bytes()
        for turn in range(50):
            await in_thread(peer.send, block, frame_to(side, TEXT, b"mark"))
            await listener.until_frames(2 + turn)
        # A list of PONGs that wait would be 80 MB.
        assert resident_bytes() - before < 4 * 1024 * 1024


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_a_pong_that_cannot_be_sent_raises_nowhere(
    net: Any, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody called `send`, so there is nobody to be told; the connection ends."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        with socket.socket(fileno=os.dup(our_socket(listener.transport).fileno())) as ours:
            ours.shutdown(socket.SHUT_WR)
        peer.send(frame_to(side, PING, b"p"), frame_to(side, TEXT, b"behind"))
        await listener.until_gone()
        await listener.transport.wait_disconnected()
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_off_a_ping_is_the_listeners_own(net: Any, side: str) -> None:
    """With the guide's own lines; a flood of them is answered or not, as the listener likes."""

    class Answers(Recorder):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            super().on_ws_frame(transport, frame)
            if frame.msg_type == WSMsgType.PING and b"quiet" not in self.payloads:
                transport.send_pong(frame.get_payload_as_bytes())

    listener = Answers()
    async with connected(net, side, listener, enable_auto_pong=False) as peer:
        peer.send(frame_to(side, PING), numbered_pings(side, range(5)))
        frames = await in_thread(read_frames, peer, 6)
        assert {frame.opcode for frame in frames} == {PONG}
        assert [frame.payload for frame in frames] == [b"", *(b"%0125d" % n for n in range(5))]
        assert listener.payloads == [frame.payload for frame in frames]
        # Nothing is sent behind the listener's back.
        peer.send(frame_to(side, TEXT, b"quiet"), numbered_pings(side, range(1000)))
        await listener.until_frames(6 + 1 + 1000)
        listener.transport.send(WSMsgType.TEXT, b"next")
        assert await in_thread(read_payloads, peer, 1) == [b"next"]


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_each_side_has_its_own_setting(net: Any) -> None:
    """A client that answers by itself, and a server that does not; and the other way round."""
    for answering, other in (("client", "server"), ("server", "client")):
        ours = {side: Recorder() for side in SIDES}
        server = await net.serve(
            lambda request: ours["server"], enable_auto_pong=answering == "server"
        )
        await net.connect(lambda: ours["client"], server, enable_auto_pong=answering == "client")
        await ours["server"].until(lambda: ours["server"].events)
        for listener in ours.values():
            listener.transport.send_ping(b"from " + (b"it" if listener is ours[other] else b"me"))
        # The PING of who answers, which is not answered, and the PONG for one's own.
        await ours[other].until_frames(2)
        assert sorted(ours[other].payloads) == [b"from it", b"from me"]
        ours[other].transport.send(WSMsgType.TEXT, b"end")
        await ours[answering].until_frames(1)
        assert ours[answering].payloads == [b"end"]
        ours[answering].transport.disconnect()
        await ours[other].until_gone()
        await server.shutdown()
