"""The peer made of the package `wsproto`, which has no I/O of its own, on asyncio's streams."""

from __future__ import annotations

import asyncio
import ssl
import sys
import urllib.parse
from typing import TYPE_CHECKING

from conformance.peers.common import MAX_SIZE, NO_LIBRARY_KNOWS, Channel, Deflate, Library, main
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    Request,
    TextMessage,
)
from wsproto.extensions import Extension, PerMessageDeflate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from wsproto.events import Event


def as_message(kind: str, data: bytes, *, finished: bool = True) -> Event:
    if kind == "text":
        return TextMessage(data.decode(), message_finished=finished)
    return BytesMessage(data, message_finished=finished)


class WsprotoChannel(Channel):
    def __init__(
        self, protocol: WSConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.protocol = protocol
        self.reader = reader
        self.writer = writer
        self.events = self._read()
        self.pongs: list[bytes] = []
        self.parts: list[bytes] = []
        self.end: tuple[int, str] = (NO_LIBRARY_KNOWS, "")

    async def _read(self) -> AsyncIterator[Event]:
        while data := await self.reader.read(65536):
            self.protocol.receive_data(data)
            for event in self.protocol.events():
                yield event
        self.protocol.receive_data(None)

    async def say(self, *events: Event) -> None:
        self.writer.write(b"".join(map(self.protocol.send, events)))
        await self.writer.drain()

    async def send(self, kind: str, data: bytes) -> None:
        await self.say(as_message(kind, data))

    async def send_fragments(self, kind: str, parts: Sequence[bytes]) -> None:
        """It wants text as str, so that no fragment ends inside a character: a part that would
        begins with the next one."""
        rest = b""
        for number, part in enumerate(parts):
            part, rest = rest + part, b""
            if kind == "text":
                while part and not decodes(part):
                    part, rest = part[:-1], part[-1:] + rest
            await self.say(as_message(kind, part, finished=number == len(parts) - 1))

    async def receive(self) -> tuple[str, bytes] | None:
        async for event in self.events:
            if isinstance(event, (TextMessage, BytesMessage)):
                is_text = isinstance(event, TextMessage)
                data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
                self.parts.append(data)
                assert sum(map(len, self.parts)) <= MAX_SIZE
                if event.message_finished:
                    whole = b"".join(self.parts)
                    self.parts.clear()
                    return "text" if is_text else "binary", whole
            elif isinstance(event, Ping):
                await self.say(event.response())
            elif isinstance(event, Pong):
                self.pongs.append(bytes(event.payload))
                return None
            elif isinstance(event, CloseConnection):
                self.end = int(event.code), event.reason or ""
                if self.protocol.state.name == "REMOTE_CLOSING":
                    await self.say(event.response())
                self.writer.close()
                return None
        return None

    async def ping(self, data: bytes) -> None:
        await self.say(Ping(data))
        if await self.receive() is not None or self.pongs.pop() != data:
            raise ValueError(f"no PONG for {data!r}")

    async def close(self, code: int, reason: str) -> None:
        await self.say(CloseConnection(code or 1005, reason))
        while await self.receive() is not None:
            pass
        self.writer.close()

    def closed_with(self) -> tuple[int, str | None]:
        return self.end


def decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def extensions_for(deflate: Deflate) -> list[Extension]:
    return [] if deflate is None else [PerMessageDeflate(**deflate)]


class Wsproto(Library):
    def __init__(self) -> None:
        self.servers: list[asyncio.Server] = []

    async def serve(self, context: ssl.SSLContext | None, deflate: Deflate = None) -> int:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            channel = WsprotoChannel(WSConnection(ConnectionType.SERVER), reader, writer)
            async for request in channel.events:
                assert isinstance(request, Request)
                await channel.say(AcceptConnection(extensions=extensions_for(deflate)))
                await self.answered(channel, request.target)
                break
            writer.close()

        server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=context)
        self.servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def connect(
        self, url: str, context: ssl.SSLContext | None, deflate: Deflate = None
    ) -> Channel:
        parts = urllib.parse.urlsplit(url)
        assert parts.hostname is not None
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
        channel = WsprotoChannel(WSConnection(ConnectionType.CLIENT), reader, writer)
        request = Request(
            host=parts.netloc, target=parts.path or "/", extensions=extensions_for(deflate)
        )
        await channel.say(request)
        async for event in channel.events:
            assert isinstance(event, AcceptConnection), event
            assert len(event.extensions) == (deflate is not None)
            return channel
        raise EOFError("the server closed the connection without an answer")

    async def stop(self) -> None:
        for server in self.servers:
            server.close()


if __name__ == "__main__":
    sys.exit(main(Wsproto()))
