"""The peer made of the package `websockets`, with the options its users have: compression is
offered and accepted by default, so that each connection also shows that we decline it, unless the
test is about compression."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from conformance.peers.common import MAX_SIZE, Channel, Deflate, Library, main
from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


class WebsocketsChannel(Channel):
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def send(self, kind: str, data: bytes) -> None:
        await self.connection.send(data, text=kind == "text")

    async def send_fragments(self, kind: str, parts: Sequence[bytes]) -> None:
        await self.connection.send(parts, text=kind == "text")

    async def receive(self) -> tuple[str, bytes] | None:
        try:
            message = await self.connection.recv()
        except ConnectionClosed:
            return None
        if isinstance(message, str):
            return "text", message.encode()
        return "binary", message

    async def ping(self, data: bytes) -> None:
        await (await self.connection.ping(data))

    async def close(self, code: int, reason: str) -> None:
        await self.connection.close(code, reason)

    def closed_with(self) -> tuple[int, str | None]:
        assert self.connection.close_code is not None
        return self.connection.close_code, self.connection.close_reason


class Websockets(Library):
    def __init__(self) -> None:
        self.servers: list[Server] = []

    async def serve(self, context: ssl.SSLContext | None, deflate: Deflate = None) -> int:
        async def handler(connection: ServerConnection) -> None:
            assert connection.request is not None
            await self.answered(WebsocketsChannel(connection), connection.request.path)

        extensions = None if deflate is None else [ServerPerMessageDeflateFactory(**deflate)]
        server = await serve(
            handler, "127.0.0.1", 0, ssl=context, max_size=MAX_SIZE, extensions=extensions
        )
        self.servers.append(server)
        port: int = next(iter(server.sockets)).getsockname()[1]
        return port

    async def connect(
        self, url: str, context: ssl.SSLContext | None, deflate: Deflate = None
    ) -> Channel:
        extensions = None if deflate is None else [ClientPerMessageDeflateFactory(**deflate)]
        connection = await connect(
            url, ssl=context, max_size=MAX_SIZE, proxy=None, extensions=extensions
        )
        assert len(connection.protocol.extensions) == (deflate is not None)
        return WebsocketsChannel(connection)

    async def stop(self) -> None:
        for server in self.servers:
            server.close()
            await server.wait_closed()


if __name__ == "__main__":
    main(Websockets())
