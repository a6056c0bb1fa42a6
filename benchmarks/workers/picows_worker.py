"""The worker of both picows: ours and PyPI's, whichever the interpreter has.

Only what both know is used, but for ``coalesce_writes``, which ``--coalesce`` sets, ``broadcast``,
which is used where there is one, and compression, of which PyPI's knows in another API alone
(websockets_worker.py).

The client of a round trip leaves the payload alone, as a listener does that decides by the kind of
message; the server echoes what ``--coalesce default`` users would write: the payload as ``bytes``
when small, as a memoryview when a copy would cost more than a view.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from typing import Any

from common import (
    BATCH,
    QUESTION,
    Turns,
    client_tls,
    feed_payload_of,
    feed_request,
    obey,
    parse_args,
    payload_of,
    run,
    serve,
    server_tls,
    ticks_of,
    url_of,
)

import picows
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

BINARY = WSMsgType.BINARY
CLOSE = WSMsgType.CLOSE
VIEW_FROM = 4096  # bytes; from here on a memoryview is cheaper than a copy


class EchoClientListener(WSListener):  # type: ignore[misc, unused-ignore]
    def __init__(self) -> None:
        self.payload = b""
        self.left = 0
        self.done: asyncio.Future[None] | None = None

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.left -= 1
        if self.left:
            transport.send(BINARY, self.payload)
        else:
            self.done.set_result(None)  # type: ignore[union-attr]

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        fail(self.done)


class CheckingListener(WSListener):  # type: ignore[misc, unused-ignore]
    """Hands over the first payload."""

    def __init__(self) -> None:
        self.first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if not self.first.done():
            self.first.set_result(frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        fail(self.first)


class FeedListener(WSListener):  # type: ignore[misc, unused-ignore]
    def __init__(self) -> None:
        self.left = 0
        self.done: asyncio.Future[None] | None = None

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        frame.get_payload_as_bytes()
        self.left -= 1
        if not self.left:
            self.done.set_result(None)  # type: ignore[union-attr]

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        fail(self.done)


class EchoServerListener(WSListener):  # type: ignore[misc, unused-ignore]
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        msg_type = frame.msg_type
        if msg_type == CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.payload_size < VIEW_FROM:
            transport.send(msg_type, frame.get_payload_as_bytes())
        else:
            transport.send(msg_type, frame.get_payload_as_memoryview())


class ClosingListener(WSListener):  # type: ignore[misc, unused-ignore]
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == CLOSE:
            transport.disconnect()


class DeflatingListener(WSListener):  # type: ignore[misc, unused-ignore]
    """Sends a batch of ticks and a question for each answer."""

    def __init__(self) -> None:
        self.ticks = Turns([b""])
        self.batch: list[bytes] = []
        self.left = 0
        self.answer: bytes = b""
        self.done: asyncio.Future[None] | None = None

    def send_batch(self, transport: WSTransport) -> None:
        count = min(BATCH, self.left)
        self.left -= count
        self.batch = self.ticks.take(count)
        for tick in self.batch:
            transport.send(BINARY, tick)
        transport.send(WSMsgType.TEXT, QUESTION)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.answer = frame.get_payload_as_bytes()
        if self.left:
            self.send_batch(transport)
        else:
            self.done.set_result(None)  # type: ignore[union-attr]

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        fail(self.done)


class BroadcastListener(WSListener):  # type: ignore[misc, unused-ignore]
    def __init__(self, transports: list[WSTransport]) -> None:
        self.transports = transports

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transports.append(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.transports.remove(transport)


class SendLoopListener(BroadcastListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        for receiver in self.transports:
            receiver.send(BINARY, payload)


class BroadcastAtOnceListener(BroadcastListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        picows.broadcast(  # type: ignore[attr-defined, unused-ignore]
            self.transports, BINARY, frame.get_payload_as_bytes()
        )


def fail(future: asyncio.Future[Any] | None) -> None:
    if future is not None and not future.done():
        future.set_exception(ConnectionResetError("the peer hung up"))


def coalesce_of(args: argparse.Namespace) -> dict[str, Any]:
    return {} if args.coalesce == "default" else {"coalesce_writes": args.coalesce == "on"}


def compression_of(args: argparse.Namespace) -> dict[str, Any]:
    if args.role not in ("inflate", "deflate"):
        return {}
    return {"permessage_deflate": True, "assemble_messages": True}


async def connect(args: argparse.Namespace, factory: type[Any]) -> tuple[WSTransport, Any]:
    return await picows.ws_connect(
        factory,
        url_of(args),
        ssl_context=client_tls(args),
        **coalesce_of(args),
        **compression_of(args),
    )


class EchoClient:
    """One connection that waits for each echo before it sends the next message."""

    def __init__(
        self, transport: WSTransport, listener: EchoClientListener, args: argparse.Namespace
    ) -> None:
        self.transport = transport
        self.listener = listener
        self.args = args

    async def check(self, size: int) -> None:
        transport, listener = await connect(self.args, CheckingListener)
        transport.send(BINARY, payload_of(size))
        if await asyncio.wait_for(listener.first, 10) != payload_of(size):
            raise ValueError("echo differs")
        transport.disconnect()
        self.listener.payload = payload_of(size)

    async def run(self, size: int, count: int) -> None:
        listener = self.listener
        if len(listener.payload) != size:
            listener.payload = payload_of(size)
        listener.left = count
        listener.done = asyncio.get_running_loop().create_future()
        self.transport.send(BINARY, listener.payload)
        await listener.done


class FeedClient:
    """One connection that takes what the server sends."""

    def __init__(self, transport: WSTransport, listener: Any, args: argparse.Namespace) -> None:
        self.transport = transport
        self.listener = listener
        self.args = args

    async def check(self, size: int) -> None:
        transport, listener = await connect(self.args, CheckingListener)
        transport.send(WSMsgType.TEXT, feed_request(1, size))
        right = ticks_of(self.args)[0] if self.args.ticks else feed_payload_of(size)
        if await asyncio.wait_for(listener.first, 10) != right:
            raise ValueError("the frame differs")
        transport.disconnect()

    async def run(self, size: int, count: int) -> None:
        self.listener.left = count
        self.listener.done = asyncio.get_running_loop().create_future()
        self.transport.send(WSMsgType.TEXT, feed_request(count, size))
        await self.listener.done


class ConnectClient:
    """Connections one after another: upgrade, CLOSE and its echo."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    async def check(self, size: int) -> None:
        await self.run(size, 1)

    async def run(self, size: int, count: int) -> None:
        for _ in range(count):
            transport, _ = await connect(self.args, ClosingListener)
            transport.send_close(WSCloseCode.OK)
            await transport.wait_disconnected()


