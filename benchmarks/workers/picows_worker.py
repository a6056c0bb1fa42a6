"""The worker of both picows: ours and PyPI's, whichever the interpreter has.

Only what both know is used, but for ``coalesce_writes``, which ``--coalesce`` sets.

The client of a round trip leaves the payload alone, as a listener does that decides by the kind of
message; the server echoes what ``--coalesce default`` users would write: the payload as ``bytes``
when small, as a memoryview when a copy would cost more than a view.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from common import (
    client_tls,
    feed_payload_of,
    feed_request,
    obey,
    parse_args,
    payload_of,
    run,
    serve,
    server_tls,
    url_of,
)

import picows
from picows import WSFrame, WSListener, WSMsgType, WSTransport

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


def fail(future: asyncio.Future[Any] | None) -> None:
    if future is not None and not future.done():
        future.set_exception(ConnectionResetError("the peer hung up"))


def coalesce_of(args: argparse.Namespace) -> dict[str, Any]:
    return {} if args.coalesce == "default" else {"coalesce_writes": args.coalesce == "on"}


async def connect(args: argparse.Namespace, factory: type[Any]) -> tuple[WSTransport, Any]:
    return await picows.ws_connect(
        factory,
        url_of(args),
        ssl_context=client_tls(args),
        **coalesce_of(args),
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
        if await asyncio.wait_for(listener.first, 10) != feed_payload_of(size):
            raise ValueError("the frame differs")
        transport.disconnect()

    async def run(self, size: int, count: int) -> None:
        self.listener.left = count
        self.listener.done = asyncio.get_running_loop().create_future()
        self.transport.send(WSMsgType.TEXT, feed_request(count, size))
        await self.listener.done


async def echo_client(args: argparse.Namespace) -> None:
    await obey(EchoClient(*await connect(args, EchoClientListener), args))


async def feed_client(args: argparse.Namespace) -> None:
    factory: type[Any] = FeedListener
    if args.role == "feed-cython":
        sys.path.insert(0, args.listener_dir)
        from feed_listener import (  # type: ignore[import-not-found, unused-ignore]
            CythonFeedListener,
        )

        factory = CythonFeedListener
    await obey(FeedClient(*await connect(args, factory), args))


async def echo_server(args: argparse.Namespace) -> None:
    async def start() -> tuple[object, int]:
        server = await picows.ws_create_server(
            lambda request: EchoServerListener(),
            "localhost",
            0,
            ssl=server_tls(args),
            family=2,  # AF_INET: one listening socket, one port
            **coalesce_of(args),
        )
        return server, server.sockets[0].getsockname()[1]

    await serve(start)


def main() -> None:
    args = parse_args(("echo-client", "echo-server", "feed", "feed-cython"))
    role = {"echo-client": echo_client, "echo-server": echo_server}.get(args.role, feed_client)
    run(args, role(args))


if __name__ == "__main__":
    main()
