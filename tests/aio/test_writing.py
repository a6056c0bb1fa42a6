"""From `send` to the peer's socket: at once, whole, in order; also what the socket does not take;
and coalescing.

"At once" is shown by reading at the peer while the loop is blocked: in the loop's own thread.
"""

import array
import asyncio
import itertools
import logging
import random
import socket
import threading

import pytest
from aio.detached import Detached, parse_frames
from aio.traffic import (
    SIDES,
    Recorder,
    connected,
    frame_to,
    octets,
    our_socket,
    read_frame,
    read_frames,
    read_payloads,
    some_iterations,
    something_to_read,
)

from picows import WSListener, WSMsgType, WSProtocolError
from raw_peer import BINARY, CLOSE, PING, PONG, TEXT, RawPeer, in_thread

# Where the length's encoding, the way out or a buffer changes: 126, COPY_LIMIT (8 KiB), 64 KiB (the
# outbox, the length again, the GIL), the scratch buffer (256 KiB, less a header of up to 14).
SIZES = (
    *(0, 1, 125, 126, 8191, 8192, 8193, 65535, 65536, 65537),
    *(256 * 1024 - 15, 256 * 1024 - 14, 256 * 1024 - 13, 256 * 1024, 256 * 1024 + 1),
    *(512 * 1024 - 14, 1_000_003),
)

MESSAGES = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": lambda data: memoryview(bytearray(data))[:],
    "window": lambda data: memoryview(b"xyz" + data + b"xyz")[3:-3],
    "array": lambda data: array.array("B", data),
    "str": lambda data: data.hex()[: len(data)],
}

reuse = pytest.mark.parametrize("reuse", [False, True], ids=["send", "reuse"])


def payload_of(message):
    return message.encode() if isinstance(message, str) else bytes(message)


def send_reusing(transport, payload, **kwargs):
    buffer = bytearray(14) + payload
    transport.send_reuse_external_bytearray(WSMsgType.BINARY, buffer, 14, **kwargs)
    return buffer


def send_one_way_or_other(transport, payload, reuse):
    if reuse:
        send_reusing(transport, payload)
    else:
        transport.send(WSMsgType.BINARY, payload)


def shrink(transport):
    """Let our socket take little."""
    our_socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def silent():
    logger = logging.Logger("silent")
    logger.disabled = True
    return logger


# -- at once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
async def test_the_peer_has_it_before_the_loop_goes_on(net, side):
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        for size, reuse in itertools.product((0, 125, 126, 8193, 20_000), (False, True)):
            send_one_way_or_other(listener.transport, octets(size), reuse)
            # The loop stands still, this is its thread.
            frame = peer.recv_frame()
            assert (frame.opcode, frame.fin, frame.rsv) == (BINARY, True, 0)
            assert frame.payload == octets(size)
            assert frame.masked == (side == "client")


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_in_on_ws_connected_behind_the_101(net):
    """The first frame goes to the socket directly, the 101 through the transport below."""
    listener = Recorder(greet=lambda transport: transport.send(WSMsgType.TEXT, b"first"))
    async with connected(net, "server", listener) as peer:
        frame = await in_thread(peer.recv_frame)
        assert frame.payload == b"first"


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("side", SIDES)
async def test_header_bits(net, side):
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        transport = listener.transport
        transport.send(WSMsgType.TEXT, b"a", False)
        transport.send(WSMsgType.CONTINUATION, b"b", True, True, False, True)
        transport.send(WSMsgType.BINARY, None, rsv2=True)
        send_reusing(transport, b"d", fin=False, rsv1=True, rsv3=True)
        transport.send(WSMsgType.PING, "e")
        transport.send_ping(b"f" * 125)
        transport.send_pong()
        frames = await in_thread(read_frames, peer, 7)
        assert [(f.opcode, f.payload, f.fin, f.rsv) for f in frames] == [
            (TEXT, b"a", False, 0),
            (0, b"b", True, 5),
            (BINARY, b"", True, 2),
            (BINARY, b"d", False, 5),
            (PING, b"e", True, 0),
            (PING, b"f" * 125, True, 0),
            (PONG, b"", True, 0),
        ]


