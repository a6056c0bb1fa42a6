"""The worker of the `websockets` package, with the settings its documentation gives for speed.

No compression, no limits of size, no keepalive; the queue of received messages is unbounded, since
pausing the transport for every sixteen messages would cost it the feed.
"""

from __future__ import annotations

import argparse
import asyncio

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
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as websockets_serve


class EchoClient:
    """One connection that waits for each echo before it sends the next message."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.payload = b""

    async def check(self, size: int) -> None:
        self.payload = payload_of(size)
        await self.connection.send(self.payload)
        if await asyncio.wait_for(self.connection.recv(), 10) != self.payload:
            raise ValueError("echo differs")

    async def run(self, size: int, count: int) -> None:
        if len(self.payload) != size:
            self.payload = payload_of(size)
        payload, send, recv = self.payload, self.connection.send, self.connection.recv
        for _ in range(count):
            await send(payload)
            await recv()


class FeedClient:
    """One connection that takes what the server sends."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def check(self, size: int) -> None:
        await self.connection.send(feed_request(1, size).decode())
        if await asyncio.wait_for(self.connection.recv(), 10) != feed_payload_of(size):
            raise ValueError("the frame differs")

    async def run(self, size: int, count: int) -> None:
        await self.connection.send(feed_request(count, size).decode())
        recv = self.connection.recv
        for _ in range(count):
            await recv()


async def client(args: argparse.Namespace) -> None:
    connection = await connect(
        url_of(args),
        ssl=client_tls(args),
        compression=None,
        max_size=None,
        max_queue=None,
        ping_interval=None,
        proxy=None,
    )
    await obey(FeedClient(connection) if args.role == "feed" else EchoClient(connection))


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def echo_server(args: argparse.Namespace) -> None:
    async def start() -> tuple[object, int]:
        server = await websockets_serve(
            echo,
            "localhost",
            0,
            ssl=server_tls(args),
            family=2,  # AF_INET: one listening socket, one port
            compression=None,
            max_size=None,
            max_queue=None,
            ping_interval=None,
        )
        return server, next(iter(server.sockets)).getsockname()[1]

    await serve(start)


def main() -> None:
    args = parse_args(("echo-client", "echo-server", "feed"))
    run(args, echo_server(args) if args.role == "echo-server" else client(args))


if __name__ == "__main__":
    main()
