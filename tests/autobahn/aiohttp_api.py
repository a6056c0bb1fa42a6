"""The package `aiohttp` as the Autobahn TestSuite's testee: the echo of its documentation.

Its client offers no compression by default; the window of 15 bits is the one that a server takes
which does not negotiate. There is no limit of size.
"""

from __future__ import annotations

from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web


class Server:
    def __init__(self, runner: web.ServerRunner) -> None:
        self._runner = runner

    def close(self) -> None:
        """All is done in wait_closed()."""

    async def wait_closed(self) -> None:
        await self._runner.cleanup()


async def serve() -> tuple[Server, int]:
    """The server, with close() and wait_closed(), and its port."""
    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return Server(runner), runner.addresses[0][1]


async def answer(request: web.BaseRequest) -> web.WebSocketResponse:
    connection = web.WebSocketResponse(max_msg_size=0)
    await connection.prepare(request)
    await echo(connection)
    return connection


async def converse(url: str) -> None:
    """Connect, and echo until the connection is over."""
    async with ClientSession() as session:
        async with session.ws_connect(url, max_msg_size=0, compress=15) as connection:
            await echo(connection)


async def ask(url: str) -> str:
    """What the fuzzing server answers; nothing, where it has only something to do."""
    async with ClientSession() as session:
        async with session.ws_connect(url) as connection:
            message = await connection.receive()
            return message.data if message.type == WSMsgType.TEXT else ""


async def echo(connection: web.WebSocketResponse | ClientWebSocketResponse[Any]) -> None:
    try:
        async for message in connection:
            if message.type == WSMsgType.TEXT:
                await connection.send_str(message.data)
            elif message.type == WSMsgType.BINARY:
                await connection.send_bytes(message.data)
    except ConnectionResetError:  # the other side was gone first
        pass