class DeflateClient:
    """One connection that compresses what it sends."""

    def __init__(
        self, transport: WSTransport, listener: DeflatingListener, args: argparse.Namespace
    ) -> None:
        self.transport = transport
        self.listener = listener
        self.args = args
        self.listener.ticks = Turns(ticks_of(args))
        self.ratio = 0.0

    async def check(self, size: int) -> None:
        first = DeflateClient(*await connect(self.args, DeflatingListener), self.args)
        await first.run(size, 1)
        if first.listener.answer != ticks_of(self.args)[0]:
            raise ValueError("the message differs")
        first.transport.disconnect()

    async def run(self, size: int, count: int) -> None:
        self.listener.left = count
        self.listener.done = asyncio.get_running_loop().create_future()
        self.listener.send_batch(self.transport)
        await self.listener.done
        if count > 1:
            self.ratio = sum(map(len, self.listener.batch)) / int(self.listener.answer)


async def client(args: argparse.Namespace) -> None:
    if args.role == "connect":
        await obey(ConnectClient(args))
    elif args.role == "echo-client":
        await obey(EchoClient(*await connect(args, EchoClientListener), args))
    elif args.role == "deflate":
        await obey(DeflateClient(*await connect(args, DeflatingListener), args))
    else:
        await obey(FeedClient(*await connect(args, feed_listener(args)), args))


def feed_listener(args: argparse.Namespace) -> type[Any]:
    if args.role != "feed-cython":
        return FeedListener
    sys.path.insert(0, args.listener_dir)
    from feed_listener import (  # type: ignore[import-not-found, unused-ignore]
        CythonFeedListener,
    )

    listener: type[Any] = CythonFeedListener
    return listener


def server_listener(args: argparse.Namespace) -> Callable[[], WSListener]:
    if args.role != "broadcast-server":
        return EchoServerListener
    transports: list[WSTransport] = []
    if hasattr(picows, "broadcast") and not args.send_loop:
        return lambda: BroadcastAtOnceListener(transports)
    return lambda: SendLoopListener(transports)


async def server(args: argparse.Namespace) -> None:
    factory = server_listener(args)
    keepalive: dict[str, Any] = {}
    if args.role == "idle-server":
        keepalive = {"enable_auto_ping": True, "auto_ping_idle_timeout": args.ping_interval}

    async def start() -> tuple[object, int]:
        server = await picows.ws_create_server(
            lambda request: factory(),
            "localhost",
            0,
            ssl=server_tls(args),
            family=2,  # AF_INET: one listening socket, one port
            **coalesce_of(args),
            **keepalive,
        )
        return server, server.sockets[0].getsockname()[1]

    await serve(start)


def main() -> None:
    servers = ("echo-server", "broadcast-server", "idle-server")
    args = parse_args(
        ("echo-client", "feed", "feed-cython", "connect", "inflate", "deflate", *servers)
    )
    run(args, server(args) if args.role in servers else client(args))


if __name__ == "__main__":
    main()
