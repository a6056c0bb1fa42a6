"""From the kernel to `on_ws_frame`: however the stream is cut, whoever reads inside a callback, and
while reading is paused: every frame once, whole, in order, and none too early.
"""

import asyncio
import hashlib
import socket
import subprocess
import sys
import threading

import pytest
from aio.traffic import (
    MASK,
    SIDES,
    Recorder,
    connected,
    frame_to,
    octets,
    read_payloads,
    some_iterations,
    something_to_read,
    unread_bytes,
    until_read,
)

from picows import WSMsgType
from raw_peer import BINARY, CONTINUATION, PING, PONG, TEXT, in_thread

# -- however the stream is cut ---------------------------------------------------------------------


def as_tuple(frame):
    bits = (frame.fin, frame.rsv1, frame.rsv2, frame.rsv3)
    return int(frame.msg_type), bits, frame.get_payload_as_bytes()


def tuple_of(opcode, payload, fin=True, rsv=0):
    return opcode, (fin, bool(rsv & 4), bool(rsv & 2), bool(rsv & 1)), payload


# One of each kind of header, with a control frame between fragments.
SHORT_STREAM = (
    (TEXT, b"", True, 0),
    (BINARY, b"x", False, 5),
    (PING, b"between", True, 0),
    (CONTINUATION, octets(125), True, 2),
    (BINARY, octets(126), True, 0),
    (PONG, b"", True, 0),
)


def stream_of(side, frames):
    return b"".join(
        frame_to(side, opcode, payload, fin=fin, rsv=rsv) for opcode, payload, fin, rsv in frames
    )


class Collector(Recorder):
    def __init__(self):
        super().__init__(self.collect)
        self.frames = []

    def collect(self, transport, frame):
        self.frames.append(as_tuple(frame))

    def take(self):
        frames, self.frames = self.frames, []
        return frames


@pytest.mark.parametrize("side", SIDES)
async def test_split_at_every_byte(net, side):
    """Line 16. Each part is read before the next is sent."""
    stream = stream_of(side, SHORT_STREAM)
    wanted = [tuple_of(*frame) for frame in SHORT_STREAM]
    listener = Collector()
    async with connected(net, side, listener, enable_auto_pong=False) as peer:
        for cut in range(1, len(stream)):
            peer.send(stream[:cut])
            await until_read(listener.transport)
            complete = len(listener.frames)
            assert listener.frames == wanted[:complete]
            peer.send(stream[cut:])
            await listener.until(lambda: len(listener.frames) == len(wanted))
            assert complete < len(wanted)
            assert listener.take() == wanted


@pytest.mark.parametrize("side", SIDES)
async def test_byte_by_byte(net, side):
    wanted = [tuple_of(*frame) for frame in SHORT_STREAM]
    listener = Collector()
    async with connected(net, side, listener, enable_auto_pong=False) as peer:
        for byte in stream_of(side, SHORT_STREAM):
            peer.send(bytes([byte]))
            await until_read(listener.transport)
        await listener.until(lambda: len(listener.frames) == len(wanted))
        assert listener.take() == wanted


def cuts_of_large_frames():
    """(bytes of the frame that come first, bytes that come later): around what is missing when a
    frame gets a buffer of its own (4 KiB), around what rides in front (16 KiB), the hint
    (16 KiB), a mapping (128 KiB), one read (256 KiB).
    """
    sizes = (1, 2, 3, 9, 14, 4096, 16 * 1024, 40_000, 128 * 1024, 256 * 1024)
    for first in sizes:
        for later in (1, 4095, 4096, 4097, 16 * 1024, 300_000, 600_000):
            yield first, later


@pytest.mark.parametrize("side", SIDES)
async def test_large_frames_cut_anywhere(net, side):
    """With frames ahead of it in the same read and others behind its end."""
    small = frame_to(side, TEXT, b"small")
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        for ahead in (b"", small * 3):
            for first, later in cuts_of_large_frames():
                payload = octets(first + later, first)
                frame = frame_to(side, BINARY, payload)
                await in_thread(peer.send, ahead + frame[:first])
                await until_read(listener.transport)
                assert len(listener.payloads) == (3 if ahead else 0)
                await in_thread(peer.send, frame[first:] + small * 2)
                count = 3 + 3 * bool(ahead)
                await listener.until_frames(count)
                assert listener.payloads[-3:] == [payload, b"small", b"small"]
                assert listener.payloads[:-3] == [b"small"] * (count - 3)
                listener.payloads.clear()


