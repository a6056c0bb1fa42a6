"""The peer made of `picows`: in .venv-peers that is the package of this name on PyPI. The tests use
the same channel for our side, since the API is the same; ours is what their own process imports."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

from conformance.peers.common import (
    MAX_SIZE,
    NO_LIBRARY_KNOWS,
    Channel,
    Deflate,
    Library,
    main,
)

from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_connect,
    ws_create_server,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TYPES = {"text": WSMsgType.TEXT, "binary": WSMsgType.BINARY}
KINDS = {WSMsgType.TEXT: "text", WSMsgType.BINARY: "binary"}


class PicowsChannel(Channel, WSListener):
    def __init__(self) -> None:
        self.transport: WSTransport
        self.connected = self.disconnected = 0
        self.received: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        self.pongs: asyncio.Queue[bytes] = asyncio.Queue()
        self.kind = ""
        self.parts: list[bytes] = []
        self.end: tuple[int, str | None] = (NO_LIBRARY_KNOWS, "")

    # What the engine calls

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.connected += 1
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        assert self.connected == 1
        assert self.disconnected == 0
        assert (frame.rsv1, frame.rsv2, frame.rsv3) == (False, False, False)
        if frame.msg_type == WSMsgType.PONG:
            self.pongs.put_nowait(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            code, reason = frame.get_close_code(), frame.get_close_reason()
            self.end = int(code) or 1005, reason or ""
            transport.send_close(code, frame.get_close_message())
            transport.disconnect()
        else:
            if frame.msg_type == WSMsgType.CONTINUATION:
                assert self.parts
            else:
                assert not self.parts
                self.kind = KINDS[WSMsgType(frame.msg_type)]
            self.parts.append(frame.get_payload_as_bytes())
            if frame.fin:
                self.received.put_nowait((self.kind, b"".join(self.parts)))
                self.parts.clear()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.disconnected += 1
        self.received.put_nowait(None)

    # What a channel does

    async def send(self, kind: str, data: bytes) -> None:
        self.transport.send(TYPES[kind], data)

    async def send_fragments(self, kind: str, parts: Sequence[bytes]) -> None:
        msg_type = TYPES[kind]
        for part in parts[:-1]:
            self.transport.send(msg_type, part, fin=False)
            msg_type = WSMsgType.CONTINUATION
        self.transport.send(msg_type, parts[-1])

    async def receive(self) -> tuple[str, bytes] | None:
        return await self.received.get()

    async def ping(self, data: bytes) -> None:
        self.transport.send_ping(data)
        pong = await self.pongs.get()
        if pong != data:
            raise ValueError(f"{pong!r} is not the PONG for {data!r}")

    async def close(self, code: int, reason: str) -> None:
        if code:
            self.transport.send_close(code, reason.encode())
        else:
            self.transport.send_close()
        await self.transport.wait_disconnected()

    def closed_with(self) -> tuple[int, str | None]:
        return self.end


class Picows(Library):
    """`options` go to ws_connect and ws_create_server."""

    def __init__(self, **options: Any) -> None:
        self.options = {"max_frame_size": MAX_SIZE, **options}
        self.servers: list[Any] = []
        self.answering: set[asyncio.Task[None]] = set()

    def router(
        self, answered: Callable[[Channel, str], Any]
    ) -> Callable[[WSUpgradeRequest], WSListener]:
        def route(request: WSUpgradeRequest) -> WSListener:
            channel = PicowsChannel()
            path = request.path.decode()
            task = asyncio.get_running_loop().create_task(answered(channel, path))
            self.answering.add(task)
            task.add_done_callback(self.answering.discard)
            return channel

        return route

    async def serve(self, context: ssl.SSLContext | None, deflate: Deflate = None) -> int:
        assert deflate is None  # ours gets it with the options
        server = await ws_create_server(
            self.router(self.answered), "127.0.0.1", 0, ssl=context, **self.options
        )
        self.servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def connect(
        self, url: str, context: ssl.SSLContext | None, deflate: Deflate = None
    ) -> PicowsChannel:
        assert deflate is None
        _, channel = await ws_connect(PicowsChannel, url, ssl_context=context, **self.options)
        assert isinstance(channel, PicowsChannel)
        return channel

    async def stop(self) -> None:
        for server in self.servers:
            server.close()


if __name__ == "__main__":
    main(Picows())
