"""Through a proxy: HTTP CONNECT, SOCKS4, SOCKS5. The one module that imports python-socks.

python-socks speaks the proxies' protocols over a stream that we open, so that the user's socket,
the TLS of an ``https://`` proxy and the transports are those of every other connection.

Always holds: when `open_tunnel` raises or is cancelled, the transport to the proxy is closed; the
proxy's password is in no error and no log.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

from python_socks import ProxyError, ProxyType
from python_socks.async_.asyncio.v2 import Proxy

from picows.aio.parameters import MAX_SECONDS
from picows.errors import WSHandshakeError
from picows.urls import WSParsedURL

__all__ = ["open_tunnel"]

_TYPES = {
    # TLS with the proxy is ours.
    "https": ProxyType.HTTP,
    "http": ProxyType.HTTP,
    "socks4": ProxyType.SOCKS4,
    "socks5": ProxyType.SOCKS5,
}


# Bytes of an HTTP proxy's answer.
_MAX_HEAD = 16 * 1024


async def open_tunnel(
    proxy: WSParsedURL,
    host: str,
    port: int,
    open_stream: Callable[[asyncio.Protocol], Awaitable[None]],
) -> asyncio.Transport:
    """
    A transport on which `host` and `port` are at the other end.

    :param open_stream: connects a protocol to the proxy
    :raises WSHandshakeError: the proxy refused, or does not speak its protocol
    """
    # Of an HTTP proxy python-socks wants the whole head in one piece, of others so many bytes.
    stream = _Stream(b"" if proxy.scheme.startswith("socks") else b"\r\n\r\n")
    target = host
    if proxy.scheme == "socks4":
        # A SOCKS4 request has room for an IPv4 address only; python-socks would send a name, or
        # another address, as one (SOCKS4A).
        if ":" in host:
            raise ValueError(f"SOCKS4 reaches IPv4 addresses only, not {host}")
        infos = await asyncio.get_running_loop().getaddrinfo(
            host, port, family=socket.AF_INET, type=socket.SOCK_STREAM
        )
        target = str(infos[0][4][0])
    client = Proxy(
        _TYPES[proxy.scheme],
        proxy.host,
        proxy.port,
        *_credentials(proxy),
        rdns=True,
        forward=cast(Any, _Opener(stream, open_stream)),
    )
    try:
        await client.connect(target, port, timeout=MAX_SECONDS)
        transport = stream.transport
        assert transport is not None
        if stream.received:
            raise WSHandshakeError(
                f"the proxy {proxy.redacted} sent {len(stream.received)} bytes of its own behind"
                " its answer"
            )
        if stream.ended:
            raise WSHandshakeError(f"the proxy {proxy.redacted} closed the connection")
    except (ProxyError, EOFError, ValueError, LookupError) as exc:
        stream.abort()
        if stream.transport is None or isinstance(exc, OSError):
            # Of the way to the proxy (an SSLCertVerificationError is a ValueError, too).
            raise
        # ValueError and LookupError are what python-socks makes of garbage.
        raise WSHandshakeError(
            f"the proxy {proxy.redacted} opened no connection to {host}:{port}: {exc}"
        ) from exc
    except BaseException:
        stream.abort()
        raise
    return transport


def _credentials(proxy: WSParsedURL) -> tuple[str | None, str | None]:
    """User and password so that python-socks writes them in UTF-8 (RFC 7617 section 2.1)."""
    if proxy.username is None:
        return None, None
    # Both, or it sends none.
    return _Octets(proxy.username), _Octets(proxy.password or "")


class _Octets(str):
    """
    Text as its UTF-8 bytes, one character for each: python-socks counts characters where it means
    bytes, and encodes as ASCII or Latin-1.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> _Octets:
        return super().__new__(cls, text.encode().decode("latin-1"))

    def encode(self, encoding: str = "latin-1", errors: str = "strict") -> bytes:
        return super().encode("latin-1", errors)


class _Stream(asyncio.Protocol):
    """What python-socks reads and writes while it talks to the proxy."""

    def __init__(self, end: bytes) -> None:
        self._end = end
        self.transport: asyncio.Transport | None = None
        self.received = bytearray()
        self.ended = False
        self._lost_by: Exception | None = None
        self._changed = asyncio.Event()

    # The protocol of the transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()

    def eof_received(self) -> None:
        self.ended = True
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost_by = exc
        self.eof_received()

    # The stream of python-socks

    async def read(self, max_bytes: int = 65536) -> bytes:
        while not self._is_readable():
            self._changed.clear()
            await self._changed.wait()
        if self._lost_by is not None:
            raise self._lost_by
        if self._end in self.received:
            if self._end:
                max_bytes = min(max_bytes, self.received.index(self._end) + len(self._end))
        elif not self.ended:
            # A part of a head would be read as the whole, and what follows as the server's words.
            raise ValueError(f"its answer has no end within {_MAX_HEAD} bytes")
        data = bytes(self.received[:max_bytes])
        del self.received[:max_bytes]
        return data

    def _is_readable(self) -> bool:
        if self.ended or len(self.received) > _MAX_HEAD:
            return True
        return bool(self.received) and self._end in self.received

    async def read_exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            more = await self.read(n - len(data))
            if not more:
                raise EOFError("it closed the connection")
            data += more
        return data

    async def write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    async def write_all(self, data: bytes) -> None:
        await self.write(data)

    async def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Opener:
    """In the place where python-socks has the proxy in front of this one: it opens the stream."""

    def __init__(
        self,
        stream: _Stream,
        open_stream: Callable[[asyncio.Protocol], Awaitable[None]],
    ) -> None:
        self._stream = stream
        self._open_stream = open_stream

    async def connect(self, *args: object, **kwargs: object) -> _Stream:
        # `_Stream` learns of its transport itself.
        await self._open_stream(self._stream)
        return self._stream
