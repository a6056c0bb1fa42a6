"""Thousands of connections, one after the other, leave nothing behind (line 38), whichever way each
of them ended: no object, logger, task, timer or file descriptor.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import struct
import sys
from typing import Any

import pytest

import loops
from picows import (
    WSFrame,
    WSHandshakeError,
    WSListener,
    WSMsgType,
    WSProtocolError,
    WSTransport,
    WSUpgradeRequest,
)

# Of twelve connections each, twice.
ROUNDS = 120


class Refused(Exception):
    pass


class Listener(WSListener):
    """Does what the first frame asks for."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.connected.set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            return
        asked = frame.get_payload_as_ascii_text()
        if asked == "close":
            transport.send_close(1000, "as you wish")
        elif asked == "disconnect":
            transport.disconnect()
        elif asked == "abort":
            transport.disconnect(graceful=False)
        elif asked == "raise":
            raise Refused
        elif asked == "pause":
            transport.pause_reading()
            transport.disconnect()
        elif asked == "break the protocol":
            sock = transport.underlying_transport.get_extra_info("socket")
            os.write(sock.fileno(), b"\x83\x00")


def by_request(transport: WSTransport, what: str) -> None:
    transport.send(WSMsgType.TEXT, what)


def by_close(transport: WSTransport, what: str) -> None:
    transport.send_close(1000, "bye")


def by_disconnect(transport: WSTransport, what: str) -> None:
    transport.disconnect()


def by_reset(transport: WSTransport, what: str) -> None:
    sock = transport.underlying_transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.disconnect(graceful=False)


WAYS: list[tuple[Any, str]] = [
    (by_request, "close"),
    (by_request, "disconnect"),
    (by_request, "abort"),
    (by_request, "raise"),
    (by_request, "pause"),
    (by_request, "break the protocol"),
    (by_close, ""),
    (by_disconnect, ""),
    (by_reset, ""),
]


def silent() -> logging.Logger:
    logger = logging.Logger("silent")
    logger.disabled = True
    return logger


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_thousands_of_connections_leave_nothing_behind(net: Any) -> None:
    def route(request: WSUpgradeRequest) -> Listener | None:
        if request.path == b"/missing":
            return None
        if request.path == b"/broken":
            raise Refused
        return Listener()

    async def one(way: Any, what: str) -> None:
        transport, _ = await net.connect(Listener, net.url(port), logger_name=logger)
        way(transport, what)
        with contextlib.suppress(WSProtocolError):
            await transport.wait_disconnected()

    async def all_ways() -> None:
        for way, what in WAYS:
            await one(way, what)
        for path in ("/missing", "/broken"):
            with contextlib.suppress(WSHandshakeError):
                await net.connect(Listener, net.url(port, path), logger_name=logger)
        # Cancelled in the middle of it.
        task = asyncio.ensure_future(net.connect(Listener, net.url(port)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def settled() -> dict[str, int]:
        """What there is, once the last connections are gone."""
        while server._connections:
            await asyncio.sleep(0.001)
        for _ in range(3):
            await asyncio.sleep(0.01)
            gc.collect()
        return {
            "objects": len(gc.get_objects()),
            "blocks": sys.getallocatedblocks(),
            "loggers": len(logging.Logger.manager.loggerDict),
            "tasks": len(asyncio.all_tasks()),
            "files": len(loops.open_files()),
            "timers": len(loops.pending_timers(asyncio.get_running_loop())),
        }

    logger = silent()
    server = await net.serve(route, logger_name=logger)
    port = server.sockets[0].getsockname()[1]
    try:
        for _ in range(20):
            await all_ways()
        seen = [await settled()]
        for _ in range(2):
            for _ in range(ROUNDS):
                await all_ways()
            seen.append(await settled())
    finally:
        await server.shutdown(timeout=0.1)
    for name in ("loggers", "tasks", "files", "timers"):
        assert len({each[name] for each in seen}) == 1, name
    # One of anything for each round of one of the ways would be ROUNDS, twice. A cache somewhere
    # below may fill up once.
    for name in ("objects", "blocks"):
        one_half, other_half = (seen[n + 1][name] - seen[n][name] for n in range(2))
        assert min(one_half, other_half) < ROUNDS / 2, name
