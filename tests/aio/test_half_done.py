"""What ends in the middle of something else: a batch, a flush, an upgrade, the last delivery."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

import loops
from picows import WSFrame, WSListener, WSMsgType, WSProtocolError, WSTransport, WSUpgradeRequest
from raw_peer import CLOSE, TEXT, RawPeer, encode_frame, in_thread, raw_connect, upgrade_request

MASK = b"\0\0\0\0"
plain = pytest.mark.net(tls=(False,))


def port_of(server: Any) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


def recv_opcodes(peer: RawPeer) -> list[int]:
    opcodes = []
    try:
        while True:
            opcodes.append(peer.recv_frame().opcode)
    except (EOFError, ConnectionResetError):
        return opcodes


@plain
async def test_nothing_follows_a_close_that_pause_writing_sends_inside_a_flush(net: Any) -> None:
    class ClosesWhenPaused(WSListener):
        closed = False

        def on_ws_connected(self, transport: WSTransport) -> None:
            self.transport = transport
            sock = transport.underlying_transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

        def pause_writing(self) -> None:
            self.closed = True
            self.transport.send_close(1000)

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            while not self.closed:
                transport.send(WSMsgType.BINARY, b"x" * 40_000)
            transport.disconnect()

    server = await net.serve(lambda request: ClosesWhenPaused())
    peer = await in_thread(raw_connect, port_of(server))
    with peer:
        two = encode_frame(TEXT, b"1", mask=MASK) + encode_frame(TEXT, b"2", mask=MASK)
        await in_thread(peer.request_upgrade, then=two)
        opcodes = await in_thread(recv_opcodes, peer)
    assert opcodes.count(CLOSE) == 1
    assert opcodes[-1] == CLOSE
    server.close()


@plain
@pytest.mark.parametrize("graceful", [True, False])
async def test_a_factory_that_closes_all_clients_closes_its_own(net: Any, graceful: bool) -> None:
    events: list[str] = []

    class Listener(WSListener):
        def on_ws_connected(self, transport: WSTransport) -> None:
            events.append("connected")
            transport.send(WSMsgType.TEXT, "without an upgrade")

    def route(request: WSUpgradeRequest) -> WSListener:
        (server.close_clients if graceful else server.abort_clients)()
        return Listener()

    server = await net.serve(route)
    peer = await in_thread(raw_connect, port_of(server))
    with peer:
        await in_thread(peer.send, upgrade_request())
        assert await in_thread(peer.recv_all) == b""
    assert not events
    server.close()


@pytest.mark.net(loops=("asyncio",), tls=(False,))
def test_an_exit_in_the_last_delivery_still_says_goodbye(net: Any) -> None:
    """The frame waited, paused, until the connection was lost; its callback leaves the loop."""
    events: list[str] = []
    kept: list[WSTransport] = []

    class Pauses(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            events.append(frame.get_payload_as_utf8_text())
            if len(events) == 2:
                raise SystemExit
            transport.pause_reading()
            kept.append(transport)
            transport.underlying_transport.abort()

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            events.append("disconnected")

    async def main() -> None:
        server = await net.serve(lambda request: Pauses())
        peer = await in_thread(raw_connect, port_of(server))
        two = encode_frame(TEXT, b"1", mask=MASK) + encode_frame(TEXT, b"2", mask=MASK)
        with peer:
            await in_thread(peer.request_upgrade, then=two)
            await in_thread(peer.recv_all)
        await kept[0].wait_disconnected()
        server.close()

    loop = loops.new_loop(net.loop_kind)
    exits = 0
    try:
        task = loop.create_task(main())
        while not task.done():
            try:
                loop.run_until_complete(task)
            except SystemExit:
                exits += 1
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    assert exits == 1
    assert events == ["1", "2", "disconnected"]


class Unspeakable(WSProtocolError):
    def __str__(self) -> str:
        raise LookupError


@plain
async def test_an_error_whose_text_cannot_be_had_closes_like_any_other(net: Any) -> None:
    class Raises(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            raise Unspeakable(3000, "")

    logging.getLogger("picows.server").addFilter(refuse)
    try:
        server = await net.serve(lambda request: Raises())
        peer = await in_thread(raw_connect, port_of(server))
        with peer:
            await in_thread(peer.request_upgrade, then=encode_frame(TEXT, b"", mask=MASK))
            frame = await in_thread(peer.recv_frame)
        assert (frame.opcode, frame.payload) == (CLOSE, (3000).to_bytes(2, "big"))
        server.close()
    finally:
        logging.getLogger("picows.server").removeFilter(refuse)


def refuse(record: logging.LogRecord) -> bool:
    """A traceback of Unspeakable cannot be formatted."""
    return False


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_an_exception_between_callbacks_ends_this_connection_alone(net: Any) -> None:
    """A logging filter that raises stands for it, or no memory would."""

    def explode(record: logging.LogRecord) -> bool:
        raise LookupError("from a logging filter")

    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Listener(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            if not lost.done():
                lost.set_result(None)

    logger = logging.getLogger("picows.server")
    server = await net.serve(lambda request: Listener())
    bad = await in_thread(raw_connect, port_of(server))
    good = await in_thread(raw_connect, port_of(server))
    with bad, good:
        await in_thread(bad.request_upgrade)
        await in_thread(good.request_upgrade)
        logger.addFilter(explode)
        try:
            # Not masked: a violation, which is logged.
            await in_thread(bad.send, encode_frame(TEXT, b"x"))
            await lost
        finally:
            logger.removeFilter(explode)
        await in_thread(good.send, encode_frame(TEXT, b"y", mask=MASK))
        assert (await in_thread(good.recv_frame)).payload == b"y"
    net.loop_errors.clear()
    await server.shutdown()