# -- kinds and sizes -------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
async def test_all_kinds_and_sizes(net, side):
    """Each alone, with nothing queued; then all in a burst that the socket cannot take."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        for size in SIZES:
            messages = [make(octets(size)) for make in MESSAGES.values()]
            wanted = [payload_of(message) for message in messages]
            for message, payload in zip(messages[:2], wanted, strict=False):
                listener.transport.send(WSMsgType.BINARY, message)
                assert await in_thread(read_payloads, peer, 1) == [payload]
            for message in messages:
                listener.transport.send(WSMsgType.BINARY, message)
            assert await in_thread(read_payloads, peer, len(wanted)) == wanted
            buffers = [send_reusing(listener.transport, octets(size, seed)) for seed in (1, 2)]
            wanted = [octets(size, seed) for seed in (1, 2)]
            assert await in_thread(read_payloads, peer, 2) == wanted
            assert [len(buffer) for buffer in buffers] == [size + 14] * 2


@pytest.mark.net(loops=("asyncio",))
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("backlogged", [False, True], ids=["idle", "backlogged"])
async def test_items_larger_than_a_byte(net, side, backlogged):
    """A buffer's length is in bytes, whatever len() of it says, on every way out."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        for count in (3, 3000, 30_000):
            numbers = array.array("d", range(count))
            grid = memoryview(octets(count * 4)).cast("B", (count, 4))
            head = octets(5_000_000) if backlogged else b""
            for message in (head, numbers, memoryview(numbers)[1:], grid):
                listener.transport.send(WSMsgType.BINARY, message)
            assert await in_thread(read_payloads, peer, 4) == [
                head,
                numbers.tobytes(),
                numbers.tobytes()[8:],
                grid.tobytes(),
            ]


@pytest.mark.net(loops=("asyncio",), aiofastnet=(None,))
@pytest.mark.parametrize("side", SIDES)
async def test_text_beyond_ascii(net, side):
    listener = Recorder()
    texts = ["ä€\U0001f600" * n for n in (1, 1000, 40_000)] + ["\0", ""]
    async with connected(net, side, listener) as peer:
        for text in texts:
            listener.transport.send(WSMsgType.TEXT, text)
        frames = await in_thread(read_frames, peer, len(texts))
        assert [frame.payload.decode() for frame in frames] == texts


@pytest.mark.net(loops=("asyncio",), aiofastnet=(None,))
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("message", "error", "says"),
    [
        (5, TypeError, "int"),
        (5.0, TypeError, "float"),
        ([b"x"], TypeError, "list"),
        (object(), TypeError, "object"),
        (memoryview(b"abcdef")[::2], BufferError, "contiguous"),
        (memoryview(b"abcdef")[::-1], BufferError, "contiguous"),
        ("\ud800", UnicodeEncodeError, "surrogates"),
    ],
)
async def test_wrong_messages_are_refused_and_nothing_is_sent(net, side, message, error, says):
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        transport = listener.transport
        for send in (
            lambda: transport.send(WSMsgType.BINARY, message),
            lambda: transport.send_ping(message),
            lambda: transport.send_pong(message),
        ):
            with pytest.raises(error, match=says):
                send()
        transport.send(WSMsgType.TEXT, b"next")
        assert (await in_thread(peer.recv_frame)).payload == b"next"


@pytest.mark.net(loops=("asyncio",), aiofastnet=(None,), tls=(False,))
@pytest.mark.parametrize("side", SIDES)
async def test_wrong_frames_are_refused_and_nothing_is_sent(net, side):
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        transport = listener.transport
        reuse = transport.send_reuse_external_bytearray
        for wrong in (
            lambda: transport.send(WSMsgType.CLOSE, b""),
            lambda: transport.send(WSMsgType.PING, b"x" * 126),
            lambda: transport.send(WSMsgType.PONG, bytearray(126)),
            lambda: transport.send(WSMsgType.PING, "ä" * 63),
            lambda: transport.send(WSMsgType.PING, b"", False),
            lambda: transport.send(3, b""),
            lambda: transport.send(16, b""),
            lambda: transport.send_ping(b"x" * 126),
            lambda: transport.send_pong(memoryview(bytes(126))),
            lambda: reuse(WSMsgType.BINARY, None, 14),
            lambda: reuse(WSMsgType.BINARY, bytearray(20), 13),
            lambda: reuse(WSMsgType.BINARY, bytearray(20), -1),
            lambda: reuse(WSMsgType.BINARY, bytearray(20), 21),
            lambda: reuse(WSMsgType.BINARY, bytearray(0), 14),
            lambda: reuse(WSMsgType.CLOSE, bytearray(20), 14),
            lambda: reuse(WSMsgType.PING, bytearray(14 + 126), 14),
            lambda: reuse(WSMsgType.PONG, bytearray(20), 14, False),
        ):
            with pytest.raises(ValueError, match=r"\w"):
                wrong()
        for wrong in (bytes(20), memoryview(bytearray(20)), "x" * 20, 20):
            with pytest.raises(TypeError):
                reuse(WSMsgType.BINARY, wrong, 14)
        transport.send(WSMsgType.TEXT, b"next")
        assert (await in_thread(peer.recv_frame)).payload == b"next"