@pytest.mark.parametrize("side", SIDES)
async def test_a_stream_of_every_size(net, side):
    """Sent without a break, so that reads end anywhere."""
    sizes = [n * n * 7 % 9973 for n in range(600)] + [n * 65_521 for n in range(1, 12)]
    sizes += [100] * 2000 + [70_000] * 30 + [5, 1_000_000, 5, 1_000_000, 5]
    digest = hashlib.sha256()
    frames = []
    for number, size in enumerate(sizes):
        payload = octets(size, number)
        digest.update(payload)
        frames.append(frame_to(side, BINARY, payload))
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        sending = asyncio.ensure_future(in_thread(peer.send, *frames))
        await listener.until_frames(len(sizes))
        await sending
        assert list(map(len, listener.payloads)) == sizes
        assert hashlib.sha256(b"".join(listener.payloads)).digest() == digest.digest()


# -- many frames in a read -------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
async def test_last_in_buffer_and_tail_size(net, side):
    def look(transport, frame):
        seen.append((frame.last_in_buffer, frame.tail_size))

    sizes = (0, 5, 200, 0, 1000)
    frames = [frame_to(side, TEXT, octets(size)) for size in sizes]
    lengths = [len(frame) for frame in frames]
    broken = frame_to(side, 3, b"")
    huge = frame_to(side, BINARY, b"12345", length=2**40, length_bits=64)
    listener = Recorder(look)
    seen = []
    async with connected(net, side, listener, max_frame_size=2**50) as peer:
        # What follows: nothing; half a header; a header; all but one byte.
        for half in (b"", frames[2][:1], frames[2][:3], frames[2][:-1]):
            peer.send(b"".join(frames) + half)
            await listener.until_frames(5)
            tails = [sum(lengths[n + 1 :]) + len(half) for n in range(5)]
            assert seen == list(zip([False] * 4 + [True], tails, strict=True))
            if half:
                peer.send(frames[2][len(half) :])
                await listener.until_frames(6)
                assert seen[5:] == [(True, 0)]
            seen.clear()
            listener.payloads.clear()
        # Judged by its length alone, a broken frame is one; a huge one that is cut off is none.
        peer.send(frames[1] + huge)
        await listener.until_frames(1)
        assert seen == [(True, len(huge))]
    listener = Recorder(look)
    seen = []
    async with connected(net, side, listener) as peer:
        peer.send(frames[1] + broken)
        await listener.until_frames(1)
        assert seen == [(False, len(broken))]


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("side", SIDES)
async def test_first_frames_come_with_the_upgrade(net, side):
    """Line 3, also half of one; nothing before on_ws_connected."""
    frame = frame_to(side, BINARY, octets(20_000))
    first = frame_to(side, TEXT, b"first")
    for half in (b"", frame[:1], frame[:9000]):
        listener = Recorder()
        async with connected(net, side, listener, then=first * 2 + half) as peer:
            await listener.until_frames(2)
            await in_thread(peer.send, frame[len(half) :])
            await listener.until_frames(3)
            assert listener.events == ["connected", b"first", b"first", octets(20_000)]


