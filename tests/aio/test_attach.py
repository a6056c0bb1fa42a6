"""ws_attach: connections whose opening handshake somebody else made."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aio.deflate_peer import far
from aio.traffic import SIDES, Recorder, octets

from picows import PerMessageDeflate, WSFrame, WSMsgType, WSTransport, ws_attach
from picows.aio import backend
from picows.sansio.handshake import client_extensions_handshake, server_extensions_handshake
from raw_peer import BINARY, TEXT, RawPeer, encode_close, encode_frame, in_thread

MASK = b"\x01\x02\x03\x04"
one = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
plain = pytest.mark.net(tls=(False,))


class Before(asyncio.Protocol):
    """Who had the connection before: makes a handshake of one line each way."""

    def __init__(self) -> None:
        self.received = b""
        self.transport: Any
        self.lost = False
        self._changed = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._changed.set()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._changed.set()

    async def until(self, condition: Any) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def line(self) -> bytes:
        """What came behind the other side's line."""
        await self.until(lambda: b"\n" in self.received)
        return self.received.partition(b"\n")[2]


@contextlib.asynccontextmanager
async def two_ends(net: Any) -> AsyncIterator[tuple[Before, Before]]:
    """Server and client, connected, with transports as `net` has them."""
    loop = asyncio.get_running_loop()
    servers: list[Before] = []
    accepted = asyncio.Event()

    def accept() -> Before:
        servers.append(Before())
        accepted.set()
        return servers[-1]

    fast = net.use_aiofastnet is not False
    server = await backend.create_server(loop, fast, accept, "127.0.0.1", 0, ssl=net.server_ssl)
    client = Before()
    options = {"ssl": net.client_ssl, "server_hostname": "localhost"} if net.tls else {}
    port = server.sockets[0].getsockname()[1]
    try:
        await backend.create_connection(loop, fast, client, "127.0.0.1", port, **options)
        await accepted.wait()
        await servers[0].until(lambda: hasattr(servers[0], "transport"))
        yield servers[0], client
    finally:
        server.close()
        for each in (client, *servers):
            each.transport.abort()
        await server.wait_closed()


def echo(transport: WSTransport, frame: WSFrame) -> None:
    if frame.msg_type == WSMsgType.CLOSE:
        transport.send_close(frame.get_close_code())
        transport.disconnect()
    else:
        transport.send(frame.msg_type, frame)


async def test_both_sides(net: Any) -> None:
    """The line that upgrades, messages of all sizes, and the closing handshake."""
    async with two_ends(net) as (server, client):
        client.transport.write(b"upgrade\n")
        assert await server.line() == b""
        server.transport.write(b"upgraded\n")
        ours, theirs = Recorder(echo), Recorder()
        transport = await ws_attach(server.transport, ours, is_client_side=False)
        assert ours.events == ["connected"]
        assert ours.transport is transport
        assert not transport.is_client_side
        assert transport.is_secure == net.tls
        assert transport.request is None
        assert transport.underlying_transport is server.transport
        assert await client.line() == b""
        transport = await ws_attach(client.transport, theirs, is_client_side=True)
        assert transport.is_client_side
        expected = [octets(size) for size in (0, 1, 125, 126, 65535, 65536, 1_000_000)]
        for payload in expected:
            transport.send(WSMsgType.BINARY, payload)
        await theirs.until_frames(len(expected))
        assert theirs.payloads == expected
        transport.send_close(1000)
        await theirs.until_gone()
        await ours.until_gone()
        assert ours.events == ["connected", *expected, b"\x03\xe8", "disconnected"]
        # The protocols before us hear nothing of all that.
        assert not server.lost
        assert not client.lost
        assert client.received == b"upgraded\n"


async def test_what_came_behind_the_handshake(net: Any) -> None:
    """A frame and a half were read already; the rest comes later."""
    stream = encode_frame(TEXT, b"first", mask=MASK) + encode_frame(
        BINARY, bytes(90_000), mask=MASK
    )
    for cut in (0, 3, 11, 5000):
        async with two_ends(net) as (server, client):
            client.transport.write(b"upgrade\n" + stream[:cut])
            await server.until(lambda server=server, cut=cut: len(server.received) == 8 + cut)
            listener = Recorder()
            await ws_attach(
                server.transport,
                listener,
                is_client_side=False,
                trailing_data=memoryview(server.received)[8:],  # type: ignore[arg-type]
            )
            client.transport.write(stream[cut:])
            await listener.until_frames(2)
            assert listener.payloads == [b"first", bytes(90_000)]


async def test_paused_reading(net: Any) -> None:
    """The protocol before had paused its transport, as one does to hand it over."""
    async with two_ends(net) as (server, client):
        server.transport.pause_reading()
        client.transport.write(encode_frame(TEXT, b"waits", mask=MASK))
        listener = Recorder()
        await ws_attach(server.transport, listener, is_client_side=False)
        await listener.until_frames(1)
        assert listener.payloads == [b"waits"]


