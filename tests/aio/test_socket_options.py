"""Options of the socket that a transport sits on: those that the library sets, and those that a
user sets in on_ws_connected, as docs/topics tell him to. Before connecting: test_socket_factory.py.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aio.traffic import Recorder, our_socket

from picows import WSListener, WSMsgType, WSTransport

plain = pytest.mark.net(tls=(False,))


@contextlib.asynccontextmanager
async def both_sides(net: Any, client: WSListener, server: WSListener) -> AsyncIterator[Any]:
    """The transport of a client of ours at a server of ours."""
    listening = await net.serve(lambda request: server)
    transport, _ = await net.connect(lambda: client, listening)
    try:
        yield transport
    finally:
        transport.disconnect()
        await transport.wait_disconnected()
        await listening.shutdown()


async def test_the_snippet_of_the_guide(net: Any) -> None:
    class Listener(Recorder):
        def on_ws_connected(self, transport: WSTransport) -> None:
            super().on_ws_connected(transport)
            sock: socket.socket = transport.underlying_transport.get_extra_info("socket")
            names = (socket.SO_RCVBUF, socket.SO_SNDBUF)
            self.before = [sock.getsockopt(socket.SOL_SOCKET, name) for name in names]
            # Example: enlarge kernel socket buffers
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 * 1024 * 1024)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 * 1024 * 1024)
            self.wide = [sock.getsockopt(socket.SOL_SOCKET, name) for name in names]
            # The machine has its limits upwards, but none of them is here.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 40_000)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30_000)
            self.narrow = [sock.getsockopt(socket.SOL_SOCKET, name) for name in names]

    client, server = Listener(), Listener()
    async with both_sides(net, client, server):
        await server.until(lambda: server.events)
        for listener in (client, server):
            assert listener.wide != listener.before
            # Linux doubles what was asked for, and says so (socket(7)).
            assert listener.narrow == [80_000, 60_000]
        # It is the socket that the bytes go through.
        client.transport.send(WSMsgType.BINARY, bytes(1024 * 1024))
        await server.until_frames(1)
        assert len(server.payloads[0]) == 1024 * 1024


async def test_low_latency_is_set_when_the_listener_is_told(net: Any) -> None:
    class Listener(Recorder):
        def on_ws_connected(self, transport: WSTransport) -> None:
            super().on_ws_connected(transport)
            self.nodelay = our_socket(transport).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    client, server = Listener(), Listener()
    async with both_sides(net, client, server):
        await server.until(lambda: server.events)
        assert client.nodelay
        assert server.nodelay


async def test_what_a_user_sets_is_left_alone(net: Any) -> None:
    """Also what the library had set otherwise, and after traffic."""
    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 0),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 17),
        (socket.IPPROTO_IP, socket.IP_TOS, 0x10),
    ]

    def set_options(transport: WSTransport) -> None:
        for option in options:
            our_socket(transport).setsockopt(*option)

    def echo(transport: WSTransport, frame: Any) -> None:
        transport.send(frame.msg_type, frame.get_payload_as_bytes())

    client, server = Recorder(greet=set_options), Recorder(echo, greet=set_options)
    async with both_sides(net, client, server) as transport:
        transport.send(WSMsgType.TEXT, b"hello")
        await client.until_frames(1)
        for each in (client.transport, server.transport):
            sock = our_socket(each)
            for level, name, value in options:
                assert sock.getsockopt(level, name) == value


@plain
async def test_the_socket_tells_who_is_there(net: Any) -> None:
    client, server = Recorder(), Recorder()
    async with both_sides(net, client, server) as transport:
        await server.until(lambda: server.events)
        ours, theirs = our_socket(transport), our_socket(server.transport)
        assert ours.family == theirs.family == socket.AF_INET
        assert ours.type == theirs.type == socket.SOCK_STREAM
        assert ours.getpeername() == theirs.getsockname()
        assert ours.getsockname() == theirs.getpeername()