# -- a callback that makes its loop read -----------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "disconnect", "abort"])
@pytest.mark.parametrize("side", SIDES)
async def test_reading_inside_the_callback(net, side, how):
    """asyncio's own TLS hands over what it holds when close() is called, in the middle of the
    callback. A large frame that is half there leaves it with more than it can hand over before.
    """

    def end(transport, frame):
        if frame.payload_size == 40_000:
            before = len(listener.payloads)
            if how == "close":
                transport.underlying_transport.close()
            elif how == "abort":
                transport.underlying_transport.abort()
            else:
                transport.disconnect()
            assert len(listener.payloads) == before
            # The one that is being looked at is still what it was.
            assert frame.get_payload_as_bytes() == octets(40_000)

    large = frame_to(side, BINARY, octets(40_000))
    behind = [octets(size, 7) for size in (0, 10, 1000, 9000, 5)]
    listener = Recorder(end)
    async with connected(net, side, listener) as peer:
        peer.send(large[:10_000])
        await until_read(listener.transport)
        # All of it is in the kernel before the loop goes on.
        peer.send(large[10_000:])
        for payload in behind:
            peer.send(frame_to(side, BINARY, payload))
        ended = asyncio.ensure_future(in_thread(peer.recv_all))
        await listener.until_frames(1)
        await ended
        peer.close()
        await listener.until_gone()
        got = listener.payloads[1:]
        if how == "disconnect":
            assert got == []
        elif (
            how == "close" and net.tls and net.use_aiofastnet is False and net.loop_kind != "uvloop"
        ):
            # What asyncio's TLS had read before the close comes; uvloop's reads on into the void.
            assert got == behind
        else:
            # Transports that close at once drop what is still in the kernel, but nothing between.
            assert got == behind[: len(got)]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="its TLS does not read inside close()")
@pytest.mark.net(loops=("asyncio", "asyncio-debug"), tls=(True,), aiofastnet=(False,))
@pytest.mark.parametrize("side", SIDES)
async def test_another_connection_reads_inside_the_callback(net, side):
    """Both use the shared buffer: the one that comes second must not write over the frame that the
    first one's callback is looking at, nor over those that wait behind it.
    """

    def let_other_read(transport, frame):
        if frame.payload_size == 20_000:
            before = len(other.payloads)
            other.transport.underlying_transport.resume_reading()
            other.transport.underlying_transport.close()
            nested.append(len(other.payloads) - before)
            assert frame.get_payload_as_bytes() == octets(20_000)

    nested = []
    waiting = [octets(size, 3) for size in (10, 9000, 40_000, 7000, 5)]
    other = Recorder()
    listener = Recorder(let_other_read)
    async with connected(net, side, other) as other_peer:
        async with connected(net, side, listener) as peer:
            # TLS goes on reading from the socket, and keeps it to itself.
            other.transport.underlying_transport.pause_reading()
            other_peer.send(*(frame_to(side, BINARY, each) for each in waiting))
            await until_read(other.transport)
            peer.send(frame_to(side, BINARY, octets(20_000)), frame_to(side, TEXT, b"next"))
            await listener.until_frames(2)
            await in_thread(other_peer.recv_all)
            other_peer.close()
            await other.until_gone()
            assert nested == [len(waiting)]
            assert other.payloads == waiting
            assert listener.payloads == [octets(20_000), b"next"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="its TLS does not read inside close()")
@pytest.mark.net(loops=("asyncio", "asyncio-debug"), tls=(True,), aiofastnet=(False,))
@pytest.mark.parametrize("pause", [False, True], ids=["going_on", "pausing"])
@pytest.mark.parametrize("side", SIDES)
async def test_what_is_read_inside_a_callback_waits_behind_its_batch(net, side, pause):
    """The shared buffer is full of frames and busy, and TLS has more."""

    def read_on(transport, frame):
        if len(listener.payloads) == 2:
            transport.underlying_transport.close()
            if pause:
                transport.pause_reading()
            assert len(listener.payloads) == 2
            assert frame.get_payload_as_bytes() == sent[1]

    sent = [octets(10_000, n) for n in range(30)]
    listener = Recorder(read_on)
    async with connected(net, side, listener) as peer:
        underlying = listener.transport.underlying_transport
        # TLS reads on and keeps it to itself, up to 256 KiB and one read more.
        underlying.pause_reading()
        for start in range(0, 30, 6):
            peer.send(*(frame_to(side, BINARY, each) for each in sent[start : start + 6]))
            await until_read(listener.transport)
        underlying.resume_reading()
        await listener.until_frames(2)
        await in_thread(peer.recv_all)
        peer.close()
        await listener.until_gone()
        # The shared buffer holds 26 of them.
        assert listener.payloads == sent


# -- paused ----------------------------------------------------------------------------------------


