"""The peer made of the package `aiohttp`. It has no public way to send a message in fragments, and
does not keep the reason of a CLOSE that answers its own. Of compression it lets a client choose
the server's window, and a server nothing."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web
from conformance.peers.common import MAX_SIZE, Channel, Deflate, Library, main

if TYPE_CHECKING:
    from collections.abc import Sequence


class AiohttpChannel(Channel):
    def __init__(self, socket: ClientWebSocketResponse[Any] | web.WebSocketResponse[Any]) -> None:
        self.socket = socket
        self.end: tuple[int, str] | None = None

    async def send(self, kind: str, data: bytes) -> None:
        if kind == "text":
            await self.socket.send_str(data.decode())
        else:
            await self.socket.send_bytes(data)

    async def send_fragments(self, kind: str, parts: Sequence[bytes]) -> None:
        raise NotImplementedError

    async def receive(self) -> tuple[str, bytes] | None:
        message = await self.socket.receive()
        if message.type == WSMsgType.TEXT:
            return "text", message.data.encode()
        if message.type == WSMsgType.BINARY:
            return "binary", message.data
        if message.type == WSMsgType.PING:
            await self.socket.pong(message.data)
            return await self.receive()
        if message.type == WSMsgType.CLOSE:
            self.end = message.data or 1005, message.extra or ""  # it says 0 for no code
        elif message.type == WSMsgType.ERROR:
            raise message.data
        return None

    async def ping(self, data: bytes) -> None:
        await self.socket.ping(data)
        message = await self.socket.receive()
        if message.type != WSMsgType.PONG or message.data != data:
            raise ValueError(f"{message} is not the PONG for {data!r}")

    async def close(self, code: int, reason: str) -> None:
        await self.socket.close(code=code, message=reason.encode())

    def closed_with(self) -> tuple[int, str | None]:
        return self.end or (self.socket.close_code or 1005, None)


def sees_pongs(path: str) -> bool:
    """Without `autoping` PONGs are reported, and PINGs are left to the channel."""
    return path.endswith("/pings")


class Aiohttp(Library):
    def __init__(self) -> None:
        self.session: ClientSession | None = None
        self.runners: list[web.AppRunner] = []

    async def serve(self, context: ssl.SSLContext | None, deflate: Deflate = None) -> int:
        async def handler(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse(
                max_msg_size=MAX_SIZE, autoping=not sees_pongs(request.path)
            )
            await socket.prepare(request)
            await self.answered(AiohttpChannel(socket), request.path)
            return socket

        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(app)
        self.runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        port: int = runner.addresses[0][1]
        return port

    async def connect(
        self, url: str, context: ssl.SSLContext | None, deflate: Deflate = None
    ) -> Channel:
        if self.session is None:
            self.session = ClientSession()
        socket = await self.session.ws_connect(
            url,
            ssl=context or True,
            max_msg_size=MAX_SIZE,
            autoping=not sees_pongs(url),
            compress=15 if deflate is None else deflate["server_max_window_bits"],
        )
        assert bool(socket.compress) == (deflate is not None)
        return AiohttpChannel(socket)

    async def stop(self) -> None:
        if self.session is not None:
            await self.session.close()
        for runner in self.runners:
            await runner.cleanup()


if __name__ == "__main__":
    main(Aiohttp())
