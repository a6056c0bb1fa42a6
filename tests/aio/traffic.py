"""One connection of ours against a raw peer that the test drives by hand.

    async with connected(net, "server", listener) as peer:
        peer.send(frame_to("server", TEXT, b"hello"))     # a small send on loopback never blocks
        await listener.until(lambda: listener.payloads == [b"hello"])

`side` says which side is ours. The peer is a RawPeer on a blocking socket; what may block goes
through `await in_thread(...)`, but for where a test blocks the loop on purpose: loopback delivers a
segment before `send` returns, so what a blocked loop has sent can be read, and what it has not sent
is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import random
import resource
import select
import socket
import ssl
import struct
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from picows import WSFrame, WSListener, WSTransport
from raw_peer import TIMEOUT, RawFrame, RawPeer, encode_frame, in_thread, raw_connect

MASK = b"\x37\xfa\x21\x3d"
SIDES = ("server", "client")


class Recorder(WSListener):
    """Notes what it is told. `react(transport, frame)` and `greet(transport)` run inside the
    callbacks.
    """

    def __init__(
        self,
        react: Callable[[WSTransport, WSFrame], object] | None = None,
        greet: Callable[[WSTransport], object] | None = None,
    ) -> None:
        self.react = react
        self.greet = greet
        self.transport: WSTransport
        # "connected", payloads, "disconnected", in order.
        self.events: list[object] = []
        self.payloads: list[bytes] = []
        self.pauses = 0
        self.resumes = 0
        # Frames that came inside the callback of another one, which must not happen.
        self.nested = 0
        self._inside = False
        self._changed = asyncio.Event()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.events.append("connected")
        self._changed.set()
        if self.greet is not None:
            self.greet(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.nested += self._inside
        self._inside = True
        try:
            self.payloads.append(frame.get_payload_as_bytes())
            self.events.append(self.payloads[-1])
            self._changed.set()
            if self.react is not None:
                self.react(transport, frame)
        finally:
            self._inside = False

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.events.append("disconnected")
        self._changed.set()

    def pause_writing(self) -> None:
        self.pauses += 1
        self._changed.set()

    def resume_writing(self) -> None:
        self.resumes += 1
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait; the test's time limit ends what never comes."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def until_frames(self, count: int) -> None:
        await self.until(lambda: len(self.payloads) >= count)

    async def until_gone(self) -> None:
        await self.until(lambda: "disconnected" in self.events)


def fast_mask(payload: bytes, mask: bytes) -> bytes:
    """As raw_peer.apply_mask, for megabytes."""
    size = len(payload)
    keys = (mask * (size // 4 + 1))[:size]
    xor = int.from_bytes(payload, "little") ^ int.from_bytes(keys, "little")
    return xor.to_bytes(size, "little")


def frame_to(side: str, opcode: int, payload: bytes = b"", **kwargs: Any) -> bytes:
    """A frame as the peer sends it to our `side`: masked to a server."""
    if side == "client":
        return encode_frame(opcode, payload, **kwargs)
    kwargs.setdefault("length", len(payload))
    head = encode_frame(opcode, b"", mask=MASK, **kwargs)
    return head + fast_mask(payload, MASK)


def read_frame(peer: RawPeer) -> tuple[RawFrame, bytes | None]:
    """As peer.recv_frame, for megabytes; and the mask key."""
    first, second = peer.recv_exactly(2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", peer.recv_exactly(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", peer.recv_exactly(8))
    mask = peer.recv_exactly(4) if second & 0x80 else None
    payload = peer.recv_exactly(length)
    if mask is not None:
        payload = fast_mask(payload, mask)
    opcode, rsv = first & 0x0F, first >> 4 & 7
    return RawFrame(opcode, payload, bool(first & 0x80), rsv, mask is not None), mask


def read_frames(peer: RawPeer, count: int) -> list[RawFrame]:
    return [read_frame(peer)[0] for _ in range(count)]


def read_payloads(peer: RawPeer, count: int) -> list[bytes]:
    return [frame.payload for frame in read_frames(peer, count)]


def read_to_end(peer: RawPeer) -> list[RawFrame]:
    """Every frame up to the end of the stream; ends our half as well, for which TLS waits."""
    frames = []
    try:
        while True:
            frames.append(read_frame(peer)[0])
    except (EOFError, ConnectionResetError, ssl.SSLError):
        peer.close()
    return frames


def something_to_read(peer: RawPeer) -> bool:
    """Has the peer's socket anything for it, now?"""
    if peer.unread or (isinstance(peer.sock, ssl.SSLSocket) and peer.sock.pending()):
        return True
    return bool(select.select([peer.sock], [], [], 0)[0])