class Pauser(Recorder):
    """Pauses at some frames."""

    def __init__(self, at, greet=None):
        super().__init__(self.pause, greet)
        self.at = at

    def pause(self, transport, frame):
        if len(self.payloads) in self.at:
            transport.pause_reading()


def numbered(side, numbers):
    return b"".join(frame_to(side, TEXT, b"%d" % n) for n in numbers)


def numbers_of(listener):
    return [int(payload) for payload in listener.payloads]


@pytest.mark.parametrize("side", SIDES)
async def test_paused_in_the_middle_of_a_read(net, side):
    listener = Pauser(at=(3, 5))
    async with connected(net, side, listener) as peer:
        transport = listener.transport
        peer.send(numbered(side, range(8)))
        await listener.until_frames(3)
        peer.send(numbered(side, range(8, 10)))
        await some_iterations()
        assert numbers_of(listener) == [0, 1, 2]

        transport.resume_reading()
        # Never inside it.
        assert numbers_of(listener) == [0, 1, 2]
        await listener.until_frames(5)
        await some_iterations()
        assert numbers_of(listener) == [0, 1, 2, 3, 4]

        transport.resume_reading()
        transport.resume_reading()
        await listener.until_frames(10)
        peer.send(numbered(side, [10]))
        await listener.until_frames(11)
        assert numbers_of(listener) == list(range(11))


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("side", SIDES)
async def test_what_comes_though_paused_waits_behind_the_others(net, side):
    """A transport below may still hand over what it has; here somebody made it go on."""
    listener = Pauser(at=(2,))
    async with connected(net, side, listener) as peer:
        transport = listener.transport
        half = frame_to(side, BINARY, octets(40_000))
        peer.send(numbered(side, range(4)) + half[:9000])
        await listener.until_frames(2)
        # aiofastnet's TLS is paused from the loop, behind the callback.
        await some_iterations()
        transport.underlying_transport.resume_reading()
        peer.send(half[9000:])
        await until_read(transport)
        peer.send(numbered(side, [5]))
        await until_read(transport)
        await some_iterations()
        assert len(listener.payloads) == 2
        transport.resume_reading()
        await listener.until_frames(6)
        assert listener.payloads == [b"0", b"1", b"2", b"3", octets(40_000), b"5"]


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("side", SIDES)
async def test_paused_again_before_the_resume_ran(net, side):
    listener = Pauser(at=(1,))
    async with connected(net, side, listener) as peer:
        transport = listener.transport
        peer.send(numbered(side, range(3)))
        await listener.until_frames(1)
        for _ in range(3):
            transport.resume_reading()
            transport.pause_reading()
        await some_iterations()
        assert numbers_of(listener) == [0]
        # And one that was resumed again meanwhile goes on once.
        transport.resume_reading()
        transport.pause_reading()
        transport.resume_reading()
        assert numbers_of(listener) == [0]
        peer.send(numbered(side, [3]))
        await listener.until_frames(4)
        await some_iterations()
        assert numbers_of(listener) == [0, 1, 2, 3]


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("side", SIDES)
async def test_resumed_inside_the_callback_that_paused(net, side):
    """Or in a later callback of the same read, which then never comes before the resume."""

    def pause_and_resume(transport, frame):
        transport.pause_reading()
        before = len(listener.payloads)
        transport.resume_reading()
        assert len(listener.payloads) == before

    listener = Recorder(pause_and_resume)
    async with connected(net, side, listener) as peer:
        peer.send(numbered(side, range(20)))
        await listener.until_frames(20)
        peer.send(numbered(side, range(20, 22)))
        await listener.until_frames(22)
        assert numbers_of(listener) == list(range(22))


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("side", SIDES)
async def test_paused_in_on_ws_connected(net, side):
    """With first frames behind the upgrade, and with others that come later."""
    listener = Recorder(greet=lambda transport: transport.pause_reading())
    async with connected(net, side, listener, then=numbered(side, range(3))) as peer:
        peer.send(numbered(side, range(3, 5)))
        await some_iterations()
        assert listener.events == ["connected"]
        listener.transport.resume_reading()
        assert listener.events == ["connected"]
        await listener.until_frames(5)
        assert numbers_of(listener) == list(range(5))


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("side", SIDES)
async def test_paused_and_resumed_in_on_ws_connected(net, side):
    def greet(transport):
        transport.pause_reading()
        transport.resume_reading()

    listener = Recorder(greet=greet)
    async with connected(net, side, listener, then=numbered(side, range(3))) as peer:
        peer.send(numbered(side, range(3, 5)))
        await listener.until_frames(5)
        assert numbers_of(listener) == list(range(5))


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("side", SIDES)
async def test_control_frames_wait_too(net, side):
    listener = Pauser(at=(1,))
    async with connected(net, side, listener) as peer:
        transport = listener.transport
        peer.send(numbered(side, [0]), frame_to(side, PING, b"hi"))
        close = frame_to(side, 8, b"\x03\xe8")
        peer.send(frame_to(side, PONG, b"7"), close, numbered(side, [99]))
        await listener.until_frames(1)
        await some_iterations()
        assert not something_to_read(peer)
        assert transport.close_handshake is None
        transport.resume_reading()
        assert await in_thread(read_payloads, peer, 1) == [b"hi"]
        await listener.until_frames(3)
        assert listener.payloads == [b"0", b"7", b"\x03\xe8"]
        assert transport.close_handshake.recv.code == 1000
        await some_iterations()
        assert len(listener.payloads) == 3


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("side", SIDES)
async def test_a_violation_waits_too(net, side):
    listener = Pauser(at=(1,))
    async with connected(net, side, listener) as peer:
        peer.send(numbered(side, range(2)), frame_to(side, 3, b""))
        await listener.until_frames(1)
        await some_iterations()
        assert not something_to_read(peer)
        listener.transport.resume_reading()
        frame = await in_thread(peer.recv_frame)
        assert (frame.opcode, frame.payload[:2]) == (8, b"\x03\xea")
        assert numbers_of(listener) == [0, 1]