@pytest.mark.net(loops=("asyncio",), aiofastnet=(None,), tls=(False,))
@pytest.mark.parametrize("side", SIDES)
async def test_reuse_at_the_end_of_the_buffer_and_far_inside(net, side):
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        for offset in (14, 15, 17, 1000):
            for size in (0, 1, 200, 70_000):
                before = octets(offset, 1)
                buffer = bytearray(before + octets(size))
                listener.transport.send_reuse_external_bytearray(WSMsgType.TEXT, buffer, offset)
                assert (await in_thread(peer.recv_frame)).payload == octets(size)
                # The header took the 14 bytes in front of the payload, none before them.
                assert buffer[: offset - 14] == before[: offset - 14]


@pytest.mark.net(loops=("asyncio",), aiofastnet=(None,), tls=(False,))
async def test_masks_differ_for_each_frame(net):
    listener = Recorder()
    async with connected(net, "client", listener) as peer:

        def send(number):
            if number % 4 == 0:
                listener.transport.send(WSMsgType.TEXT, b"same")
            elif number % 4 == 1:
                send_reusing(listener.transport, b"same")
            elif number % 4 == 2:
                listener.transport.send_ping(b"same")
            else:
                listener.transport.send(WSMsgType.BINARY, bytes(300_000) if number == 3 else b"")

        for number in range(2000):
            send(number)
        frames = await in_thread(lambda: [read_frame(peer) for _ in range(2000)])
        masks = [mask for _, mask in frames]
        # 32 random bits: two of 2,000 may be the same, once in 2,000 runs.
        assert len(set(masks)) > 1995
        # Every bit of them is random.
        for bit in range(32):
            ones = sum(int.from_bytes(mask, "big") >> bit & 1 for mask in masks)
            assert 800 < ones < 1200


# -- what the socket does not take -----------------------------------------------------------------


class Writer(Recorder):
    """Sends numbered payloads, also from pause_writing, and remembers the order of the calls."""

    def __init__(self, seed):
        super().__init__()
        self.random = random.Random(seed)
        self.sent = []
        self.in_pause = 0

    def send_next(self, largest=150_000):
        size = self.random.choice((0, 10, 125, 126, 4000, 8192, 8193, 70_000, largest))
        payload = octets(size, len(self.sent))
        self.sent.append(payload)
        kind = self.random.randrange(4)
        if kind == 0:
            send_reusing(self.transport, payload)
        elif kind == 1:
            buffer = bytearray(payload)
            self.transport.send(WSMsgType.BINARY, buffer)
            buffer[:] = bytes(len(buffer))
        elif kind == 2:
            buffer = bytearray(payload)
            self.transport.send(WSMsgType.BINARY, memoryview(buffer))
            buffer[:] = bytes(len(buffer))
        else:
            self.transport.send(WSMsgType.BINARY, payload)

    def pause_writing(self):
        super().pause_writing()
        if self.in_pause < 20:
            self.in_pause += 1
            self.send_next()
            self.send_next()


@pytest.mark.parametrize("side", SIDES)
async def test_partial_writes_continue_in_order(net, side):
    listener = Writer(seed=net.loop_kind)
    async with connected(net, side, listener, receive_buffer=4096) as peer:
        shrink(listener.transport)
        listener.transport.underlying_transport.set_write_buffer_limits(high=65536)
        for _ in range(3):
            # The peer does not read: after a few of these, the rest of one is in the queue.
            for _ in range(15):
                listener.send_next()
            assert listener.transport.underlying_transport.get_write_buffer_size() > 0
            # It reads, and while it does more is sent.
            wanted = len(listener.sent)
            reading = asyncio.ensure_future(in_thread(read_payloads, peer, wanted))
            for _ in range(5):
                await asyncio.sleep(0)
                listener.send_next()
            assert await reading == listener.sent[:wanted]
            rest = listener.sent[wanted:]
            assert await in_thread(read_payloads, peer, len(rest)) == rest
            listener.sent.clear()
        assert listener.pauses
        await listener.until(lambda: listener.resumes == listener.pauses)


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("side", SIDES)
async def test_the_first_write_is_cut(net, side):
    """One frame that the socket takes a part of: header and payload in two buffers (server), in
    parts of the scratch buffer (client), in place (reuse).
    """
    for reuse in (False, True):
        listener = Recorder()
        async with connected(net, side, listener, receive_buffer=4096) as peer:
            shrink(listener.transport)
            payload = octets(9_000_000)
            send_one_way_or_other(listener.transport, payload, reuse)
            listener.transport.send(WSMsgType.TEXT, b"behind it")
            assert await in_thread(read_payloads, peer, 2) == [payload, b"behind it"]


