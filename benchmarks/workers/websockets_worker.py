"""The worker of the `websockets` package, with the settings its documentation gives for speed.

With ``--api picows.websockets`` it is the worker of PyPI's picows, whose module of that name has
the same interface and knows compression.

No compression, no limits of size, no keepalive; the queue of received messages is unbounded, since
pausing the transport for every sixteen messages would cost it the feed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
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


class EchoClient:
    """One connection that waits for each echo before it sends the next message."""

    def __init__(self, connection: Any) -> None:
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

    def __init__(self, connection: Any, args: argparse.Namespace) -> None:
        self.connection = connection
        self.args = args

    async def check(self, size: int) -> None:
        connection = await connect(self.args)
        await connection.send(feed_request(1, size).decode())
        right = ticks_of(self.args)[0] if self.args.ticks else feed_payload_of(size)
        found = await asyncio.wait_for(connection.recv(), 10)
        if (found.encode() if isinstance(found, str) else found) != right:
            raise ValueError("the frame differs")
        await connection.close()

    async def run(self, size: int, count: int) -> None:
        await self.connection.send(feed_request(count, size).decode())
        recv = self.connection.recv
        for _ in range(count):
            await recv()


class InflateClient(FeedClient):
    """The same, with each message as bytes."""

    async def run(self, size: int, count: int) -> None:
        await self.connection.send(feed_request(count, size).decode())
        recv = self.connection.recv
        for _ in range(count):
            await recv(decode=False)


class DeflateClient:
    """One connection that compresses what it sends."""

    def __init__(self, connection: Any, args: argparse.Namespace) -> None:
        self.connection = connection
        self.args = args
        self.ratio = 0.0
        self.ticks = Turns(ticks_of(args))

    async def check(self, size: int) -> None:
        connection = await connect(self.args)
        right = ticks_of(self.args)[0]
        await connection.send(right)
        await connection.send(QUESTION.decode())
        if (await asyncio.wait_for(connection.recv(), 10)).encode() != right:
            raise ValueError("the message differs")
        await connection.close()

    async def run(self, size: int, count: int) -> None:
        send, recv = self.connection.send, self.connection.recv
        for start in range(0, count, BATCH):
            batch = self.ticks.take(min(BATCH, count - start))
            for tick in batch:
                await send(tick)
            await send(QUESTION.decode())
            answer = int(await recv())
            self.ratio = sum(map(len, batch)) / answer


class ConnectClient:
    """Connections one after another: upgrade, CLOSE and its echo."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    async def check(self, size: int) -> None:
        await self.run(size, 1)

    async def run(self, size: int, count: int) -> None:
        for _ in range(count):
            await (await connect(self.args)).close()


async def connect(args: argparse.Namespace) -> Any:
    return await importlib.import_module(f"{args.api}.asyncio.client").connect(
        url_of(args),
        ssl=client_tls(args),
        compression="deflate" if args.ticks else None,
        max_size=None,
        max_queue=None,
        ping_interval=None,
        proxy=None,
    )


async def client(args: argparse.Namespace) -> None:
    if args.role == "connect":
        await obey(ConnectClient(args))
    elif args.role == "echo-client":
        await obey(EchoClient(await connect(args)))
    else:
        roles: dict[str, type[Any]] = {
            "feed": FeedClient,
            "inflate": InflateClient,
            "deflate": DeflateClient,
        }
        await obey(roles[args.role](await connect(args), args))


async def server(args: argparse.Namespace) -> None:
    module = importlib.import_module(f"{args.api}.asyncio.server")
    closed = importlib.import_module(f"{args.api}.exceptions").ConnectionClosed
    connections: set[Any] = set()

    async def echo(connection: Any) -> None:
        try:
            async for message in connection:
                await connection.send(message)
        except closed:  # a client that hung up, which is nothing to write a log about
            pass

    async def hand_on(connection: Any) -> None:
        connections.add(connection)
        try:
            async for message in connection:
                module.broadcast(connections, message)
        except closed:
            pass
        finally:
            connections.remove(connection)

    async def start() -> tuple[object, int]:
        server = await module.serve(
            hand_on if args.role == "broadcast-server" else echo,
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
    servers = ("echo-server", "broadcast-server")
    args = parse_args(("echo-client", "feed", "connect", "inflate", "deflate", *servers))
    run(args, server(args) if args.role in servers else client(args))


if __name__ == "__main__":
    main()
