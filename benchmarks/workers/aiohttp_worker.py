"""The worker of `aiohttp`: no compression, no limits of size, no heartbeat, no access log."""

from __future__ import annotations

import argparse

from aiohttp import ClientSession, ClientWebSocketResponse, TCPConnector, web
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


class EchoClient:
    """One connection that waits for each echo before it sends the next message."""

    def __init__(self, connection: ClientWebSocketResponse) -> None:
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

    def __init__(self, connection: ClientWebSocketResponse) -> None:
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


async def client(args: argparse.Namespace) -> None:
    connector = TCPConnector(ssl=client_tls(args) or True)
    async with ClientSession(connector=connector) as session:
        connection = await session.ws_connect(url_of(args), compress=0, max_msg_size=0)
        await obey(FeedClient(connection) if args.role == "feed" else EchoClient(connection))


async def echo(request: web.BaseRequest) -> web.WebSocketResponse:
    connection = web.WebSocketResponse(compress=False, max_msg_size=0)
    await connection.prepare(request)
    async for message in connection:
        await connection.send_bytes(message.data)
    return connection


async def echo_server(args: argparse.Namespace) -> None:
    async def start() -> tuple[object, int]:
        runner = web.ServerRunner(web.Server(echo, access_log=None))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls(args))
        await site.start()
        return runner, runner.addresses[0][1]

    await serve(start)


def main() -> None:
    args = parse_args(("echo-client", "echo-server", "feed"))
    run(args, echo_server(args) if args.role == "echo-server" else client(args))


if __name__ == "__main__":
    main()
