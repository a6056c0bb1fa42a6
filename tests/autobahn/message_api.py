"""picows' message mode, as the Autobahn TestSuite's testee on asyncio and uvloop.

It is the program that the documentation shows: what is not of a message (order of fragments, UTF-8,
compression, PONGs) is the library's own work.
"""

from __future__ import annotations

import contextlib
from typing import Any

from picows import (
    PerMessageDeflate,
    WSError,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
    ws_create_server,
)

# Bytes. The largest message is one of 16 MiB, in one frame.
MOST = 64 * 1024 * 1024
# 9.3.1 and 9.4.1 cut 4 MiB into 65,536 frames of 64 bytes and an empty one; the default is 65,536.
MOST_FRAGMENTS = 100_000
# Seconds. The fuzzing server answers nobody while it writes a report of many megabytes.
PATIENCE = 120


def options() -> dict[str, Any]:
    return {
        "assemble_messages": True,
        "max_frame_size": MOST,
        "max_message_size": MOST,
        "max_fragments": MOST_FRAGMENTS,
        # The threshold would let the smallest messages out as they are.
        "permessage_deflate": PerMessageDeflate(threshold=0, max_inflated_size=MOST),
    }


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


async def serve() -> tuple[Any, int]:
    """The server, with close() and wait_closed(), and its port."""
    server = await ws_create_server(lambda request: Echo(), "127.0.0.1", 0, **options())
    return server, server.sockets[0].getsockname()[1]


async def converse(url: str) -> None:
    """Connect, and echo until the connection is over."""
    transport, _ = await ws_connect(Echo, url, websocket_handshake_timeout=PATIENCE, **options())
    with contextlib.suppress(WSError):  # a violation found here: what most cases are for
        await transport.wait_disconnected()


class Ask(WSListener):
    """Takes what the fuzzing server says of itself; it closes the connection then."""

    def __init__(self) -> None:
        self.answer = ""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            self.answer = frame.get_payload_as_utf8_text()


async def ask(url: str) -> str:
    """What the fuzzing server answers; nothing, where it has only something to do."""
    transport, listener = await ws_connect(Ask, url, websocket_handshake_timeout=PATIENCE)
    assert isinstance(listener, Ask)
    await transport.wait_disconnected()
    return listener.answer