def octets(size: int, seed: int = 0) -> bytes:
    """Bytes in which neither a shift nor an overwritten piece goes unnoticed."""
    return random.Random(size * 31 + seed).randbytes(size)


def our_socket(transport: WSTransport) -> Any:
    return transport.underlying_transport.get_extra_info("socket")


async def until_read(transport: WSTransport) -> None:
    """Wait until our side has taken everything from its socket that is there."""
    sock = our_socket(transport)
    while unread_bytes(sock):
        await asyncio.sleep(0)


def unread_bytes(sock: Any) -> int:
    """What waits in a socket's receive queue."""
    answer = fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0")
    return int(struct.unpack("i", answer)[0])


def resident_bytes() -> int:
    """What this process holds in memory; Linux only."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


async def some_iterations() -> None:
    """What the loop was to do soon has been done; for tests that something does not happen."""
    for _ in range(10):
        await asyncio.sleep(0)
    # Also a select with a timeout, so that readable sockets get their turn.
    await asyncio.sleep(0.01)


@contextlib.contextmanager
def full_queue() -> Iterator[tuple[socket.socket, list[socket.socket]]]:
    """A listening socket whose queue is full, and those in it: Linux leaves another SYN without an
    answer.
    """
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        queue = [stack.enter_context(socket.socket()) for _ in range(4)]
        for waiting in queue:
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening, queue


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    with full_queue() as (listening, _):
        yield listening.getsockname()[1]


@contextlib.asynccontextmanager
async def connected(
    net: Any,
    side: str,
    listener: Recorder,
    *,
    then: bytes = b"",
    receive_buffer: int | None = None,
    **kwargs: Any,
) -> AsyncIterator[RawPeer]:
    """A connection of ours, on `side`; yields its peer, and waits for its end at the end.

    `then` comes in the same segment as the peer's part of the opening handshake;
    `receive_buffer` is the SO_RCVBUF of the peer.
    """
    connect = _to_server if side == "server" else _to_client
    async with connect(net, listener, then, receive_buffer, kwargs) as peer:
        try:
            yield peer
        finally:
            peer.close()
            # A paused connection does not see the end of the stream.
            if not listener.transport.is_disconnected:
                listener.transport.disconnect(graceful=False)
            await listener.until_gone()
    # Exactly one of each, whatever the test did.
    assert listener.events.count("connected") == 1
    assert listener.events.count("disconnected") == 1
    assert listener.events[-1] == "disconnected"
    assert not listener.nested


@contextlib.asynccontextmanager
async def _to_server(
    net: Any, listener: Recorder, then: bytes, receive_buffer: int | None, kwargs: Any
) -> AsyncIterator[RawPeer]:
    server = await net.serve(lambda request: listener, **kwargs)
    port = server.sockets[0].getsockname()[1]

    def upgrade() -> RawPeer:
        peer = raw_connect(port, net.client_ssl, receive_buffer=receive_buffer)
        peer.request_upgrade(then=then)
        return peer

    try:
        peer = await in_thread(upgrade)
        await listener.until(lambda: "connected" in listener.events)
        yield peer
    finally:
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def _to_client(
    net: Any, listener: Recorder, then: bytes, receive_buffer: int | None, kwargs: Any
) -> AsyncIterator[RawPeer]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        if receive_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listening.settimeout(TIMEOUT)

        def upgrade() -> RawPeer:
            sock, _ = listening.accept()
            sock.settimeout(TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if net.server_ssl is not None:
                sock = net.server_ssl.wrap_socket(sock, server_side=True)
            peer = RawPeer(sock)
            peer.accept_upgrade(then=then)
            return peer

        peer, _ = await asyncio.gather(
            in_thread(upgrade), net.connect(lambda: listener, listening.getsockname()[1], **kwargs)
        )
        yield peer