@reuse
@pytest.mark.parametrize("side", SIDES)
async def test_the_caller_changes_its_bytearray_right_after_send(net, side, reuse):
    """Line 24, with a peer that does not read."""
    listener = Recorder()
    async with connected(net, side, listener, receive_buffer=4096) as peer:
        transport = listener.transport
        shrink(transport)
        wanted = [octets(4_000_000)]
        transport.send(WSMsgType.BINARY, wanted[0])
        for size, through_view in itertools.product((100, 6_000, 2_000_000), (False, True)):
            wanted.append(octets(size))
            buffer = bytearray(14 if reuse else 0) + wanted[-1]
            if reuse:
                transport.send_reuse_external_bytearray(WSMsgType.BINARY, buffer, 14)
            elif through_view:
                with memoryview(buffer) as view:
                    transport.send(WSMsgType.BINARY, view)
            else:
                transport.send(WSMsgType.BINARY, buffer)
            buffer[:] = b"\xff" * len(buffer)
            # Not even exported any more.
            buffer.clear()
        await some_iterations()
        assert await in_thread(read_payloads, peer, len(wanted)) == wanted


@pytest.mark.parametrize("side", SIDES)
async def test_pause_writing_and_resume_writing_are_called(net, side):
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        transport = listener.transport
        payload = octets(1_000_000)
        count = 0
        while not listener.pauses:
            transport.send(WSMsgType.BINARY, payload)
            count += 1
        assert count < 50
        assert listener.resumes == 0
        assert await in_thread(read_payloads, peer, count) == [payload] * count
        await listener.until(lambda: listener.resumes)
        assert (listener.pauses, listener.resumes) == (1, 1)


@pytest.mark.parametrize("callback", ["pause_writing", "resume_writing"])
def test_the_transport_is_not_written_to_while_it_calls_its_flow_control(callback):
    """TLS would begin a record inside another; asyncio's transport, where such a write fails, goes
    on with itself and loses its connection twice. That takes a reset between two system calls, so
    the transport is one of ours here; the socket is real, and full.
    """
    sent = [octets(3_000_000, 1), octets(3_000_000, 2), b"behind them"]
    talks = calling = False

    class Sends(WSListener):
        def on_ws_connected(self, transport):
            self.transport = transport

        def pause_writing(self):
            if talks:
                for payload in sent[:2]:
                    self.transport.send(WSMsgType.BINARY, payload)

        resume_writing = pause_writing

    ours, theirs = socket.socketpair()
    with ours, theirs, Detached("server", Sends(), below_socket=ours) as connection:
        below = connection.below
        write = below.write

        def write_outside(data):
            assert not calling
            write(data)

        below.write = write_outside
        for each in ("pause_writing", "resume_writing"):
            talks = each == callback
            calling = True
            getattr(connection.connection, each)()
            calling = False
        connection.transport.send(WSMsgType.BINARY, sent[2])
        assert below.written == b""
        connection.loop.run()
        taken = theirs.recv(3_000_000)
        frames = parse_frames(taken + bytes(below.written))
        assert [frame.payload for frame in frames] == sent


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
@reuse
@pytest.mark.parametrize("side", SIDES)
async def test_an_error_of_the_system_is_raised_and_the_connection_is_lost(net, side, reuse):
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        transport = listener.transport
        peer.reset()
        # The loop has not run: it does not know yet.
        with pytest.raises(OSError, match=r"pipe|reset"):
            for _ in range(2):
                send_one_way_or_other(transport, b"x", reuse)
        assert transport.is_disconnected
        # From here on a no-op.
        transport.send(WSMsgType.TEXT, b"x")
        transport.send_close()
        assert listener.events == ["connected"]
        await listener.until_gone()
        assert listener.events == ["connected", "disconnected"]
        await transport.wait_disconnected()


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("side", SIDES)
async def test_a_reset_while_bytes_are_queued_ends_the_connection(net, side):
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        listener.transport.send(WSMsgType.BINARY, octets(9_000_000))
        peer.reset()
        await listener.until_gone()
        listener.transport.send(WSMsgType.BINARY, b"nobody")


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
@pytest.mark.parametrize("side", SIDES)
async def test_no_frame_after_a_disconnect_that_follows_a_failed_send(net, side):
    """An error of the system does not make disconnect() forget what it promises."""
    failed = []

    def send_and_disconnect(transport, frame):
        peer.reset()
        for _ in range(2):
            try:
                transport.send(WSMsgType.TEXT, b"x")
            except OSError as exc:
                failed.append(exc)
        transport.disconnect()

    listener = Recorder(send_and_disconnect)
    async with connected(net, side, listener, coalesce_writes=False) as peer:
        peer.send(frame_to(side, TEXT, b"a") + frame_to(side, TEXT, b"b"))
        await listener.until_gone()
    assert len(failed) == 1
    assert listener.events == ["connected", b"a", "disconnected"]


