"""A reset that comes together with bytes: nothing of the bytes is lost, and the loss is noticed.

On uvloop, libuv tells aiofastnet's reader of both at once and then never again.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from picows import WSFrame, WSListener, WSMsgType, WSTransport
from raw_peer import BINARY, RawPeer, RawServer, encode_frame, in_thread, raw_connect


class Collector(WSListener):
    def __init__(self) -> None:
        self.received = 0
        self.is_gone = asyncio.Event()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.is_gone.set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        assert frame.msg_type == WSMsgType.BINARY
        self.received += frame.payload_size


@pytest.mark.time_limit(15)
@pytest.mark.parametrize("size", [10, 1_000_000], ids=["short", "longer than the read buffer"])
@pytest.mark.net(tls=[False])
async def test_bytes_and_a_reset_at_once(net: Any, size: int) -> None:
    loop_is_blocked = threading.Event()
    reset_was_sent = threading.Event()
    ten_frames = encode_frame(BINARY, b"x" * (size // 10)) * 10

    def script(peer: RawPeer) -> None:
        peer.accept_upgrade()
        assert loop_is_blocked.wait(10)
        peer.send(ten_frames)
        peer.reset()
        reset_was_sent.set()

    async with RawServer(script) as server:
        transport, listener = await net.connect(Collector, server.url())
        asyncio.get_running_loop().call_soon(loop_is_blocked.set)
        # The loop sleeps here, so that it finds bytes and reset in one wake-up.
        asyncio.get_running_loop().call_soon(reset_was_sent.wait, 10)
        await transport.wait_disconnected()
        assert transport.is_disconnected
        if size == 10:
            assert listener.received == size
        await in_thread(reset_was_sent.wait)


@pytest.mark.time_limit(15)
@pytest.mark.net(tls=[False])
async def test_bytes_and_resets_of_many_connections_at_once(net: Any) -> None:
    """More of them than are looked at in one go, which others join meanwhile."""
    listeners: list[Collector] = []

    def factory(request: object) -> Collector:
        listeners.append(Collector())
        return listeners[-1]

    def opened() -> list[RawPeer]:
        peers = [raw_connect(port) for _ in range(150)]
        for peer in peers:
            peer.request_upgrade()
        return peers

    server = await net.serve(factory)
    port = server.sockets[0].getsockname()[1]
    one_by_one, together = await in_thread(opened), await in_thread(opened)
    for peer in one_by_one:
        peer.send(encode_frame(BINARY, b"x", mask=bytes(4)))
        peer.reset()
        await asyncio.sleep(0)
    # The loop does not run here: it finds all of them in one wake-up.
    for peer in together:
        peer.send(encode_frame(BINARY, b"x", mask=bytes(4)))
        peer.reset()
    for listener in listeners:
        await listener.is_gone.wait()
    assert [listener.received for listener in listeners] == [1] * 300
    await server.shutdown()
