"""From the 101 to the end: which callbacks run, what the peer hears, what wait_disconnected says.

Our end is a client or a server; the far end is a raw peer, driven line by line from the test. Every
test checks, when the connection is over, that there was one on_ws_connected, one
on_ws_disconnected, and nothing behind it (Recorder.check_order).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import ssl
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import loops
import picows.aio.connection
import raw_peer
from picows import (
    PICOWS_DEBUG_LL,
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSProtocolError,
    WSTransport,
)
from raw_peer import BINARY, CLOSE, PING, PONG, TEXT, RawFrame, RawPeer, encode_frame, in_thread

SIDES = ("client", "server")
both_sides = pytest.mark.parametrize("side", SIDES)

# What fill_up sends: more than the kernel takes with the small buffers there. TLS of asyncio's and
# uvloop's own pauses its writer at 512 KiB, and passes the first frame on whatever its size.
PART = 256 * 1024
PARTS = 8


class Recorder(WSListener):
    """Writes down what is called, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.frames: asyncio.Queue[tuple[WSMsgType, bytes]] = asyncio.Queue()
        self.connected = asyncio.Event()
        self.disconnected = asyncio.Event()
        self.paused = asyncio.Event()
        self.resumed = asyncio.Event()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.events.append("connected")
        self.connected.set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.events.append("frame")
        self.frames.put_nowait((frame.msg_type, frame.get_payload_as_bytes()))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        assert transport.is_disconnected
        self.events.append("disconnected")
        self.disconnected.set()

    def pause_writing(self) -> None:
        self.events.append("pause")
        self.paused.set()

    def resume_writing(self) -> None:
        self.events.append("resume")
        self.resumed.set()

    def check_order(self) -> None:
        assert self.events[0] == "connected"
        assert self.events[-1] == "disconnected"
        assert self.events.count("connected") == self.events.count("disconnected") == 1


class FarEnd:
    """The raw peer at the other end; awaiting its methods does not stop the loop."""

    def __init__(self, peer: RawPeer, mask: bytes | None) -> None:
        self.peer = peer
        self.mask = mask

    def frame(self, opcode: int, payload: bytes = b"", **kwargs: Any) -> bytes:
        return encode_frame(opcode, payload, mask=self.mask, **kwargs)

    def close_frame(self, code: int, reason: bytes = b"") -> bytes:
        return self.frame(CLOSE, code.to_bytes(2, "big") + reason)

    async def send(self, *frames: bytes) -> None:
        await in_thread(self.peer.send, *frames)

    async def recv(self) -> tuple[int, bytes]:
        frame: RawFrame = await in_thread(self.peer.recv_frame)
        return frame.opcode, frame.payload

    async def recv_all(self) -> bytes:
        """Everything up to the end of stream; then end ours, for which TLS waits."""
        data: bytes = await in_thread(self.peer.recv_all)
        self.peer.close()
        return data

    async def recv_last_close(self) -> bytes | None:
        """The payload of the CLOSE that ends the stream, behind whatever data; None without one.
        Ends our half as well.
        """
        payload: bytes | None = await in_thread(last_close, self.peer)
        self.peer.close()
        return payload


def last_close(peer: RawPeer) -> bytes | None:
    payload = None
    while True:
        try:
            first, second = peer.recv_exactly(2)
        except EOFError:
            return payload
        except (ConnectionResetError, ssl.SSLError):
            return payload
        assert payload is None, "something came behind the CLOSE"
        length = second & 0x7F
        if length >= 126:
            length = int.from_bytes(peer.recv_exactly(2 if length == 126 else 8), "big")
        mask = peer.recv_exactly(4) if second & 0x80 else None
        body = peer.recv_exactly(length)
        if first & 0x0F == CLOSE:
            payload = body if mask is None else raw_peer.apply_mask(body, mask)


@contextlib.asynccontextmanager
async def connection(
    net: Any, side: str, listener: Recorder, *, ends: bool = True, **kwargs: Any
) -> AsyncIterator[tuple[WSTransport, FarEnd]]:
    """A connection of `listener` as this side, and the far end of it.

    On leaving, the far end closes, and ours has to come to its end as well.
    """
    if side == "client":
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.settimeout(raw_peer.TIMEOUT)
            accepting = asyncio.ensure_future(in_thread(accept, listening, net.server_ssl))
            port = listening.getsockname()[1]
            try:
                transport, _ = await net.connect(lambda: listener, net.url(port), **kwargs)
            except BaseException:
                (await accepting).close()
                raise
            far = FarEnd(await accepting, None)
    else:
        # Taken out of the list, so that the server does not hold it.
        listeners = [listener]
        server = await net.serve(lambda request: listeners.pop(), **kwargs)
        port = server.sockets[0].getsockname()[1]
        far = FarEnd(await in_thread(ask_for_upgrade, port, net.client_ssl), b"\x11\x22\x33\x44")
        server.close()
        await listener.connected.wait()
        transport = listener.transport
    try:
        with far.peer:
            yield transport, far
        await listener.disconnected.wait()
    finally:
        # Also when the test failed: what is left open would be reported in front of the reason.
        transport.disconnect(graceful=False)
    listener.check_order()
    assert transport.is_disconnected