# -- coalescing ------------------------------------------------------------------------------------

# What gathers by default, and what does on request.
GATHERING = pytest.mark.parametrize(
    ("side", "options"),
    [("server", {}), ("client", {"coalesce_writes": True})],
    ids=["server", "client"],
)
NOT_GATHERING = pytest.mark.parametrize(
    ("side", "options"),
    [("client", {}), ("server", {"coalesce_writes": False})],
    ids=["client", "server"],
)
coalescing_net = pytest.mark.net(loops=("asyncio", "uvloop"))


def batch(side, count, tail=b""):
    """Frames that arrive in one read."""
    return b"".join(frame_to(side, TEXT, b"%d" % n) for n in range(count)) + tail


class Replier(Recorder):
    """Answers each frame with its payload twice, and looks what the peer has, before and after."""

    def __init__(self, then=None):
        super().__init__(self.reply)
        self.then = then
        self.visible = []
        self.peer: RawPeer

    def reply(self, transport, frame):
        transport.send(WSMsgType.TEXT, self.payloads[-1] * 2)
        if self.then is not None:
            self.then(transport, int(self.payloads[-1]))
        self.visible.append(something_to_read(self.peer))


@coalescing_net
@GATHERING
async def test_replies_of_one_read_leave_together(net, side, options):
    listener = Replier()
    async with connected(net, side, listener, **options) as peer:
        listener.peer = peer
        peer.send(batch(side, 5))
        await listener.until_frames(5)
        # None had left when the callbacks returned; the last one's goes behind the others.
        assert listener.visible == [False] * 5
        wanted = [b"00", b"11", b"22", b"33", b"44"]
        # One segment, or one TLS record.
        size = 4 + 4 * (side == "client")
        assert len(await in_thread(peer.recv_some)) == 5 * size
        peer.send(batch(side, 5))
        assert await in_thread(read_payloads, peer, 5) == wanted


@coalescing_net
@NOT_GATHERING
async def test_without_coalescing_each_reply_leaves_at_once(net, side, options):
    listener = Replier()
    async with connected(net, side, listener, **options) as peer:
        listener.peer = peer
        peer.send(batch(side, 5))
        await listener.until_frames(5)
        assert listener.visible == [True] * 5
        assert await in_thread(read_payloads, peer, 5) == [b"00", b"11", b"22", b"33", b"44"]


@coalescing_net
@GATHERING
async def test_a_lone_frame_is_answered_at_once(net, side, options):
    listener = Replier()
    async with connected(net, side, listener, **options) as peer:
        listener.peer = peer
        # Half a frame behind it is nothing to wait for.
        for tail in (b"", frame_to(side, TEXT, b"half")[:-1]):
            peer.send(batch(side, 1, tail))
            await listener.until(lambda: listener.visible)
            assert listener.visible == [True]
            assert await in_thread(read_payloads, peer, 1) == [b"00"]
            listener.visible.clear()


@coalescing_net
@GATHERING
async def test_flush_sends_now(net, side, options):
    def flush_at_one(transport, number):
        if number == 1:
            transport.flush()
            seen.extend(read_payloads(listener.peer, 2))

    seen = []
    listener = Replier(flush_at_one)
    async with connected(net, side, listener, **options) as peer:
        listener.peer = peer
        peer.send(batch(side, 4))
        await listener.until_frames(4)
        assert listener.visible == [False] * 4
        assert seen == [b"00", b"11"]
        seen += await in_thread(read_payloads, peer, 2)
        assert seen == [b"00", b"11", b"22", b"33"]
        # With nothing gathered it does nothing.
        listener.transport.flush()
        await some_iterations()
        assert not something_to_read(peer)