@pytest.mark.parametrize("side", SIDES)
async def test_what_was_sent_before_the_end_of_the_stream_is_delivered(net, side):
    """Line 32. The peer is gone before anything of this is looked at."""
    listener = Pauser(at=(2, 4))
    async with connected(net, side, listener) as peer:
        peer.send(numbered(side, range(4)))
        await listener.until_frames(2)
        peer.send(numbered(side, range(4, 8)))
        peer.close()
        await some_iterations()
        if net.loop_kind == "uvloop" and net.tls and net.use_aiofastnet is False:
            # uvloop's TLS takes the end of the TCP stream for a broken connection and drops what it
            # holds itself. What had come as far as to us is delivered.
            await listener.until_gone()
            assert listener.events == ["connected", b"0", b"1", b"2", b"3", "disconnected"]
            return
        assert listener.events == ["connected", b"0", b"1"]
        listener.transport.resume_reading()
        await listener.until_frames(4)
        await some_iterations()
        assert listener.events[3:] == [b"2", b"3"]
        listener.transport.resume_reading()
        await listener.until_gone()
        assert listener.events == ["connected", *(b"%d" % n for n in range(8)), "disconnected"]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_frames_that_wait_when_the_transport_closes_are_delivered(net, side, how):
    """There is nothing to wait for any more: they come before on_ws_disconnected, also when the
    listener pauses again.
    """
    if how == "close" and net.tls:
        # They wait for the peer's close_notify, and while paused they do not read.
        of_old_asyncio = sys.version_info < (3, 11) and net.loop_kind != "uvloop"
        if net.use_aiofastnet is None or of_old_asyncio:
            return
    listener = Pauser(at=(2, 3, 4))
    async with connected(net, side, listener) as peer:
        peer.send(numbered(side, range(6)))
        await listener.until_frames(2)
        getattr(listener.transport.underlying_transport, how)()
        await in_thread(peer.recv_all)
        peer.close()
        await listener.until_gone()
        assert listener.events == ["connected", *(b"%d" % n for n in range(6)), "disconnected"]


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_resuming_and_pausing_while_the_last_ones_are_delivered(net):
    def pause_and_resume(transport, frame):
        if len(listener.payloads) == 2 or transport.is_disconnected:
            transport.resume_reading()
            transport.pause_reading()

    listener = Recorder(pause_and_resume)
    async with connected(net, "server", listener) as peer:
        peer.send(numbered("server", range(6)))
        await listener.until_frames(2)
        listener.transport.underlying_transport.abort()
        await listener.until_gone()
        assert peer is not None
        assert numbers_of(listener) == list(range(6))


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("when", ["paused", "resuming", "delivering", "lost"])
@pytest.mark.parametrize("graceful", [True, False], ids=["gracefully", "at_once"])
async def test_after_disconnect_what_waits_is_dropped(net, side, when, graceful):
    def react(transport, frame):
        if len(listener.payloads) == 2:
            transport.pause_reading()
        elif when != "paused":
            transport.disconnect(graceful)

    listener = Recorder(react)
    async with connected(net, side, listener) as peer:
        transport = listener.transport
        peer.send(numbered(side, range(2)))
        listener.react = lambda transport, frame: None
        await listener.until_frames(2)
        listener.payloads.clear()
        listener.react = react
        peer.send(numbered(side, range(6)))
        # The first one ends it in one case, the second one pauses in the others.
        if when == "delivering":
            await listener.until_frames(1)
        else:
            listener.react = lambda t, f: len(listener.payloads) == 2 and t.pause_reading()
            await listener.until_frames(2)
            listener.react = react
            if when == "lost":
                # The third one comes when the connection is gone.
                transport.underlying_transport.abort()
            else:
                if when == "resuming":
                    transport.resume_reading()
                transport.disconnect(graceful)
        await in_thread(peer.recv_all)
        peer.close()
        await listener.until_gone()
        await some_iterations()
        assert numbers_of(listener) == list(range({"delivering": 1, "lost": 3}.get(when, 2)))


