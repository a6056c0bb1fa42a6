"""The package `websockets` as the Autobahn TestSuite's testee: the echo of its documentation.

All is as it is by default (compression too) but for the limits and the keepalive, whose PINGs no
case waits for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

# 9.3.* and 9.4.* have up to 65,537; it is read when the package is imported.
os.environ["WEBSOCKETS_MAX_FRAGMENTS"] = "100000"

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve as start_server
from websockets.exceptions import ConnectionClosed

OPTIONS: dict[str, Any] = {"max_size": None, "ping_interval": None}


class Testee:
    """An agent of this package, or of one that has its interface."""

    def __init__(
        self, connect: Callable[..., Any], serve: Callable[..., Any], closed: type[Exception]
    ) -> None:
        self._connect = connect
        self._serve = serve
        self._closed = closed

    async def serve(self) -> tuple[Any, int]:
        """The server, with close() and wait_closed(), and its port."""
        server = await self._serve(self._echo, "127.0.0.1", 0, **OPTIONS)
        return server, next(iter(server.sockets)).getsockname()[1]

    async def converse(self, url: str) -> None:
        """Connect, and echo until the connection is over."""
        async with self._connect(url, proxy=None, **OPTIONS) as connection:
            await self._echo(connection)

    async def ask(self, url: str) -> str:
        """What the fuzzing server answers; nothing, where it has only something to do."""
        async with self._connect(url, proxy=None, **OPTIONS) as connection:
            try:
                answer: str = await connection.recv()
            except self._closed:
                return ""
            return answer

    async def _echo(self, connection: Any) -> None:
        try:
            async for message in connection:
                await connection.send(message)
        except self._closed:  # a violation, or lost while sending: what many cases are for
            pass


testee = Testee(connect, start_server, ConnectionClosed)
serve, converse, ask = testee.serve, testee.converse, testee.ask
