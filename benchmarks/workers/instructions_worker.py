"""What benchmarks/instructions.py counts, all of it in one process and one thread.

Usage, under callgrind: python instructions_worker.py INTERVALS. It knows what both picows know, so
ours and PyPI's can be counted, whichever the interpreter has. For each work a JSON line says its
name and the messages of an interval; `mark` stands before the first interval and behind each.

Always true here: the messages of an interval are the same bytes in the same order, and only one
side can move at a time, so every interval runs the same instructions. What is done once (import,
connecting, CPython's specialising of bytecode) is over before the first mark.

Each work has its floor: the same traffic and the same callbacks on the same loop, without a
WebSocket library and without copying what needs no copy. It says what the interpreter, the loop and
libc take.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import repeat
from typing import Any, Protocol

import uvloop

import picows
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect, ws_create_server

BINARY = WSMsgType.BINARY
ECHO_SIZE = 256
FEED_SIZE = 200
READ = 64  # frames that a read of the feed finds; less than any picows' first buffer
FEED_COUNT = 20 * READ
ECHO_COUNT = 200
FEED = (b"\x82\x7e" + FEED_SIZE.to_bytes(2, "big") + b"x" * FEED_SIZE) * READ
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class Work(Protocol):
    async def run(self, count: int) -> None:
        """Do it with so many messages."""


def mark() -> None:
    """Callgrind writes its counters down and begins anew: nothing else calls getsid(2)."""
    os.getsid(0)


# -- feed ------------------------------------------------------------------------------------------


class FeedListener(WSListener):  # type: ignore[misc, unused-ignore]
    left = 0
    read_done: Callable[[], None]

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        frame.get_payload_as_bytes()
        self.left -= 1
        if not self.left:
            self.read_done()


class FloorListener:
    left = 0
    read_done: Callable[[], None]

    def on_ws_frame(self, transport: object, frame: memoryview) -> None:
        frame.tobytes()
        self.left -= 1
        if not self.left:
            self.read_done()


class Feed:
    """The sender: gives the listener a read's worth of frames when it has taken the last."""

    def __init__(self, listener: FeedListener | FloorListener, sender: socket.socket) -> None:
        self.listener = listener
        self.sender = sender
        self.reads_left = 0
        self.done: asyncio.Future[None]
        listener.read_done = self.next

    async def run(self, count: int) -> None:
        self.reads_left = count // READ
        self.done = asyncio.get_running_loop().create_future()
        self.send()
        await self.done

    def send(self) -> None:
        self.listener.left = READ
        if self.sender.send(FEED) != len(FEED):
            raise BlockingIOError("the kernel did not take a whole read")

    def next(self) -> None:
        self.reads_left -= 1
        if self.reads_left:
            self.send()
        else:
            self.done.set_result(None)


async def accept_upgrade(listening: socket.socket) -> socket.socket:
    """A server that does no more than the opening handshake."""
    loop = asyncio.get_running_loop()
    sock, _ = await loop.sock_accept(listening)
    request = b""
    while b"\r\n\r\n" not in request:
        request += await loop.sock_recv(sock, 65536)
    fields = dict(line.lower().partition(b":")[::2] for line in request.split(b"\r\n"))
    at = list(fields).index(b"sec-websocket-key")
    key = request.split(b"\r\n")[at].partition(b":")[2].strip()
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    response = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    await loop.sock_sendall(sock, response)
    return sock


async def feed() -> Work:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    accepting = asyncio.ensure_future(accept_upgrade(listening))
    url = f"ws://127.0.0.1:{listening.getsockname()[1]}/"
    listener: Any
    _, listener = await ws_connect(FeedListener, url)
    return Feed(listener, await accepting)


async def floor_feed() -> Work:
    receiver, sender = connected_pair()
    listener = FloorListener()
    frames = [memoryview(b"x" * FEED_SIZE)] * READ
    buffer = bytearray(2 * len(FEED))
    received = 0

    def readable() -> None:
        nonlocal received
        received += receiver.recv_into(buffer)
        if received == len(FEED):
            received = 0
            deque(map(listener.on_ws_frame, repeat(None), frames), 0)

    asyncio.get_running_loop().add_reader(receiver, readable)
    return Feed(listener, sender)


# -- echo ------------------------------------------------------------------------------------------


class EchoServerListener(WSListener):  # type: ignore[misc, unused-ignore]
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        transport.send(frame.msg_type, frame.get_payload_as_bytes())


class EchoClientListener(WSListener):  # type: ignore[misc, unused-ignore]
    """One message in flight."""

    payload = bytes(range(ECHO_SIZE))
    left = 0
    transport: WSTransport
    done: asyncio.Future[None]

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.left -= 1
        if self.left:
            transport.send(BINARY, self.payload)
        else:
            self.done.set_result(None)

    async def run(self, count: int) -> None:
        self.left = count
        self.done = asyncio.get_running_loop().create_future()
        self.transport.send(BINARY, self.payload)
        await self.done


async def echo() -> Work:
    server = await ws_create_server(lambda request: EchoServerListener(), "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    client: Any
    _, client = await ws_connect(EchoClientListener, url)
    client.server = server  # or it would be collected
    work: Work = client
    return work


class FloorEcho:
    def __init__(self) -> None:
        self.client, self.server = connected_pair()
        self.payload = bytes(range(ECHO_SIZE))
        self.buffer = bytearray(ECHO_SIZE)
        self.left = 0
        self.done: asyncio.Future[None]
        loop = asyncio.get_running_loop()
        loop.add_reader(self.client, self.client_readable)
        loop.add_reader(self.server, self.server_readable)

    def server_readable(self) -> None:
        self.server.recv_into(self.buffer)
        self.server.send(self.buffer)

    def client_readable(self) -> None:
        self.client.recv_into(self.buffer)
        self.left -= 1
        if self.left:
            self.client.send(self.payload)
        else:
            self.done.set_result(None)

    async def run(self, count: int) -> None:
        self.left = count
        self.done = asyncio.get_running_loop().create_future()
        self.client.send(self.payload)
        await self.done


async def floor_echo() -> Work:
    return FloorEcho()


def connected_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname())
        other, _ = listening.accept()
    for sock in (one, other):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


# -- all of it -------------------------------------------------------------------------------------

Make = Callable[[], Awaitable[Work]]
NewLoop = Callable[[], asyncio.AbstractEventLoop]
WORKS: list[tuple[str, Make, Make, NewLoop, int]] = [
    ("feed", feed, floor_feed, asyncio.new_event_loop, FEED_COUNT),
    ("echo/asyncio", echo, floor_echo, asyncio.new_event_loop, ECHO_COUNT),
    ("echo/uvloop", echo, floor_echo, uvloop.new_event_loop, ECHO_COUNT),
]


async def go_through(make: Make, count: int, intervals: int) -> Work:
    work = await make()
    await work.run(count)
    gc.collect()
    gc.freeze()
    mark()
    for _ in range(intervals):
        await work.run(count)
        mark()
    return work


def main() -> None:
    intervals = int(sys.argv[1])
    kept: list[Any] = []  # what is closed costs instructions; the end of the process closes it
    print(json.dumps({"file": picows.__file__}))
    for name, make, make_floor, new_loop, count in WORKS:
        for kind, each in (("picows", make), ("floor", make_floor)):
            print(json.dumps({"work": name, "kind": kind, "messages": count}))
            loop = new_loop()
            kept += [loop, loop.run_until_complete(go_through(each, count, intervals))]
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
