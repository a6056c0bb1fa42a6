"""Ends in good order: the guide's own lines, disconnect in both ways, a close that ends in time
whatever the peer does, and a server that shuts down under every kind of client at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from typing import Any

import pytest
from aio.traffic import (
    MASK,
    SIDES,
    Recorder,
    connected,
    frame_to,
    our_socket,
    read_frame,
    read_to_end,
    some_iterations,
)

import loops
import picows.aio.connection
from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from raw_peer import (
    BINARY,
    CLOSE,
    TEXT,
    RawPeer,
    encode_close,
    encode_frame,
    in_thread,
    raw_connect,
    upgrade_request,
)

both_sides = pytest.mark.parametrize("side", SIDES)

# Nothing has to be done within it; each such test waits for it once.
SHORT = 0.1

# More than the kernel takes with the small buffers there.
PART = 256 * 1024
PARTS = 8


def fill_up(transport: WSTransport) -> None:
    our_socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    for _ in range(PARTS):
        transport.send(WSMsgType.BINARY, bytes(PART))
    assert transport.underlying_transport.get_write_buffer_size() > 0


# -- the guide -------------------------------------------------------------------------------------


class Guided(WSListener):
    """The listener of the guide, with notes."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.connected = asyncio.Event()

    def initiate_close(self, transport: WSTransport) -> None:
        transport.send_close(WSCloseCode.OK, b"done")
        transport.disconnect()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.calls.append("connected")
        self.transport = transport
        self.connected.set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.calls.append(frame.msg_type.name)
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            return

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.calls.append("disconnected")


@pytest.mark.parametrize("who", ["client", "server", "both"])
@pytest.mark.parametrize("how", ["leaves", "waits"])
async def test_the_close_of_the_guide(net: Any, who: str, how: str) -> None:
    """One side, the other, or both at the same moment begin; leaving right behind the CLOSE, as the
    guide does, or waiting for the reply, which then comes.
    """
    sides = {"client": Guided(), "server": Guided()}
    server = await net.serve(lambda request: sides["server"])
    await net.connect(lambda: sides["client"], server)
    await sides["server"].connected.wait()
    # Between these lines nothing is read: both means both.
    for side, listener in sides.items():
        if who in (side, "both"):
            if how == "leaves":
                listener.initiate_close(listener.transport)
            else:
                listener.transport.send_close(WSCloseCode.OK, b"done")
    for listener in sides.values():
        await listener.transport.wait_disconnected()
    server.close()
    await server.wait_closed()
    for side, listener in sides.items():
        handshake = listener.transport.close_handshake
        assert (handshake.sent.code, handshake.sent.reason) == (WSCloseCode.OK, "done")
        if how == "leaves" and who in (side, "both"):
            # It did not look at the reply.
            assert handshake.recv is None
            assert listener.calls == ["connected", "disconnected"]
        else:
            assert handshake.recv == handshake.sent
            assert handshake.recv_then_sent is (who not in (side, "both"))
            assert listener.calls == ["connected", "CLOSE", "disconnected"]


# -- disconnect ------------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("graceful", [True, False])
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_gracefully_everything_is_sent_first_and_else_it_is_dropped(
    net: Any, side: str, graceful: bool
) -> None:
    listener = Recorder()
    async with connected(net, side, listener, receive_buffer=4096) as peer:
        fill_up(listener.transport)
        listener.transport.send_close(1001, "bye")
        listener.transport.disconnect(graceful)
        frames = await in_thread(read_to_end, peer)
        await listener.until_gone()
    payloads = [frame.payload for frame in frames]
    if graceful:
        assert payloads == [bytes(PART)] * PARTS + [b"\x03\xe9bye"]
    else:
        assert len(payloads) < PARTS