@coalescing_net
@GATHERING
async def test_past_64_kib_it_leaves_earlier(net, side, options):
    def send_more(transport, number):
        transport.send(WSMsgType.BINARY, octets(10_000, number))

    listener = Replier(send_more)
    async with connected(net, side, listener, **options) as peer:
        listener.peer = peer
        peer.send(batch(side, 9))
        await listener.until_frames(9)
        # 6 * 10 KB fit, 7 do not.
        assert listener.visible == [False] * 6 + [True] * 3
        wanted = [p for n in range(9) for p in (b"%d%d" % (n, n), octets(10_000, n))]
        assert await in_thread(read_payloads, peer, 18) == wanted


@coalescing_net
@GATHERING
async def test_what_does_not_fit_goes_behind_what_was_gathered(net, side, options):
    """Around what one outbox holds, with something in it and without."""

    def send_more(transport, number):
        if number in (1, 2):
            send_one_way_or_other(transport, octets(size, number), number == 2)

    listener = Replier(send_more)
    async with connected(net, side, listener, **options) as peer:
        listener.peer = peer
        for size in (65_000, 65_522, 65_526, 65_527, 65_532, 65_536, 65_537, 300_000):
            peer.send(batch(side, 4))
            wanted = [b"00", b"11", octets(size, 1), b"22", octets(size, 2), b"33"]
            assert await in_thread(read_payloads, peer, 6) == wanted


@coalescing_net
@GATHERING
async def test_every_way_of_sending_is_gathered(net, side, options):
    def send_all_ways(transport, number):
        send_reusing(transport, b"reuse%d" % number)
        transport.send_ping(b"ping")
        transport.send_pong(b"pong")

    listener = Replier(send_all_ways)
    async with connected(net, side, listener, **options) as peer:
        listener.peer = peer
        # The PING between them is answered in its place.
        peer.send(batch(side, 1) + frame_to(side, PING, b"hi") + frame_to(side, TEXT, b"1"))
        await listener.until_frames(2)
        assert listener.visible == [False] * 2
        wanted = [b"00", b"reuse0", b"ping", b"pong", b"hi", b"11", b"reuse1", b"ping", b"pong"]
        assert await in_thread(read_payloads, peer, 9) == wanted


def broken_frame(side):
    return frame_to(side, 3, b"no such opcode")


@coalescing_net
@GATHERING
@pytest.mark.parametrize("how", ["disconnect", "send_close", "violation", "error", "own_error"])
async def test_gathered_replies_leave_before_the_end(net, side, options, how):
    """Line 20: the valid frame ahead is delivered, and its reply leaves before the CLOSE."""

    def end_at_two(transport, number):
        if number == 2:
            if how == "disconnect":
                transport.disconnect()
            elif how == "send_close":
                transport.send_close(1001)
                transport.send(WSMsgType.TEXT, b"too late")
            elif how == "error":
                raise ValueError("secret")
            elif how == "own_error":
                raise WSProtocolError(4001, "own")

    listener = Replier(end_at_two)
    options = dict(options, logger_name=silent())
    async with connected(net, side, listener, **options) as peer:
        listener.peer = peer
        if how == "violation":
            peer.send(batch(side, 3, broken_frame(side) + batch(side, 2)))
        else:
            peer.send(batch(side, 6))
        frames = await in_thread(read_frames, peer, 3)
        assert [frame.payload for frame in frames] == [b"00", b"11", b"22"]
        if how != "disconnect":
            close = await in_thread(peer.recv_frame)
            code = {"send_close": 1001, "violation": 1002, "error": 1011, "own_error": 4001}[how]
            assert (close.opcode, close.payload[:2]) == (CLOSE, code.to_bytes(2, "big"))
            assert b"secret" not in close.payload
        if how == "send_close":
            # Frames go on coming in until the peer's CLOSE.
            assert listener.payloads == [b"0", b"1", b"2", b"3", b"4", b"5"]
        else:
            assert await in_thread(peer.recv_all) == b""
            assert listener.payloads == [b"0", b"1", b"2"]
        # disconnect() does not wait for the end of the read; with TLS, close_notify goes out, too.
        assert not any(listener.visible[:2])


@coalescing_net
@GATHERING
async def test_disconnect_without_grace_drops_what_was_gathered(net, side, options):
    def abort_at_two(transport, number):
        if number == 2:
            transport.disconnect(graceful=False)
            transport.flush()

    listener = Replier(abort_at_two)
    async with connected(net, side, listener, **options) as peer:
        listener.peer = peer
        peer.send(batch(side, 4))
        assert await in_thread(peer.recv_all) == b""
        assert listener.payloads == [b"0", b"1", b"2"]