def accept(listening: socket.socket, context: ssl.SSLContext | None) -> RawPeer:
    sock, _ = listening.accept()
    sock.settimeout(raw_peer.TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is not None:
        sock = context.wrap_socket(sock, server_side=True)
    peer = RawPeer(sock)
    peer.accept_upgrade()
    return peer


def ask_for_upgrade(port: int, context: ssl.SSLContext | None) -> RawPeer:
    peer = raw_peer.raw_connect(port, context)
    peer.request_upgrade()
    return peer


def own_socket(transport: WSTransport) -> socket.socket:
    """The socket below, for calls that the loops' stand-ins do not have. Close it."""
    fd = transport.underlying_transport.get_extra_info("socket").fileno()
    return socket.socket(fileno=os.dup(fd))


def fill_up(transport: WSTransport) -> None:
    """Send until bytes wait in the transport, while the far end does not read."""
    with own_socket(transport) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    for _ in range(PARTS):
        transport.send(WSMsgType.BINARY, bytes(PART))
    assert transport.is_disconnected or transport.underlying_transport.get_write_buffer_size() > 0


# -- one connected, one disconnected (line 31) -----------------------------------------------------


async def end_by_peer_eof(transport: WSTransport, far: FarEnd) -> None:
    far.peer.close()


async def end_by_peer_reset(transport: WSTransport, far: FarEnd) -> None:
    far.peer.reset()


async def end_by_disconnect(transport: WSTransport, far: FarEnd) -> None:
    transport.disconnect()
    assert await far.recv_all() == b""


async def end_by_abort(transport: WSTransport, far: FarEnd) -> None:
    transport.disconnect(graceful=False)


async def end_by_both_closes(transport: WSTransport, far: FarEnd) -> None:
    transport.send_close(WSCloseCode.OK)
    await far.send(far.close_frame(1000))
    far.peer.close()


async def end_by_violation(transport: WSTransport, far: FarEnd) -> None:
    await far.send(far.frame(3))
    assert (await far.recv())[1][:2] == b"\x03\xea"
    far.peer.close()


async def end_by_underlying_transport(transport: WSTransport, far: FarEnd) -> None:
    transport.underlying_transport.abort()


ENDS = [
    end_by_peer_eof,
    end_by_peer_reset,
    end_by_disconnect,
    end_by_abort,
    end_by_both_closes,
    end_by_violation,
    end_by_underlying_transport,
]


@both_sides
@pytest.mark.parametrize("end", ENDS)
async def test_however_it_ends_there_is_one_connected_and_one_disconnected(
    net: Any, side: str, end: Callable[[WSTransport, FarEnd], Awaitable[None]]
) -> None:
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        await far.send(far.frame(TEXT, b"one"))
        assert await listener.frames.get() == (WSMsgType.TEXT, b"one")
        await end(transport, far)
        await listener.disconnected.wait()
        with contextlib.suppress(WSProtocolError):
            await transport.wait_disconnected()
        # Bytes that come too late reach nobody.
        with contextlib.suppress(OSError):
            far.peer.send(far.frame(TEXT, b"late"))
    assert "late" not in listener.events


@both_sides
@pytest.mark.net(tls=(False,))
async def test_one_disconnected_when_a_send_fails(net: Any, side: str) -> None:
    listener = Recorder()
    async with connection(net, side, listener) as (transport, _far):
        with own_socket(transport) as sock:
            sock.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            transport.send(WSMsgType.TEXT, b"x")
        assert transport.is_disconnected
        assert listener.events == ["connected"]
        # The first error told that the connection is lost; from then on it is a no-op.
        transport.send(WSMsgType.TEXT, b"x")
        await listener.disconnected.wait()
        await transport.wait_disconnected()


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_one_disconnected_when_a_send_inside_a_callback_fails(net: Any, side: str) -> None:
    """The OSError is the listener's own to catch; uncaught, it ends the connection as any other."""

    class Sender(Recorder):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            super().on_ws_frame(transport, frame)
            with own_socket(transport) as sock:
                sock.shutdown(socket.SHUT_WR)
            transport.send(WSMsgType.TEXT, b"x")

    listener = Sender()
    async with connection(net, side, listener, coalesce_writes=False) as (transport, far):
        await far.send(far.frame(TEXT, b"one"))
        await listener.disconnected.wait()
        if side == "client":
            with pytest.raises(BrokenPipeError):
                await transport.wait_disconnected()
    assert listener.events == ["connected", "frame", "disconnected"]


@both_sides
@pytest.mark.parametrize("graceful", [True, False])
async def test_no_frame_after_disconnect_returned(net: Any, side: str, graceful: bool) -> None:
    class TwoOnly(Recorder):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            super().on_ws_frame(transport, frame)
            if self.frames.qsize() == 2:
                transport.disconnect(graceful)
                assert "disconnected" not in self.events, "called inside disconnect()"

    listener = TwoOnly()
    async with connection(net, side, listener) as (_, far):
        # One segment, so that the frames behind the second are in the read buffer already.
        await far.send(*[far.frame(TEXT, b"%d" % number) for number in range(10)])
        await far.recv_all()
    assert listener.events == ["connected", "frame", "frame", "disconnected"]


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_no_frame_after_disconnect_that_follows_a_failed_send(net: Any, side: str) -> None:
    """`try: send() except OSError: disconnect()`: the frames behind it in the read are dropped."""

    class GivesUp(Recorder):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            super().on_ws_frame(transport, frame)
            with own_socket(transport) as sock:
                sock.shutdown(socket.SHUT_WR)
            with pytest.raises(BrokenPipeError):
                transport.send(WSMsgType.TEXT, b"x")
            transport.disconnect()

    listener = GivesUp()
    async with connection(net, side, listener, coalesce_writes=False) as (_, far):
        await far.send(*[far.frame(TEXT, b"%d" % number) for number in range(5)])
        await listener.disconnected.wait()
    assert listener.events == ["connected", "frame", "disconnected"]


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_no_frame_after_disconnect_when_held_frames_are_delivered_at_the_end(
    net: Any, side: str
) -> None:
    """Frames that wait at the end of a paused connection; the first one's callback has enough."""

    class HasEnough(Recorder):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            super().on_ws_frame(transport, frame)
            if self.frames.qsize() == 1:
                transport.pause_reading()
            else:
                transport.disconnect()

    listener = HasEnough()
    async with connection(net, side, listener) as (transport, far):
        await far.send(*[far.frame(TEXT, b"%d" % number) for number in range(5)])
        await listener.frames.get()
        await listener.frames.put((WSMsgType.TEXT, b"0"))
        with own_socket(transport) as sock:
            sock.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            transport.send(WSMsgType.TEXT, b"x")
        await listener.disconnected.wait()
    assert listener.events == ["connected", "frame", "frame", "disconnected"]


@both_sides
async def test_disconnect_inside_on_ws_connected(net: Any, side: str) -> None:
    class Leaves(Recorder):
        def on_ws_connected(self, transport: WSTransport) -> None:
            super().on_ws_connected(transport)
            transport.send(WSMsgType.TEXT, b"bye")
            transport.disconnect()

    listener = Leaves()
    async with connection(net, side, listener) as (transport, far):
        assert transport.is_disconnected
        assert await far.recv() == (TEXT, b"bye")
        assert await far.recv_all() == b""
        await transport.wait_disconnected()
    assert listener.events == ["connected", "disconnected"]


# -- closing (lines 33, 35, 36) --------------------------------------------------------------------


@both_sides
async def test_data_that_arrives_while_closing_is_dropped(net: Any, side: str) -> None:
    """Also a PING, a CLOSE, and what would be a violation: nothing of it is fatal, or answered."""
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        fill_up(transport)
        transport.disconnect()
        await far.send(far.frame(TEXT, b"late"), far.frame(PING, b"late"), far.close_frame(1000))
        await far.send(b"\xff" * 1000)
        data = await far.recv_all()
        # asyncio's own TLS aborts when it is sent data while it closes.
        own_tls = net.tls and net.use_aiofastnet is False and net.loop_kind != "uvloop"
        if not own_tls:
            # What was accepted before disconnect() arrives, whole, and nothing behind it.
            header = 2 + 8 + (4 if side == "client" else 0)
            assert len(data) == PARTS * (header + PART)
        await transport.wait_disconnected()
    assert "frame" not in listener.events


@both_sides
async def test_a_ping_while_closing_is_not_fatal_and_not_answered(net: Any, side: str) -> None:
    """RFC 6455 section 5.5.1: nothing is sent behind a CLOSE, so no PONG either."""
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        transport.send_close(WSCloseCode.OK)
        assert await far.recv() == (CLOSE, b"\x03\xe8")
        await far.send(far.frame(PING, b"p"), far.frame(TEXT, b"t"), far.close_frame(1000))
        # The peer may send until its own CLOSE, and the raw frame API shows it.
        assert await listener.frames.get() == (WSMsgType.TEXT, b"t")
        assert await listener.frames.get() == (WSMsgType.CLOSE, b"\x03\xe8")
        transport.disconnect()
        assert await far.recv_all() == b""
        await transport.wait_disconnected()


@both_sides
async def test_nothing_behind_a_close_is_delivered(net: Any, side: str) -> None:
    """RFC 6455 section 5.5.1: a peer sends no data frame behind its CLOSE; ours ignores it."""
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        await far.send(far.close_frame(1000), far.frame(TEXT, b"late"), far.frame(PING))
        assert (await listener.frames.get())[0] == WSMsgType.CLOSE
        await far.send(far.frame(TEXT, b"later"), b"\xff" * 100)
        # Nobody answers a CLOSE for the listener.
        transport.send(WSMsgType.TEXT, b"last")
        transport.send_close(WSCloseCode.OK)
        transport.disconnect()
        assert await far.recv() == (TEXT, b"last")
        assert await far.recv() == (CLOSE, b"\x03\xe8")
        assert await far.recv_all() == b""
    assert listener.events == ["connected", "frame", "disconnected"]


@both_sides
async def test_after_a_violation_a_peer_that_streams_for_ever_is_cut_off(
    net: Any, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TLS waits for the peer to end it too, which this one never does.
    monkeypatch.setattr(picows.aio.connection, "CLOSE_TIMEOUT", 0.2)

    def stream(peer: RawPeer) -> None:
        rubbish = bytes(64 * 1024)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while True:  # each send ends within raw_peer.TIMEOUT, with a TimeoutError
                peer.send(rubbish)

    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        await far.send(far.frame(TEXT, b"fine"), far.frame(3))
        await in_thread(stream, far.peer)
        if side == "client":
            with pytest.raises(WSProtocolError):
                await transport.wait_disconnected()
        else:
            await transport.wait_disconnected()
    assert listener.events == ["connected", "frame", "disconnected"]


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_graceful_end_with_a_peer_that_does_not_read_ends_in_time(
    net: Any, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picows.aio.connection, "CLOSE_TIMEOUT", 0.2)
    listener = Recorder()
    async with connection(net, side, listener) as (transport, _):
        fill_up(transport)
        transport.disconnect()
        assert "disconnected" not in listener.events
        await transport.wait_disconnected()


@both_sides
@pytest.mark.parametrize("first", [True, False, None])
async def test_disconnect_is_idempotent(net: Any, side: str, first: bool | None) -> None:
    """And graceful=False after graceful=True cuts the wait short."""
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        if first is None:
            far.peer.close()
            await listener.disconnected.wait()
        else:
            fill_up(transport)
            transport.disconnect(first)
            transport.disconnect(first)
            assert transport.is_disconnected
            # Still there: the far end has read nothing.
            assert listener.events == ["connected", "pause"]
        transport.disconnect(False)
        transport.disconnect(True)
        transport.disconnect(False)
        await transport.wait_disconnected()
        transport.disconnect()
        transport.disconnect(False)


@both_sides
async def test_data_right_ahead_of_a_reset_does_not_hide_it(net: Any, side: str) -> None:
    """A loop may be told of both in one event; whoever reads must then hear of the second."""
    listener = Recorder()
    async with connection(net, side, listener) as (_, far):
        with far.peer.sock:
            far.peer.send(far.frame(TEXT, b"last"))
            far.peer.reset()
        await asyncio.wait_for(listener.disconnected.wait(), 3 * loops.TIME_FACTOR)


@both_sides
async def test_disconnect_inside_resume_writing(net: Any, side: str) -> None:
    """The loop is inside of its own writing then, and has just sent the last byte."""

    class Leaves(Recorder):
        def resume_writing(self) -> None:
            super().resume_writing()
            self.transport.disconnect()

    for _ in range(3):
        listener = Leaves()
        async with connection(net, side, listener) as (transport, far):
            fill_up(transport)
            header = 2 + 8 + (4 if side == "client" else 0)
            assert len(await far.recv_all()) == PARTS * (header + PART)
            await transport.wait_disconnected()
        assert listener.events == ["connected", "pause", "resume", "disconnected"]


# -- callbacks that raise (line 37) ----------------------------------------------------------------

TEXT_OF_EXCEPTION = "the password is hunter2"
LONG_REASON = "x" + "é" * 100  # 201 bytes; 123 bytes end at a character, 124 would not

# What is raised; the payload of the CLOSE that the peer gets.
RAISED: dict[str, tuple[Callable[[], BaseException], bytes]] = {
    "exception": (lambda: ValueError(TEXT_OF_EXCEPTION), b"\x03\xf3"),
    "protocol error": (lambda: WSProtocolError(4001, "because"), b"\x0f\xa1because"),
    "unsendable code": (lambda: WSProtocolError(1006, TEXT_OF_EXCEPTION), b"\x03\xf3"),
    "no code": (lambda: WSProtocolError(0, TEXT_OF_EXCEPTION), b"\x03\xf3"),
    "long reason": (
        lambda: WSProtocolError(1008, LONG_REASON),
        b"\x03\xf0" + ("x" + "é" * 61).encode(),
    ),
    "odd long reason": (
        lambda: WSProtocolError(1008, LONG_REASON[1:]),
        b"\x03\xf0" + ("é" * 61).encode(),
    ),
    "cancelled": (lambda: asyncio.CancelledError(TEXT_OF_EXCEPTION), b"\x03\xf3"),
}
CALLBACKS = [
    "on_ws_connected",
    "on_ws_frame",
    "on_ws_disconnected",
    "pause_writing",
    "resume_writing",
]


class Raises(Recorder):
    """Raises once, in the callback named. A TEXT makes it send more than the kernel takes."""

    def __init__(self, callback: str, make: Callable[[], BaseException]) -> None:
        super().__init__()
        self.callback = callback
        self.make = make
        self.raised: BaseException | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        super().on_ws_connected(transport)
        self.raise_in("on_ws_connected")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        super().on_ws_frame(transport, frame)
        self.raise_in("on_ws_frame")
        if frame.msg_type == WSMsgType.TEXT:
            fill_up(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        super().on_ws_disconnected(transport)
        self.raise_in("on_ws_disconnected")

    def pause_writing(self) -> None:
        super().pause_writing()
        self.raise_in("pause_writing")

    def resume_writing(self) -> None:
        super().resume_writing()
        self.raise_in("resume_writing")

    def raise_in(self, callback: str) -> None:
        if callback == self.callback and self.raised is None:
            self.raised = self.make()
            raise self.raised


async def provoke(listener: Raises, far: FarEnd) -> bytes | None:
    """Make the callback run; returns the payload of the CLOSE that the far end gets."""
    if listener.callback in ("pause_writing", "resume_writing"):
        await far.send(far.frame(TEXT, b"send much"))
        # The far end reads only now, so there is a pause first.
        await listener.paused.wait()
    elif listener.callback == "on_ws_frame":
        await far.send(far.frame(BINARY, b"one"), far.frame(BINARY, b"two"))
    elif listener.callback == "on_ws_disconnected":
        far.peer.end_sending()
    return await far.recv_last_close()


@both_sides
@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.net(loops=("asyncio-debug", "uvloop"))
async def test_a_callback_that_raises(
    net: Any, side: str, callback: str, raised: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, close = RAISED[raised]
    listener = Raises(callback, make)
    async with connection(net, side, listener) as (transport, far):
        got = await provoke(listener, far)
        # When it is over there is nobody to tell.
        assert got == (None if callback == "on_ws_disconnected" else close)
        if side == "client":
            for _ in range(2):
                with pytest.raises(BaseException) as caught:  # noqa: PT011
                    await transport.wait_disconnected()
                assert caught.value is listener.raised
        else:
            await transport.wait_disconnected()
            assert transport.is_disconnected
    assert listener.raised is not None
    if callback == "on_ws_frame":
        assert listener.events.count("frame") == 1, "the batch went on behind the exception"
    logged = [record for record in caplog.records if record.exc_info is not None]
    if side == "client":
        assert not logged
    else:
        (record,) = logged
        assert record.name == "picows.server"
        assert record.levelno == logging.ERROR
        assert record.exc_info[1] is listener.raised
        assert callback in record.getMessage()


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
@pytest.mark.parametrize("raised", ["exception", "protocol error", "cancelled"])
async def test_disconnect_on_exception_false_lets_the_connection_live(
    net: Any, side: str, raised: str, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Raises("on_ws_frame", RAISED[raised][0])
    async with connection(net, side, listener, disconnect_on_exception=False) as (transport, far):
        await far.send(far.frame(BINARY, b"one"), far.frame(BINARY, b"two"))
        assert (await listener.frames.get())[1] == b"one"
        assert (await listener.frames.get())[1] == b"two"
        await far.send(far.frame(PING, b"alive?"))
        assert await far.recv() == (PONG, b"alive?")
        assert not transport.is_disconnected
        far.peer.close()
        # Logged, and nothing to re-raise.
        await transport.wait_disconnected()
    (record,) = [record for record in caplog.records if record.exc_info is not None]
    assert record.exc_info[1] is listener.raised


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,), aiofastnet=(None,))
@pytest.mark.parametrize("callback", ["on_ws_connected", "pause_writing", "resume_writing"])
async def test_disconnect_on_exception_false_is_about_frames_alone(
    net: Any, side: str, callback: str
) -> None:
    listener = Raises(callback, RAISED["exception"][0])
    async with connection(net, side, listener, disconnect_on_exception=False) as (_, far):
        assert await provoke(listener, far) == b"\x03\xf3"


@both_sides
@pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
async def test_the_first_exception_is_raised_and_the_second_logged(
    net: Any, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    class RaisesTwice(Recorder):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            super().on_ws_frame(transport, frame)
            raise LookupError("first")

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            super().on_ws_disconnected(transport)
            raise ArithmeticError("second")

    listener = RaisesTwice()
    async with connection(net, side, listener) as (transport, far):
        await far.send(far.frame(TEXT, b"one"))
        if side == "client":
            with pytest.raises(LookupError, match="first"):
                await transport.wait_disconnected()
        else:
            await transport.wait_disconnected()
    logged = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert logged == (["second"] if side == "client" else ["first", "second"])


@both_sides
@pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
async def test_an_exception_behind_a_close_of_ours_sends_no_second_one(net: Any, side: str) -> None:
    class ClosesAndRaises(Recorder):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            super().on_ws_frame(transport, frame)
            transport.send_close(WSCloseCode.GOING_AWAY, b"mine")
            raise ValueError(TEXT_OF_EXCEPTION)

    listener = ClosesAndRaises()
    async with connection(net, side, listener) as (_, far):
        await far.send(far.frame(TEXT, b"one"))
        assert await far.recv_last_close() == b"\x03\xe9mine"


@both_sides
@pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
async def test_what_a_callback_sent_before_it_raised_goes_out_ahead_of_the_close(
    net: Any, side: str
) -> None:
    class SendsAndRaises(Recorder):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            super().on_ws_frame(transport, frame)
            transport.send(WSMsgType.TEXT, b"result")
            raise ValueError(TEXT_OF_EXCEPTION)

    for coalesce in (True, False):
        listener = SendsAndRaises()
        async with connection(net, side, listener, coalesce_writes=coalesce) as (_, far):
            await far.send(far.frame(TEXT, b"one"), far.frame(TEXT, b"two"))
            assert await far.recv() == (TEXT, b"result")
            assert await far.recv() == (CLOSE, b"\x03\xf3")
            assert await far.recv_all() == b""


@both_sides
@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.net(loops=("asyncio",))
def test_a_keyboard_interrupt_leaves_the_loop_and_ends_the_connection(
    net: Any,
    side: str,
    callback: str,
    exception: type[BaseException],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever runs the loop gets it. Running on, the connection ends as with any exception."""
    loop = loops.new_loop(net.loop_kind)
    swallowed: list[BaseException] = []
    loop.set_exception_handler(lambda loop, context: swallowed.append(context["exception"]))
    interrupts = 0
    got: list[bytes | None] = []

    async def main() -> None:
        nonlocal interrupts
        listener = Raises(callback, lambda: exception(TEXT_OF_EXCEPTION))
        try:
            async with connection(net, side, listener) as (_, far):
                got.append(await provoke(listener, far))
        except exception:
            # Raised in on_ws_connected it comes out of ws_connect, which has a caller.
            assert (side, callback) == ("client", "on_ws_connected")
            interrupts += 1
            listener.check_order()

    try:
        task = loop.create_task(main())
        while not task.done():
            try:
                loop.run_until_complete(task)
            except exception:
                interrupts += 1
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    assert interrupts == 1
    assert not swallowed
    if got:
        assert got == [None if callback == "on_ws_disconnected" else b"\x03\xf3"]


# -- wait_disconnected -----------------------------------------------------------------------------


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_wait_disconnected_has_many_waiters_and_a_cancelled_one_disturbs_nobody(
    net: Any, side: str
) -> None:
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        waiters = [asyncio.ensure_future(transport.wait_disconnected()) for _ in range(5)]
        await far.send(far.frame(TEXT, b"one"))
        await listener.frames.get()
        waiters[0].cancel()
        waiters[3].cancel()
        await asyncio.wait(waiters[::3])
        assert [waiter.done() for waiter in waiters] == [True, False, False, True, False]
        await far.send(far.frame(TEXT, b"two"))
        await listener.frames.get()  # the connection lives
        # One that is cancelled in the very moment of the end.
        listener.on_ws_disconnected = lambda transport: (  # type: ignore[method-assign]
            Recorder.on_ws_disconnected(listener, transport),
            waiters[2].cancel(),
        )
        far.peer.close()
        await asyncio.wait(waiters)
        assert waiters[2].cancelled()
        assert waiters[1].result() is waiters[4].result() is None
        await transport.wait_disconnected()


@both_sides
@pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
async def test_wait_disconnected_tells_a_client_of_a_violation(
    net: Any, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        waiters = [asyncio.ensure_future(transport.wait_disconnected()) for _ in range(3)]
        await far.send(far.frame(3))
        opcode, payload = await far.recv()
        assert (opcode, payload[:2]) == (CLOSE, b"\x03\xea")
        assert await far.recv_all() == b""
        results = await asyncio.gather(*waiters, return_exceptions=True)
        if side == "client":
            assert [getattr(each, "code", None) for each in results] == [1002] * 3
            assert all(type(each) is WSProtocolError for each in results)
            assert "opcode" in str(results[0])
        else:
            assert results == [None] * 3


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("end", [end_by_peer_eof, end_by_peer_reset, end_by_both_closes])
async def test_wait_disconnected_raises_nothing_for_a_peer_that_closes_or_vanishes(
    net: Any, side: str, end: Callable[[WSTransport, FarEnd], Awaitable[None]]
) -> None:
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        await end(transport, far)
        await transport.wait_disconnected()
        assert listener.events[-1] == "disconnected"


# -- the closing handshake -------------------------------------------------------------------------


@both_sides
@pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
async def test_close_handshake_when_ours_is_first(net: Any, side: str) -> None:
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        assert transport.close_handshake is None
        assert not transport.is_close_frame_sent
        transport.send_close(4000, "grüße")
        closing = transport.close_handshake
        assert transport.is_close_frame_sent
        assert (closing.sent.code, closing.sent.reason) == (4000, "grüße")
        assert closing.recv is None
        assert closing.recv_then_sent is None
        await far.send(far.close_frame(1000, b"ok"))
        await listener.frames.get()
        transport.send_close(1001, "too late")
        closing = transport.close_handshake
        assert (closing.sent.code, closing.sent.reason) == (4000, "grüße")
        assert (closing.recv.code, closing.recv.reason) == (WSCloseCode.OK, "ok")
        assert isinstance(closing.recv.code, WSCloseCode)
        assert closing.recv_then_sent is False
        assert not transport.is_disconnected
        transport.disconnect()
        assert await far.recv() == (CLOSE, b"\x0f\xa0" + "grüße".encode())
        assert await far.recv_all() == b""
    assert transport.close_handshake == closing


@both_sides
@pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
async def test_close_handshake_when_theirs_is_first(net: Any, side: str) -> None:
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        await far.send(far.close_frame(3999))
        await listener.frames.get()
        closing = transport.close_handshake
        assert (closing.recv.code, closing.recv.reason) == (3999, "")
        assert closing.sent is None
        assert closing.recv_then_sent is None
        assert not transport.is_close_frame_sent
        assert not transport.is_disconnected
        transport.send_close(WSCloseCode.GOING_AWAY)
        closing = transport.close_handshake
        assert (closing.sent.code, closing.sent.reason) == (1001, "")
        assert closing.recv_then_sent is True
        assert transport.is_close_frame_sent
        transport.disconnect()
        assert await far.recv() == (CLOSE, b"\x03\xe9")


@both_sides
@pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
async def test_close_handshake_is_known_inside_the_callback(net: Any, side: str) -> None:
    class Looks(Recorder):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            super().on_ws_frame(transport, frame)
            self.seen = transport.close_handshake
            transport.disconnect()

    listener = Looks()
    async with connection(net, side, listener) as (transport, far):
        await far.send(far.close_frame(1012, b"later"))
        await transport.wait_disconnected()
    assert (listener.seen.recv.code, listener.seen.recv.reason) == (1012, "later")
    assert transport.close_handshake.recv_then_sent is None


@both_sides
@pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
@pytest.mark.parametrize("end", [end_by_peer_eof, end_by_disconnect])
async def test_close_handshake_stays_none_without_a_close(
    net: Any, side: str, end: Callable[[WSTransport, FarEnd], Awaitable[None]]
) -> None:
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        await end(transport, far)
        await transport.wait_disconnected()
    assert transport.close_handshake is None


@both_sides
@pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
async def test_an_empty_close_is_sent_and_echoed_empty(net: Any, side: str) -> None:
    class Echoes(Recorder):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            super().on_ws_frame(transport, frame)
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()

    echoing = Echoes()
    async with connection(net, side, echoing) as (transport, far):
        await far.send(far.frame(CLOSE))
        assert await far.recv() == (CLOSE, b"")
        assert await far.recv_all() == b""
        await transport.wait_disconnected()
        closing = transport.close_handshake
        assert closing.recv == closing.sent == (WSCloseCode.NO_INFO, None)
    first = Recorder()
    async with connection(net, side, first) as (transport, far):
        transport.send_close()
        assert await far.recv() == (CLOSE, b"")


REFUSED_CLOSES: list[tuple[tuple[Any, ...], type[Exception]]] = [
    *[
        ((code,), ValueError)
        for code in (1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536 + 1000, -1)
    ],
    ((2**64 + 1000,), ValueError),
    ((1000, b"x" * 124), ValueError),
    ((1000, "é" * 62), ValueError),
    ((1000, b"\xff"), ValueError),
    ((1000, "\ud800"), ValueError),
    ((0, b"reason without code"), ValueError),
    (("1000",), TypeError),
    ((1000.0,), TypeError),
    ((None,), TypeError),
    ((True,), TypeError),
    ((1000, 5), TypeError),
]


@both_sides
@pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
async def test_line_21_refused_closes_and_control_frames_send_nothing(net: Any, side: str) -> None:
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        for arguments, error in REFUSED_CLOSES:
            with pytest.raises(error):
                transport.send_close(*arguments)
            assert transport.close_handshake is None
            assert not transport.is_close_frame_sent
        for send in (transport.send_ping, transport.send_pong):
            with pytest.raises(ValueError, match="125"):
                send(b"x" * 126)
            with pytest.raises(ValueError, match="125"):
                send("é" * 63)
        with pytest.raises(ValueError, match="send_close"):
            transport.send(WSMsgType.CLOSE, b"\x03\xe8")
        transport.send_ping(b"x" * 125)
        transport.send_close(1000, b"x" * 123)
        assert await far.recv() == (PING, b"x" * 125)
        assert await far.recv() == (CLOSE, b"\x03\xe8" + b"x" * 123)
        transport.disconnect()
        assert await far.recv_all() == b""


@both_sides
@pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
@pytest.mark.parametrize("code", [1000, 1003, 1007, 1011, 1014, 3000, 4999])
async def test_close_codes_that_may_be_sent(net: Any, side: str, code: int) -> None:
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        transport.send_close(code, "r")
        assert await far.recv() == (CLOSE, code.to_bytes(2, "big") + b"r")


SENDS: dict[str, Callable[[WSTransport], object]] = {
    "send": lambda transport: transport.send(WSMsgType.TEXT, b"x"),
    "send_ping": lambda transport: transport.send_ping(b"x"),
    "send_pong": lambda transport: transport.send_pong(b"x"),
    "send_close": lambda transport: transport.send_close(1000, b"x"),
    "send_reuse": lambda transport: transport.send_reuse_external_bytearray(
        WSMsgType.TEXT, bytearray(20), 14
    ),
}


def send_close(transport: WSTransport) -> None:
    transport.send_close(1001)


def disconnect(transport: WSTransport) -> None:
    transport.disconnect()


def abort(transport: WSTransport) -> None:
    transport.disconnect(graceful=False)


@both_sides
@pytest.mark.parametrize("end", [send_close, disconnect, abort, None])
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_every_send_after_the_end_is_a_no_op_that_is_logged(
    net: Any,
    side: str,
    end: Callable[[WSTransport], None] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After send_close, disconnect, and a connection that was lost."""
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        if end is None:
            far.peer.close()
            await listener.disconnected.wait()
        else:
            end(transport)
        with caplog.at_level(PICOWS_DEBUG_LL, "picows"):
            for name, send in SENDS.items():
                caplog.clear()
                send(transport)
                records = [record.levelno for record in caplog.records]
                assert records == [PICOWS_DEBUG_LL], name
        # What could not have been sent is refused all the same.
        with pytest.raises(ValueError, match="1006"):
            transport.send_close(1006)
        with pytest.raises(TypeError):
            transport.send(WSMsgType.TEXT, 5)
        if end is not None:
            transport.disconnect()
            expected = b"\x03\xe9" if end is send_close else None
            assert await far.recv_last_close() == expected


# -- what a transport says of itself ---------------------------------------------------------------


@both_sides
async def test_what_a_transport_says_of_itself(net: Any, side: str) -> None:
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        assert transport is listener.transport
        assert isinstance(transport, WSTransport)
        assert transport.is_client_side is (side == "client")
        assert transport.is_secure is net.tls
        assert transport.is_disconnected is False
        assert transport.is_close_frame_sent is False
        assert transport.request.method == b"GET"
        assert transport.response.status == 101
        assert transport.underlying_transport.get_extra_info("peername")[0] == "127.0.0.1"
        for name in ("is_disconnected", "close_handshake", "request", "underlying_transport"):
            with pytest.raises(AttributeError):
                setattr(transport, name, None)
        far.peer.close()
        await transport.wait_disconnected()
        assert transport.is_disconnected is True
        assert transport.response.status == 101


def test_nobody_makes_a_transport_or_a_frame() -> None:
    with pytest.raises(TypeError):
        WSTransport()
    with pytest.raises(TypeError):
        WSFrame()


# -- auto pong (line 43) ---------------------------------------------------------------------------


@both_sides
async def test_a_ping_is_answered_and_not_shown(net: Any, side: str) -> None:
    listener = Recorder()
    async with connection(net, side, listener) as (_, far):
        payload = bytes(range(125))
        await far.send(far.frame(PING), far.frame(PING, payload), far.frame(PONG, b"unasked"))
        assert await far.recv() == (PONG, b"")
        assert await far.recv() == (PONG, payload)
        assert await listener.frames.get() == (WSMsgType.PONG, b"unasked")
        assert listener.frames.empty()


@both_sides
@pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
async def test_without_auto_pong_a_ping_is_shown_and_not_answered(net: Any, side: str) -> None:
    listener = Recorder()
    async with connection(net, side, listener, enable_auto_pong=False) as (transport, far):
        await far.send(far.frame(PING, b"p"))
        assert await listener.frames.get() == (WSMsgType.PING, b"p")
        transport.send_pong(b"by hand")
        assert await far.recv() == (PONG, b"by hand")


@both_sides
async def test_pongs_for_a_peer_that_does_not_read_are_bounded_and_the_newest_is_kept(
    net: Any, side: str
) -> None:
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        with own_socket(transport) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        flood = far.frame(PING, b"x" * 125) * 4_000
        for _ in range(16):  # 8 MB of PONGs, were they all kept
            await far.send(flood, far.frame(TEXT, b"mark"))
            await listener.frames.get()
            # 64 KiB and a read's worth; the loops' own TLS adds 512 KiB of its own.
            assert transport.underlying_transport.get_write_buffer_size() < 1024 * 1024
        await far.send(far.frame(PING, b"newest"), far.frame(TEXT, b"mark"))
        await listener.frames.get()

        def read_to_newest() -> int:
            number = 0
            while far.peer.recv_frame().payload != b"newest":
                number += 1
            return number

        assert await in_thread(read_to_newest) < 16 * 4_000


# -- memory (line 38) ------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize(
    "end",
    [end_by_peer_eof, end_by_peer_reset, end_by_disconnect, end_by_abort, end_by_violation],
)
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_connection_is_freed_without_the_cycle_collector(
    net: Any, side: str, end: Callable[[WSTransport, FarEnd], Awaitable[None]]
) -> None:
    """The listener keeps its transport, as most do, and the transport knows its listener."""
    gc.collect()
    gc.disable()
    try:
        watched = []
        listener = Recorder()
        async with connection(net, side, listener) as (transport, far):
            # A transport has no weak references; its request lives as long as itself.
            watched = [weakref.ref(listener), weakref.ref(transport.request)]
            waiter = asyncio.ensure_future(transport.wait_disconnected())
            await far.send(far.frame(TEXT, b"one"), far.frame(PING))
            assert await far.recv() == (PONG, b"")
            await end(transport, far)
            await asyncio.wait([waiter])
            if not waiter.exception():  # or the traceback in it is what holds them
                del waiter
        if end is end_by_violation and side == "client":
            waiter.exception().__traceback__ = None
            del waiter
        del listener, transport, far
        # Handles of the loop that have run, but are not yet let go of.
        for _ in range(5):
            await asyncio.sleep(0)
        assert [ref() for ref in watched] == [None, None]
    finally:
        gc.enable()


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_the_cycle_collector_finds_nothing_of_ours_after_many_connections(net: Any) -> None:
    listeners: list[Recorder] = []

    def route(request: object) -> Recorder:
        listeners.append(Recorder())
        return listeners[-1]

    async def one(server: Any) -> None:
        transport, _ = await net.connect(Recorder, server)
        transport.send(WSMsgType.TEXT, b"one")
        transport.send_close(1000)
        transport.disconnect()
        await transport.wait_disconnected()

    server = await net.serve(route)
    await one(server)
    gc.collect()
    gc.disable()
    try:
        for _ in range(30):
            await one(server)
        for listener in listeners:
            await listener.disconnected.wait()
        await server.shutdown()
        listeners.clear()
        del listener
        await asyncio.sleep(0)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        ours = [each for each in gc.garbage if is_ours(each)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not ours


def is_ours(each: object) -> bool:
    module = type(each).__module__
    return isinstance(module, str) and (module.startswith("picows") or module == __name__)


# -- threads (line 49) -----------------------------------------------------------------------------


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_every_method_called_from_another_thread_raises(net: Any, side: str) -> None:
    calls: dict[str, Callable[[WSTransport], object]] = {
        **SENDS,
        "flush": lambda transport: transport.flush(),
        "disconnect": lambda transport: transport.disconnect(),
        "abort": lambda transport: transport.disconnect(graceful=False),
        "pause_reading": lambda transport: transport.pause_reading(),
        "resume_reading": lambda transport: transport.resume_reading(),
    }
    listener = Recorder()
    async with connection(net, side, listener) as (transport, far):
        for name, call in calls.items():
            with pytest.raises(RuntimeError, match="thread"):
                await in_thread(call, transport)
            assert not transport.is_disconnected, name
        transport.send(WSMsgType.TEXT, b"the only one")
        assert await far.recv() == (TEXT, b"the only one")
        await far.send(far.frame(TEXT, b"back"))
        assert await listener.frames.get() == (WSMsgType.TEXT, b"back")
        # And the way that the error names works.
        loop = asyncio.get_running_loop()
        await in_thread(loop.call_soon_threadsafe, transport.send, WSMsgType.TEXT, b"over")
        assert await far.recv() == (TEXT, b"over")


@pytest.mark.net(loops=("asyncio", "uvloop"))
def test_several_loops_in_several_threads(net: Any) -> None:
    """Each with a server and clients of its own, all at once."""

    class Echo(Recorder):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())

    async def main(number: int) -> None:
        server = await net.serve(lambda request: Echo())
        transport, listener = await net.connect(Recorder, server)
        for size in range(0, 60_000, 600):
            message = b"%d" % number + b"x" * size
            transport.send(WSMsgType.BINARY, message)
            assert await listener.frames.get() == (WSMsgType.BINARY, message)
        transport.disconnect()
        await transport.wait_disconnected()
        await server.shutdown()

    failures: list[BaseException] = []

    def work(number: int) -> None:
        loop = loops.new_loop(net.loop_kind)
        try:
            loop.run_until_complete(asyncio.wait_for(main(number), loops.TIME_LIMIT))
        except BaseException as exc:
            failures.append(exc)
        finally:
            loop.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