@pytest.mark.net(loops=("asyncio", "uvloop"), aiofastnet=(None, False))
@pytest.mark.parametrize("side", SIDES)
async def test_tcp_makes_the_peer_wait_while_paused(net, side):
    """The peer's send blocks at last, so nothing piles up in our memory, and it goes on later."""
    listener = Pauser(at=(1,))
    async with connected(net, side, listener) as peer:
        transport = listener.transport
        piece = frame_to(side, BINARY, octets(100_000))
        peer.send(numbered(side, [0]))
        await listener.until_frames(1)
        listener.react = None

        def fill():
            """Returns how many bytes went out before the kernel would take no more."""
            sent = 0
            peer.sock.settimeout(0.3)
            try:
                while sent < 200_000_000:
                    sent += peer.sock.send(piece[sent % len(piece) :])
            except (TimeoutError, BlockingIOError):
                return sent
            return sent

        sent = await in_thread(fill)
        # Two socket buffers and what TLS holds; not the 200 MB that the peer had for us.
        assert sent < 30_000_000
        assert numbers_of(listener) == [0]
        transport.resume_reading()
        peer.sock.settimeout(10)
        rest = (-sent) % len(piece)
        if rest:
            await in_thread(peer.send, piece[len(piece) - rest :])
        count = (sent + rest) // len(piece)
        await listener.until_frames(1 + count)
        assert set(listener.payloads[1:]) == {octets(100_000)}