@coalescing_net
@GATHERING
async def test_pausing_in_the_middle_sends_what_was_gathered(net, side, options):
    def pause_at_one(transport, number):
        if number == 1:
            transport.pause_reading()

    listener = Replier(pause_at_one)
    async with connected(net, side, listener, **options) as peer:
        listener.peer = peer
        peer.send(batch(side, 4))
        assert await in_thread(read_payloads, peer, 2) == [b"00", b"11"]
        listener.transport.resume_reading()
        assert await in_thread(read_payloads, peer, 2) == [b"22", b"33"]


@coalescing_net
@GATHERING
async def test_what_other_connections_send_inside_the_batch_leaves_with_it(net, side, options):
    """Each with one write, whether or not the connection that is read gathers for itself."""

    def send_on_others(transport, number):
        for other, other_peer in zip(others, other_peers, strict=True):
            other.transport.send(WSMsgType.TEXT, b"for you %d" % number)
            seen.append(something_to_read(other_peer))

    seen = []
    others = [Recorder(), Recorder()]
    for reader_options in (options, dict(options, coalesce_writes=False)):
        listener = Replier(send_on_others)
        async with (
            connected(net, side, others[0], **options) as first_peer,
            connected(net, side, others[1], **options) as second_peer,
            connected(net, side, listener, **reader_options) as peer,
        ):
            other_peers = [first_peer, second_peer]
            listener.peer = peer
            peer.send(batch(side, 3))
            await listener.until_frames(3)
            # Also what was sent behind the last frame of the batch.
            assert seen == [False] * 6
            seen.clear()
            size = 3 * (2 + 9 + 4 * (side == "client"))
            for other_peer in other_peers:
                assert len(await in_thread(other_peer.recv_some)) == size
            assert await in_thread(read_payloads, peer, 3) == [b"00", b"11", b"22"]
        others = [Recorder(), Recorder()]


@coalescing_net
@NOT_GATHERING
async def test_others_that_do_not_gather_send_at_once_inside_the_batch(net, side, options):
    def send_on_other(transport, number):
        other.transport.send(WSMsgType.TEXT, b"for you %d" % number)
        seen.append(other_peer.recv_frame().payload)

    seen = []
    other = Recorder()
    listener = Replier(send_on_other)
    async with connected(net, side, other, **options) as other_peer:
        async with connected(net, side, listener, coalesce_writes=True) as peer:
            listener.peer = peer
            peer.send(batch(side, 3))
            await listener.until_frames(3)
            assert listener.visible == [False] * 3
            assert seen == [b"for you 0", b"for you 1", b"for you 2"]
            assert await in_thread(read_payloads, peer, 3) == [b"00", b"11", b"22"]


@coalescing_net
@GATHERING
async def test_one_that_is_ended_inside_the_batch_sends_what_it_gathered(net, side, options):
    """disconnect() and flush() of another connection; abort drops it."""

    def end_others(transport, number):
        for each in others.values():
            if not each.transport.is_disconnected:
                each.transport.send(WSMsgType.TEXT, b"for you %d" % number)
        if number == 1:
            others["graceful"].transport.disconnect()
            others["abort"].transport.disconnect(graceful=False)
            others["flush"].transport.flush()
            seen.append(something_to_read(peers["flush"]))

    seen = []
    others = {name: Recorder() for name in ("graceful", "abort", "flush")}
    listener = Replier(end_others)
    async with (
        connected(net, side, others["graceful"], **options) as graceful,
        connected(net, side, others["abort"], **options) as aborted,
        connected(net, side, others["flush"], **options) as flushed,
        connected(net, side, listener, **options) as peer,
    ):
        peers = {"graceful": graceful, "abort": aborted, "flush": flushed}
        listener.peer = peer
        peer.send(batch(side, 3))
        assert await in_thread(read_payloads, graceful, 2) == [b"for you 0", b"for you 1"]
        assert await in_thread(graceful.recv_all) == b""
        assert await in_thread(aborted.recv_all) == b""
        wanted = [b"for you 0", b"for you 1", b"for you 2"]
        assert await in_thread(read_payloads, flushed, 3) == wanted
        assert seen == [True]