async def test_pause_reading_in_on_ws_connected(net: Any) -> None:
    """It stays so, until the listener resumes."""
    async with two_ends(net) as (server, client):
        listener = Recorder(greet=lambda transport: transport.pause_reading())
        frame = encode_frame(TEXT, b"one", mask=MASK)
        transport = await ws_attach(
            server.transport, listener, is_client_side=False, trailing_data=frame
        )
        client.transport.write(encode_frame(TEXT, b"two", mask=MASK))
        for _ in range(10):
            await asyncio.sleep(0)
        assert listener.payloads == []
        transport.resume_reading()
        await listener.until_frames(2)
        assert listener.payloads == [b"one", b"two"]


async def test_full_queue(net: Any) -> None:
    """The protocol before us was told to pause; the listener is, and may go on later."""
    async with two_ends(net) as (server, client):
        client.transport.pause_reading()
        while server.transport.get_write_buffer_size() < 1_000_000:
            server.transport.write(b"\n" * 1_000_000)
        listener = Recorder()
        transport = await ws_attach(server.transport, listener, is_client_side=False)
        assert (listener.pauses, listener.resumes) == (1, 0)
        transport.send(WSMsgType.TEXT, b"behind")
        client.transport.resume_reading()
        await listener.until(lambda: listener.resumes)
        assert (listener.pauses, listener.resumes) == (1, 1)
        await client.until(lambda: client.received.endswith(b"\x81\x06behind"))


def agreed(**options: Any) -> tuple[PerMessageDeflate, PerMessageDeflate]:
    """Server's and client's, after the handshake as it is made without I/O."""
    ours, theirs = PerMessageDeflate(**options), PerMessageDeflate()
    answer = server_extensions_handshake([f"permessage-deflate; {theirs.offer()}"], [ours])
    assert answer is not None
    assert client_extensions_handshake([answer.decode()], [theirs]) == [theirs]
    return ours, theirs


@pytest.mark.parametrize("alone", [False, True], ids=["takeover", "alone"])
async def test_compression(net: Any, alone: bool) -> None:
    async with two_ends(net) as (server, client):
        ours, theirs = agreed(client_max_window_bits=10, server_no_context_takeover=alone)
        assert ours.agreement == theirs.agreement
        echoing, listener = Recorder(echo), Recorder()
        options: dict[str, Any] = {"assemble_messages": True}
        await ws_attach(
            server.transport, echoing, is_client_side=False, permessage_deflate=ours, **options
        )
        transport = await ws_attach(
            client.transport, listener, is_client_side=True, permessage_deflate=theirs, **options
        )
        expected = [far(size, size) for size in (10, 300, 300, 50_000)]
        for payload in expected:
            transport.send(WSMsgType.BINARY, payload)
        await listener.until_frames(len(expected))
        assert listener.payloads == expected
        with pytest.raises(ValueError, match="permessage-deflate"):
            transport.send(WSMsgType.TEXT, b"x", rsv1=True)


# -- sockets ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def socket_and_peer() -> Any:
    ours, theirs = socket.socketpair()
    with ours, RawPeer(theirs) as peer:
        yield ours, peer


@plain
@pytest.mark.parametrize("side", SIDES)
async def test_a_socket(net: Any, side: str) -> None:
    with socket_and_peer() as (ours, peer):
        listener = Recorder(echo)
        transport = await ws_attach(
            ours, listener, is_client_side=side == "client", use_aiofastnet=net.use_aiofastnet
        )
        mask = None if side == "client" else MASK
        for size in (1, 300, 70_000):
            await in_thread(peer.send, encode_frame(BINARY, octets(size), mask=mask))
            frame = await in_thread(peer.recv_frame)
            assert (frame.payload, frame.masked) == (octets(size), side == "client")
        assert not transport.is_secure
        await in_thread(peer.send, encode_close(1000, mask=mask))
        await listener.until_gone()
        assert ours.fileno() == -1


@plain
async def test_all_is_there_already(net: Any) -> None:
    """Frames, a CLOSE and the end wait in the socket before it is attached."""
    with socket_and_peer() as (ours, peer):
        frames = [encode_frame(TEXT, b"%d" % number, mask=MASK) for number in range(100)]
        peer.send(b"".join(frames) + encode_close(1000, mask=MASK))
        peer.close()
        listener = Recorder()
        with contextlib.suppress(OSError):
            await ws_attach(ours, listener, is_client_side=False, use_aiofastnet=net.use_aiofastnet)
        await listener.until_gone()
        assert listener.events == [
            "connected",
            *[b"%d" % number for number in range(100)],
            b"\x03\xe8",
            "disconnected",
        ]


