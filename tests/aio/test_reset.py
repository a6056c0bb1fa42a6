"""A reset that comes together with bytes: nothing of the bytes is lost, and the loss is noticed.

On uvloop, libuv tells aiofastnet's reader of both at once and then never again.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from picows import WSFrame, WSListener, WSMsgType, WSTransport
from raw_peer import BINARY, RawPeer, RawServer, encode_frame, in_thread


class Collector(WSListener):
    def __init__(self) -> None:
        self.received = 0

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
