"""The worker of `aiohttp`: no limits of size, no heartbeat, no access log."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import ClientSession, TCPConnector, web
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

Connection = Any  # a generic class in newer releases only
Connect = Callable[[], Awaitable[Connection]]

receivers: list[web.WebSocketResponse] = []


class EchoClient:
    """One connection that waits for each echo before it sends the next message."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.payload = b""

    async def check(self, size: int) -> None:
        self.payload = payload_of(size)
        await self.connection.send_bytes(self.payload)
        if await self.connection.receive_bytes(timeout=10) != self.payload:
            raise ValueError("echo differs")

    async def run(self, size: int, count: int) -> None:
        if len(self.payload) != size:
            self.payload = payload_of(size)
        payload, send = self.payload, self.connection.send_bytes
        receive = self.connection.receive_bytes
        for _ in range(count):
            await send(payload)
            await receive()


class FeedClient:
    """One connection that takes what the server sends."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def check(self, size: int) -> None:
        await self.connection.send_str(feed_request(1, size).decode())
        if await self.connection.receive_bytes(timeout=10) != feed_payload_of(size):
            raise ValueError("the frame differs")

    async def run(self, size: int, count: int) -> None:
        await self.connection.send_str(feed_request(count, size).decode())
        receive = self.connection.receive_bytes
        for _ in range(count):
            await receive()


class InflateClient:
    """One connection that takes compressed messages."""

    def __init__(self, connect: Connect, connection: Connection, right: bytes) -> None:
        self.connect = connect
        self.connection = connection
        self.right = right

    async def check(self, size: int) -> None:
        connection = await self.connect()
        await connection.send_str(feed_request(1, 0).decode())
        if (await connection.receive(timeout=10)).data.encode() != self.right:
            raise ValueError("the message differs")
        await connection.close()

    async def run(self, size: int, count: int) -> None:
        await self.connection.send_str(feed_request(count, 0).decode())
        receive = self.connection.receive
        for _ in range(count):
            await receive()


class DeflateClient:
    """One connection that compresses what it sends."""

    def __init__(self, connect: Connect, connection: Connection, ticks: list[bytes]) -> None:
        self.connect = connect
        self.connection = connection
        self.right = ticks[0]
        self.ratio = 0.0
        self.ticks = Turns(ticks)

    async def check(self, size: int) -> None:
        connection = await self.connect()
        await connection.send_bytes(self.right)
        await connection.send_str(QUESTION.decode())
        if (await connection.receive(timeout=10)).data.encode() != self.right:
            raise ValueError("the message differs")
        await connection.close()

    async def run(self, size: int, count: int) -> None:
        send, receive = self.connection.send_bytes, self.connection.receive
        for start in range(0, count, BATCH):
            batch = self.ticks.take(min(BATCH, count - start))
            for tick in batch:
                await send(tick)
            await self.connection.send_str(QUESTION.decode())
            answer = int((await receive()).data)
            self.ratio = sum(map(len, batch)) / answer


class ConnectClient:
    """Connections one after another: upgrade, CLOSE and its echo."""

    def __init__(self, connect: Connect) -> None:
        self.connect = connect

    async def check(self, size: int) -> None:
        await self.run(size, 1)

    async def run(self, size: int, count: int) -> None:
        for _ in range(count):
            await (await self.connect()).close()


async def client(args: argparse.Namespace) -> None:
    connector = TCPConnector(ssl=client_tls(args) or True)
    async with ClientSession(connector=connector) as session:

        async def connect() -> Connection:
            return await session.ws_connect(
                url_of(args), compress=15 if args.ticks else 0, max_msg_size=0
            )

        if args.role == "connect":
            await obey(ConnectClient(connect))
        elif args.role == "echo-client":
            await obey(EchoClient(await connect()))
        elif args.role == "feed":
            await obey(FeedClient(await connect()))
        elif args.role == "inflate":
            await obey(InflateClient(connect, await connect(), ticks_of(args)[0]))
        else:
            await obey(DeflateClient(connect, await connect(), ticks_of(args)))


async def echo(request: web.BaseRequest) -> web.WebSocketResponse:
    connection = web.WebSocketResponse(compress=False, max_msg_size=0)
    await connection.prepare(request)
    async for message in connection:
        await connection.send_bytes(message.data)
    return connection


async def hand_on(request: web.BaseRequest) -> web.WebSocketResponse:
    connection = web.WebSocketResponse(compress=False, max_msg_size=0)
    await connection.prepare(request)
    receivers.append(connection)
    async for message in connection:
        for receiver in receivers:
            await receiver.send_bytes(message.data)
    receivers.remove(connection)
    return connection


async def server(args: argparse.Namespace) -> None:
    handler = hand_on if args.role == "broadcast-server" else echo

    async def start() -> tuple[object, int]:
        runner = web.ServerRunner(web.Server(handler, access_log=None))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls(args))
        await site.start()
        return runner, runner.addresses[0][1]

    await serve(start)


def main() -> None:
    servers = ("echo-server", "broadcast-server")
    args = parse_args(("echo-client", "feed", "connect", "inflate", "deflate", *servers))
    run(args, server(args) if args.role in servers else client(args))


if __name__ == "__main__":
    main()