@plain
async def test_a_socket_that_is_not_connected(net: Any) -> None:
    for bad in (socket.socket(), socket.socket(socket.AF_UNIX)):
        with bad:
            listener = Recorder()
            with pytest.raises(OSError, match=r"not connected"):
                await ws_attach(
                    bad, listener, is_client_side=True, use_aiofastnet=net.use_aiofastnet
                )
            assert listener.events == []


@plain
async def test_cancelled(net: Any) -> None:
    """Whenever it is cancelled, the socket is closed, and who was told of it is told of its end."""
    for turns in range(4):
        with socket_and_peer() as (ours, peer):
            listener = Recorder()
            task = asyncio.ensure_future(
                ws_attach(ours, listener, is_client_side=True, use_aiofastnet=net.use_aiofastnet)
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                task.result().disconnect(False)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            del task
            gc.collect()
            if "connected" in listener.events:
                await listener.until_gone()
            assert listener.events in ([], ["connected", "disconnected"])
            if turns:  # else it was not even begun
                assert await in_thread(peer.recv_all) == b""


# -- what is refused -------------------------------------------------------------------------------


async def test_a_transport_that_closes(net: Any) -> None:
    async with two_ends(net) as (server, _):
        server.transport.abort()
        listener = Recorder()
        with pytest.raises(ConnectionAbortedError, match="closing already"):
            await ws_attach(server.transport, listener, is_client_side=False)
        assert listener.events == []
        await server.until(lambda: server.lost)


@one
async def test_wrong_parameters(net: Any) -> None:
    async with two_ends(net) as (server, client):
        good = {"transport_or_socket": server.transport, "listener": Recorder()}
        not_agreed = PerMessageDeflate()
        context = ssl.create_default_context()
        with socket.socket() as raw, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            secure = context.wrap_socket(raw, server_hostname="x", do_handshake_on_connect=False)
            for wrong, error, text in [
                ({"transport_or_socket": None}, TypeError, "transport_or_socket must be"),
                ({"transport_or_socket": client}, TypeError, "transport_or_socket must be"),
                ({"transport_or_socket": secure}, TypeError, "without TLS"),
                ({"transport_or_socket": datagram}, ValueError, "SOCK_STREAM"),
                ({"listener": None}, TypeError, "listener must be a WSListener"),
                ({"listener": Recorder}, TypeError, "listener must be a WSListener"),
                ({"is_client_side": 1}, TypeError, "is_client_side"),
                ({"permessage_deflate": True}, TypeError, "permessage_deflate must be"),
                ({"permessage_deflate": not_agreed}, ValueError, r"accept\(\) or finalize\(\)"),
                ({"trailing_data": "x"}, TypeError, "trailing_data must be bytes-like"),
                ({"use_aiofastnet": True}, ValueError, "use_aiofastnet is for a socket"),
                ({"max_frame_size": 0}, ValueError, "max_frame_size"),
                ({"max_message_size": "1"}, TypeError, "max_message_size"),
                ({"max_fragments": 0}, ValueError, "max_fragments"),
                ({"assemble_messages": 1}, TypeError, "assemble_messages"),
                ({"coalesce_writes": 1}, TypeError, "coalesce_writes"),
                ({"read_buffer_init_size": 0}, ValueError, "read_buffer_init_size"),
                ({"logger_name": 5}, TypeError, "logger_name"),
                ({"disconnect_on_exception": None}, TypeError, "disconnect_on_exception"),
                ({"enable_auto_pong": None}, TypeError, "enable_auto_pong"),
                ({"enable_auto_ping": None}, TypeError, "enable_auto_ping"),
                ({"auto_ping_idle_timeout": 0}, ValueError, "auto_ping_idle_timeout"),
                ({"auto_ping_reply_timeout": 0}, ValueError, "auto_ping_reply_timeout"),
                ({"auto_ping_strategy": 9}, ValueError, "auto_ping_strategy"),
            ]:
                arguments = {"is_client_side": False, **good, **wrong}
                with pytest.raises(error, match=text):
                    await ws_attach(**arguments)  # type: ignore[arg-type]
            secure.close()
        # It is as it was.
        client.transport.write(b"still here\n")
        assert await server.line() == b""


@one
async def test_what_on_ws_connected_raises(net: Any) -> None:
    """As with the other doors: the connection ends, on_ws_disconnected tells."""

    def fail(transport: WSTransport) -> None:
        raise ZeroDivisionError

    async with two_ends(net) as (server, client):
        listener = Recorder(greet=fail)
        await ws_attach(server.transport, listener, is_client_side=False, logger_name="attached")
        await listener.until_gone()
        await client.until(lambda: client.lost)