@both_sides
@pytest.mark.net(tls=(True,))
async def test_a_peer_that_never_ends_its_tls_is_left_behind(
    net: Any, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything was sent; it does not answer our close_notify, and does not end TCP."""
    monkeypatch.setattr(picows.aio.connection, "CLOSE_TIMEOUT", SHORT)
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        listener.transport.send_close(1000)
        assert (await in_thread(peer.recv_frame)).opcode == CLOSE
        listener.transport.disconnect()
        # The time limit of the test ends it otherwise.
        await listener.transport.wait_disconnected()


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_without_tls_there_is_nothing_to_wait_for(net: Any, side: str) -> None:
    """Though the peer says nothing and reads nothing: our part was sent, the rest is the system's.
    No timer runs, or the test's own check for timers would not see the end of it.
    """
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        listener.transport.send_close(1000)
        listener.transport.disconnect()
        await asyncio.wait_for(listener.transport.wait_disconnected(), 5 * loops.TIME_FACTOR)
        assert peer.sock.fileno() >= 0


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_peer_that_reads_a_little_now_and_then_does_not_lengthen_the_close(
    net: Any, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One deadline, not one for each byte."""
    monkeypatch.setattr(picows.aio.connection, "CLOSE_TIMEOUT", SHORT)
    over = threading.Event()

    def sip(peer: RawPeer) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while not over.wait(0.01) and peer.recv_some(100):
                pass

    listener = Recorder()
    async with connected(net, side, listener, receive_buffer=4096) as peer:
        fill_up(listener.transport)
        sipping = asyncio.ensure_future(in_thread(sip, peer))
        try:
            listener.transport.disconnect()
            # 2 MB in sips of 100 bytes would take minutes.
            await listener.transport.wait_disconnected()
        finally:
            over.set()
            await sipping


# -- Server.shutdown -------------------------------------------------------------------------------


class Served(Recorder):
    """Does nothing about a CLOSE: shutdown() has to."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind


class Crowd:
    """A server, and a raw client of each kind that a test asks for."""

    def __init__(self, net: Any) -> None:
        self.net = net
        self.served: dict[str, Served] = {}
        self.peers: dict[str, RawPeer] = {}
        # Those that a thread drives until the end.
        self.driven: dict[str, asyncio.Future[Any]] = {}

    def route(self, request: WSUpgradeRequest) -> Any:
        kind = request.path[1:].decode()
        if kind == "refused":
            response = WSUpgradeResponse.create_error_response(503, bytes(16_000_000))
            return WSUpgradeResponseWithListener(response, None)
        self.served[kind] = Served(kind)
        return self.served[kind]

    async def serve(self, **kwargs: Any) -> Any:
        self.server = await self.net.serve(self.route, **kwargs)
        self.port = self.server.sockets[0].getsockname()[1]
        return self.server

    async def join(self, kind: str) -> RawPeer:
        peer: RawPeer = await in_thread(raw_connect, self.port, self.net.client_ssl)
        self.peers[kind] = peer
        request = upgrade_request(path=b"/" + kind.encode())
        if kind == "half":
            await in_thread(peer.send, request[:40])
        elif kind == "refused":
            await in_thread(peer.send, request)
            await in_thread(peer.recv_exactly, 12)
        else:
            await in_thread(peer.send, request)
            await in_thread(peer.recv_head)
            await self.served[kind].until(lambda: self.served[kind].events)
        return peer

    def drive(self, kind: str, function: Any) -> None:
        self.driven[kind] = asyncio.ensure_future(in_thread(function, self.peers[kind]))

    async def leave(self) -> None:
        for peer in self.peers.values():
            peer.close()
        for task in self.driven.values():
            with contextlib.suppress(OSError, EOFError):
                await task

    def check_gone(self, *kinds: str) -> None:
        for kind in kinds:
            events = self.served[kind].events
            assert events.count("connected") == events.count("disconnected") == 1, kind
            assert events[-1] == "disconnected", kind


def answer_close(peer: RawPeer) -> list[bytes]:
    """A client as it should be: reads, answers the CLOSE, waits for the end."""
    payloads = []
    while True:
        frame = read_frame(peer)[0]
        payloads.append(frame.payload)
        if frame.opcode == CLOSE:
            peer.send(encode_frame(CLOSE, frame.payload, mask=MASK))
            assert peer.recv_all() == b""
            peer.close()
            return payloads


def read_slowly(peer: RawPeer) -> list[bytes]:
    """As answer_close, in small pieces: takes its time, less than the server gives it."""
    data = bytearray()
    while len(data) < PARTS * (PART + 10):
        data += peer.recv_some(4096)
    peer.unread = bytes(data) + peer.unread
    return answer_close(peer)


def talk_for_ever(peer: RawPeer) -> None:
    """Frames without end, and no answer to a CLOSE."""
    with contextlib.suppress(ConnectionError, ssl.SSLError, OSError):
        while True:
            peer.send(encode_frame(TEXT, b"and another thing", mask=MASK) * 10)


async def test_shutdown_under_every_kind_of_client_at_once(net: Any) -> None:
    """Those that can are told and closed in good order, at their own pace; the others are cut off
    when there is no more time.
    """
    crowd = Crowd(net)
    server = await crowd.serve(websocket_handshake_timeout=None)
    try:
        for kind in ("live", "slow", "silent", "deaf", "paused", "talkative", "half", "refused"):
            await crowd.join(kind)
        for kind in ("slow", "deaf"):
            fill_up(crowd.served[kind].transport)
        crowd.served["paused"].transport.pause_reading()
        crowd.drive("live", answer_close)
        crowd.drive("slow", read_slowly)
        crowd.drive("paused", answer_close)
        crowd.drive("talkative", talk_for_ever)
        await crowd.served["talkative"].until_frames(10)

        shutting_down = asyncio.ensure_future(server.shutdown(4321, timeout=None))
        close = (4321).to_bytes(2, "big")
        assert await crowd.driven["live"] == [close]
        assert await crowd.driven["slow"] == [bytes(PART)] * PARTS + [close]
        # Nothing was upgraded there: cut off at once.
        assert await in_thread(crowd.peers["half"].recv_all) == b""
        assert len(await in_thread(crowd.peers["refused"].recv_all)) < 16_000_000
        await crowd.served["live"].until_gone()
        await crowd.served["slow"].until_gone()
        with pytest.raises(ConnectionRefusedError):
            await in_thread(raw_connect, crowd.port)
        assert not server.is_serving()
        # The others would make it wait for ever.
        assert not shutting_down.done()
        await server.shutdown(timeout=SHORT)
        await shutting_down
        crowd.check_gone("live", "slow", "silent", "deaf", "paused", "talkative")
        frames = await in_thread(read_to_end, crowd.peers["silent"])
        assert [(frame.opcode, frame.payload) for frame in frames] == [(CLOSE, close)]
        assert set(crowd.served) == {"live", "slow", "silent", "deaf", "paused", "talkative"}
    finally:
        await crowd.leave()
        await server.shutdown(timeout=0.1)


async def test_shutdown_ends_with_the_last_client_however_that_leaves(net: Any) -> None:
    """Without a limit: one answers, one ends its stream, one resets, one had begun to close."""
    crowd = Crowd(net)
    server = await crowd.serve()
    for kind in ("answers", "leaves", "resets", "begun"):
        await crowd.join(kind)
    # The peer has not answered that one yet.
    crowd.served["begun"].transport.send_close(4000)
    shutting_down = asyncio.ensure_future(server.shutdown(timeout=None))
    assert await in_thread(answer_close, crowd.peers["answers"]) == [b"\x03\xe9"]
    frames = [await in_thread(crowd.peers[kind].recv_frame) for kind in ("leaves", "resets")]
    assert {frame.payload for frame in frames} == {b"\x03\xe9"}
    crowd.peers["leaves"].close()
    crowd.peers["resets"].reset()
    await some_iterations()
    assert not shutting_down.done()
    # The first CLOSE is the only one; its answer ends the connection also now.
    assert await in_thread(answer_close, crowd.peers["begun"]) == [b"\x0f\xa0"]
    await shutting_down
    crowd.check_gone("answers", "leaves", "resets", "begun")
    await crowd.leave()


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_shutdown_with_no_code_sends_an_empty_close(net: Any) -> None:
    crowd = Crowd(net)
    server = await crowd.serve()
    peer = await crowd.join("a")
    shutting_down = asyncio.ensure_future(server.shutdown(WSCloseCode.NO_INFO, timeout=None))
    assert await in_thread(answer_close, peer) == [b""]
    await shutting_down
    crowd.check_gone("a")


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_listener_that_raises_at_the_answer_does_not_disturb_a_shutdown(
    net: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """disconnect_on_exception either way: no second CLOSE, and the connection ends."""

    def fail(transport: WSTransport, frame: WSFrame) -> None:
        raise LookupError

    for disconnect in (True, False):
        caplog.clear()
        crowd = Crowd(net)
        server = await crowd.serve(disconnect_on_exception=disconnect)
        peer = await crowd.join("a")
        crowd.served["a"].react = fail
        shutting_down = asyncio.ensure_future(server.shutdown(timeout=None))
        assert await in_thread(answer_close, peer) == [b"\x03\xe9"]
        await shutting_down
        crowd.check_gone("a")
        assert len([record for record in caplog.records if record.exc_info]) == 1


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_shutdown_twice_at_once(net: Any) -> None:
    """The shorter one is as short as it says; the longer one ends with it."""
    crowd = Crowd(net)
    server = await crowd.serve()
    peer = await crowd.join("silent")
    patient = asyncio.ensure_future(server.shutdown(timeout=None))
    assert (await in_thread(peer.recv_frame)).opcode == CLOSE
    await server.shutdown(4000, timeout=SHORT)
    await patient
    # It was told once.
    assert await in_thread(read_to_end, peer) == []
    crowd.check_gone("silent")


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_client_asks_for_the_shutdown(net: Any) -> None:
    """From inside on_ws_frame, where it can be begun only; the one who asked is told as well."""
    tasks: list[asyncio.Task[None]] = []

    def on_frame(transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            tasks.append(asyncio.get_running_loop().create_task(server.shutdown(timeout=None)))
            transport.send(WSMsgType.TEXT, b"as you wish")

    crowd = Crowd(net)
    server = await crowd.serve()
    for kind in ("one", "two"):
        await crowd.join(kind)
        crowd.served[kind].react = on_frame
    await in_thread(crowd.peers["two"].send, encode_frame(TEXT, b"shut down", mask=MASK))
    assert await in_thread(answer_close, crowd.peers["two"]) == [b"as you wish", b"\x03\xe9"]
    assert await in_thread(answer_close, crowd.peers["one"]) == [b"\x03\xe9"]
    await tasks[0]
    crowd.check_gone("one", "two")


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_frames_ahead_of_the_answer_are_delivered_during_a_shutdown(net: Any) -> None:
    """What the peer had sent before it saw our CLOSE; not what comes behind its own."""

    def echo(transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            transport.send(WSMsgType.BINARY, frame)

    crowd = Crowd(net)
    server = await crowd.serve()
    peer = await crowd.join("a")
    crowd.served["a"].react = echo
    shutting_down = asyncio.ensure_future(server.shutdown(timeout=None))
    assert (await in_thread(peer.recv_frame)).payload == b"\x03\xe9"
    peer.send(
        frame_to("server", BINARY, b"late"),
        encode_close(1001, mask=MASK),
        frame_to("server", TEXT, b"too late"),
    )
    # Nothing is sent behind a CLOSE.
    assert await in_thread(peer.recv_all) == b""
    peer.close()
    await shutting_down
    assert crowd.served["a"].payloads == [b"late", b"\x03\xe9"]


# asyncio's own server fails to make a transport (an assert in Server._attach) and loses the socket.
@pytest.mark.net(tls=(False,), aiofastnet=(None, True))
async def test_shutdown_while_a_client_is_accepted(net: Any) -> None:
    """
    It ends, whatever part of accepting it is caught in; and the next sockets, which get the numbers
    of those that were closed, are heard: aiofastnet would watch on for a transport that is closed
    inside of connection_made.
    """
    loop = asyncio.get_running_loop()
    for turns in range(6):
        server = await net.serve(lambda request: Recorder())
        with raw_connect(server.sockets[0].getsockname()[1]) as peer:
            for _ in range(turns):
                await asyncio.sleep(0)
            await server.shutdown(timeout=None)
            with contextlib.suppress(ConnectionResetError):
                assert await in_thread(peer.recv_all) == b""
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                ours, theirs = socket.socketpair()
                stack.enter_context(ours)
                stack.enter_context(theirs)
                ours.setblocking(False)
                theirs.send(b"x")
                assert await loop.sock_recv(ours, 10) == b"x"
                ours.send(b"y")
                theirs.setblocking(False)
                assert await loop.sock_recv(theirs, 10) == b"y"