# -- many connections ------------------------------------------------------------------------------


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("size", [50, 60_000, 900_000])
async def test_a_greedy_connection_does_not_starve_the_others(net, size):
    """Line 48: one peer sends as fast as it can; another one's round trips go on meanwhile."""
    stop = threading.Event()
    piece = frame_to("server", BINARY, bytes(size)) * max(1, 500_000 // size)

    def flood(peer):
        # Another thread than the pool's: this one is busy all the time.
        while not stop.is_set():
            peer.send(piece)

    def echo(transport, frame):
        transport.send(WSMsgType.TEXT, frame)

    def play_ping_pong(peer):
        for n in range(30):
            peer.send(frame_to("server", TEXT, b"%d" % n))
            assert peer.recv_frame().payload == b"%d" % n

    greedy = Counter()
    modest = Recorder(echo)
    async with connected(net, "server", modest) as modest_peer:
        async with connected(net, "server", greedy) as greedy_peer:
            flooding = asyncio.ensure_future(in_thread(flood, greedy_peer))
            try:
                await greedy.until(lambda: greedy.count)
                before = greedy.count
                await in_thread(play_ping_pong, modest_peer)
                # Both went on.
                await greedy.until(lambda: greedy.count > before)
                assert not flooding.done()
            finally:
                stop.set()
                await flooding


class Counter(Recorder):
    def __init__(self):
        super().__init__()
        self.count = 0

    def on_ws_frame(self, transport, frame):
        self.count += 1
        self._changed.set()


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("side", SIDES)
async def test_many_connections_with_halves_in_turn(net, side):
    """Each one's rest stays its own, though all read into the same buffer."""
    count = 6
    listeners = [Recorder() for _ in range(count)]
    payloads = [octets(size, size) for size in (3, 300, 5000, 40_000, 300_000)]

    async def open_next(peers):
        if len(peers) < count:
            async with connected(net, side, listeners[len(peers)]) as peer:
                await open_next([*peers, peer])
            return
        for payload in payloads:
            frame = frame_to(side, BINARY, payload)
            step = len(frame) // 5 + 1
            for start in range(0, len(frame), step):
                for listener, peer in zip(listeners, peers, strict=True):
                    await in_thread(peer.send, frame[start : start + step])
                    await until_read(listener.transport)
        for listener in listeners:
            await listener.until_frames(len(payloads))
            assert listener.payloads == payloads

    await open_next([])


# -- fork ------------------------------------------------------------------------------------------

FORK = """
import asyncio, os, socket, sys
from picows import WSListener, WSMsgType, ws_connect, ws_create_server

class Server(WSListener):
    pass

async def main():
    # Fork inside the loop's own thread, between two sends on one connection: parent and children
    # go on with the same pool of random bytes, if nobody sees to it.
    transport, _ = await ws_connect(WSListener, sys.argv[1])
    for number in range(5):
        transport.send(WSMsgType.BINARY, b"before")
    sys.stdout.flush()
    for child in range(3):
        pid = os.fork()
        if pid == 0:
            for number in range(20):
                transport.send(WSMsgType.BINARY, b"child")
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
    for number in range(20):
        transport.send(WSMsgType.BINARY, b"parent")
    transport.disconnect()
    await transport.wait_disconnected()

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_after_a_fork_children_draw_other_mask_keys(picows_env):
    """Line 50."""
    from raw_peer import RawPeer

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        url = f"ws://127.0.0.1:{listening.getsockname()[1]}/"
        child = subprocess.Popen(
            [sys.executable, "-c", FORK, url], env=picows_env, stderr=subprocess.PIPE, text=True
        )
        try:
            sock, _ = listening.accept()
            with RawPeer(sock) as peer:
                peer.accept_upgrade()
                data = peer.recv_all()
        finally:
            _, errors = child.communicate(timeout=20)
    assert child.returncode == 0, errors
    masks = []
    while data:
        size = data[1] & 0x7F
        masks.append(data[2:6])
        data = data[6 + size :]
    assert len(masks) == 5 + 3 * 20 + 20
    assert len(set(masks)) == len(masks)
    assert MASK not in masks


async def test_the_suite_sees_unread_bytes():
    """until_read would be no acknowledgement if this did not hold."""
    one, two = socket.socketpair()
    with one, two:
        one.send(b"abc")
        assert unread_bytes(two) == 3
        assert two.recv(2) == b"ab"
        assert unread_bytes(two) == 1


# -- the end right behind the last bytes -----------------------------------------------------------


@pytest.mark.net(tls=(True,))
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", [70_000, 300_000])
async def test_what_comes_ahead_of_the_end_is_delivered(net, side, size):
    """
    A peer that ends TCP without ending TLS. The loops' own TLS drops what it has not handed over by
    then, and it stops handing over where a read has filled its buffer.
    """
    payload = octets(size)
    for _ in range(15):
        listener = Recorder()
        async with connected(net, side, listener) as peer:
            stream = frame_to(side, BINARY, payload) + frame_to(side, TEXT, b"x") * 1000

            def send_and_end(peer=peer, stream=stream):
                peer.send(stream)
                peer.end_sending()

            await in_thread(send_and_end)
            await listener.until_gone()
            assert listener.payloads == [payload] + [b"x"] * 1000