@coalescing_net
@GATHERING
async def test_outside_a_batch_nothing_is_gathered(net, side, options):
    """Also after a batch that ended by an exception."""

    def fail(transport, number):
        if number == 1:
            raise ValueError("once")

    listener = Replier(fail)
    options = dict(options, disconnect_on_exception=False, logger_name=silent())
    async with connected(net, side, listener, **options) as peer:
        listener.peer = peer
        peer.send(batch(side, 3))
        assert await in_thread(read_payloads, peer, 3) == [b"00", b"11", b"22"]
        listener.transport.send(WSMsgType.TEXT, b"alone")
        assert peer.recv_frame().payload == b"alone"


def read_in_two(peer, sent):
    """Read what was sent, strike it off in order, and return what is left."""
    for _ in range(sum(map(len, sent.values()))):
        payload = read_frame(peer)[0].payload
        assert payload == sent[payload[:5]].pop(0)
    return sent.values()


class Flooding(Recorder):
    """Sends frames of these sizes for each one that comes, and others from pause_writing."""

    def __init__(self, sizes, sizes_when_paused):
        super().__init__(self.flood)
        self.sizes = sizes
        self.sizes_when_paused = sizes_when_paused
        self.sent = {b"frame": [], b"pause": []}
        self.flushed = []

    def send(self, where, size):
        payload = where + octets(size - 5, len(self.sent[where]))
        self.sent[where].append(payload)
        self.transport.send(WSMsgType.BINARY, payload)

    def flood(self, transport, frame):
        for size in self.sizes:
            self.send(b"frame", size)
        queued = transport.underlying_transport.get_write_buffer_size()
        transport.flush()
        self.flushed.append(transport.underlying_transport.get_write_buffer_size() - queued)

    def pause_writing(self):
        super().pause_writing()
        for size in self.sizes_when_paused:
            self.send(b"pause", size)


@coalescing_net
@GATHERING
@pytest.mark.parametrize(
    "sizes",
    [
        ((30_000, 65_500), (60_000,)),
        ((65_500, 100, 65_500), (100, 65_500)),
        ((30_000, 300_000), (60_000, 20_000)),
    ],
    ids=["fits", "fits_alone", "does_not_fit"],
)
async def test_gathered_replies_to_a_peer_that_does_not_read(net, side, options, sizes):
    """pause_writing comes inside the flush, and what it sends is gathered, too: the outbox must not
    overflow, and the order stays.
    """
    listener = Flooding(*sizes)
    async with connected(net, side, listener, receive_buffer=4096, **options) as peer:
        shrink(listener.transport)
        # Every flush is one that pauses.
        listener.transport.underlying_transport.set_write_buffer_limits(high=1)
        for _ in range(3):
            peer.send(batch(side, 3))
            await listener.until_frames(3)
            # What pause_writing sends goes somewhere near the frame whose `send` calls it.
            for left in await in_thread(read_in_two, peer, listener.sent):
                assert not left
            assert listener.pauses
            await listener.until(lambda: listener.resumes == listener.pauses)
            listener.payloads.clear()
    # The outbox and, with TLS, what surrounds it.
    assert max(listener.flushed) <= 64 * 1024 + (2048 if net.tls else 0)


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
@GATHERING
async def test_a_reset_found_when_the_gathered_replies_leave(net, side, options):
    """Nobody is there to be told: no error, and the connection ends once."""

    def reset_at_two(transport, number):
        if number == 2:
            listener.peer.reset()
            listener.peer = silent_peer

    listener = Replier(reset_at_two)
    quiet, other_end = socket.socketpair()
    silent_peer = RawPeer(quiet)
    with quiet, other_end:
        async with connected(net, side, listener, **options) as peer:
            listener.peer = peer
            peer.send(batch(side, 3))
            await listener.until_gone()
            assert listener.payloads == [b"0", b"1", b"2"]


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_calls_from_another_thread_are_refused(net):
    """Line 49: nothing is sent."""
    listener = Recorder()
    async with connected(net, "server", listener) as peer:
        transport = listener.transport
        failures = []

        def call_all():
            for call in (
                lambda: transport.send(WSMsgType.TEXT, b"x"),
                lambda: send_reusing(transport, b"x"),
                transport.send_ping,
                transport.send_pong,
                transport.send_close,
                transport.flush,
                transport.disconnect,
                transport.pause_reading,
                transport.resume_reading,
            ):
                try:
                    call()
                except RuntimeError as exc:
                    failures.append(str(exc))

        thread = threading.Thread(target=call_all)
        thread.start()
        thread.join()
        assert len(failures) == 9
        assert all("call_soon_threadsafe" in text for text in failures)
        transport.send(WSMsgType.TEXT, b"y")
        assert (await in_thread(peer.recv_frame)).payload == b"y"
