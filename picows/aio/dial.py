"""From a URL to a connected transport: name look-up, TCP or a Unix socket, the user's own socket, a
proxy on the way, TLS on top.

Always holds: what raises or is cancelled here has closed what it opened; the deadline is the
caller's.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import inspect
import os
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from picows.aio.backend import create_connection, create_unix_connection, start_tls
from picows.aio.connection import Connection
from picows.aio.parameters import MAX_SECONDS
from picows.aio.proxy import open_tunnel
from picows.urls import WSParsedURL

__all__ = ["Dialer", "SocketFactory"]

SocketFactory = Callable[[WSParsedURL], "socket.socket | Awaitable[socket.socket | None] | None"]

# Asyncio's start_tls of 3.10, cancelled, leaves a transport that calls itself unclosed.
_IS_START_TLS_SAFE = sys.version_info >= (3, 11)


@dataclass
class Dialer:
    """The ways of one `ws_connect`: the same for each of its attempts, where it is redirected."""

    loop: asyncio.AbstractEventLoop
    use_aiofastnet: bool | None
    ssl_context: ssl.SSLContext | None
    # Of loop.create_connection: for TCP, and for TLS with the target.
    tcp_kwargs: dict[str, Any]
    tls_kwargs: dict[str, Any]
    socket_factory: SocketFactory | None = None
    proxy: WSParsedURL | None = None
    proxy_ssl_context: ssl.SSLContext | None = None

    async def connect(
        self, url: WSParsedURL, connection: Connection, server_hostname: str | None = None
    ) -> None:
        """Connect `connection` to the server of `url`, whose certificate is for `server_hostname`,
        or for the host of the URL.
        """
        tls_kwargs = {
            # The deadline is ws_connect's; the loop's own, of 60 seconds, must not be shorter.
            "ssl_handshake_timeout": MAX_SECONDS,
            **self.tls_kwargs,
            "server_hostname": url.host if server_hostname is None else server_hostname,
        }
        is_twice_secure = self.proxy is not None and self.proxy.is_secure and url.is_secure
        if is_twice_secure and self._is_asyncio and not _IS_START_TLS_SAFE:
            raise ValueError(
                "wss through an https:// proxy is TLS inside TLS, which asyncio's transports carry"
                " from Python 3.11 on; here it takes use_aiofastnet=True"
            )
        ssl_context = self.ssl_context
        if url.is_secure and ssl_context is None:
            ssl_context = _default_ssl_context()
        if self.proxy is None:
            if not url.is_secure:
                await self._open(url, connection)
                return
            if not _IS_START_TLS_SAFE and self._is_asyncio:
                await self._open(url, connection, ssl=ssl_context, **tls_kwargs)
                return
            # In two steps: aiofastnet's create_connection(ssl=...), cancelled in the TLS handshake,
            # leaves a timer.
            transport = await self._open(url, asyncio.Protocol())
        else:
            transport = await self._open_tunnel(self.proxy, url)
            if not url.is_secure:
                transport.set_protocol(connection)
                connection.connection_made(transport)
                return
        assert ssl_context is not None
        secured = await self._secure(transport, connection, ssl_context, **tls_kwargs)
        connection.connection_made(secured)

    @property
    def _is_asyncio(self) -> bool:
        """Are asyncio's own transports used?"""
        return self.use_aiofastnet is False and isinstance(self.loop, asyncio.BaseEventLoop)

    async def _open_tunnel(self, proxy: WSParsedURL, url: WSParsedURL) -> asyncio.Transport:
        """A stream to the server of `url` that `proxy` has opened."""

        async def open_stream(protocol: asyncio.Protocol) -> None:
            if not proxy.is_secure:
                await self._open(proxy, protocol)
                return
            transport = await self._open(proxy, asyncio.Protocol())
            secured = await self._secure(
                transport,
                protocol,
                self.proxy_ssl_context or _default_ssl_context(),
                server_hostname=proxy.host,
                ssl_handshake_timeout=MAX_SECONDS,
            )
            protocol.connection_made(secured)

        return await open_tunnel(proxy, url.host, url.port, open_stream)

    async def _open(
        self, url: WSParsedURL, protocol: asyncio.BaseProtocol, **kwargs: Any
    ) -> asyncio.Transport:
        """The transport below all else: to the server, or to the proxy."""
        sock = await self._make_socket(url)
        opened: Any
        if sock is not None:
            try:
                opened = await create_connection(
                    self.loop, self.use_aiofastnet, protocol, sock=sock, **kwargs
                )
            except BaseException:
                sock.close()
                raise
        elif url.unix_path is not None:
            opened = await create_unix_connection(
                self.loop, self.use_aiofastnet, protocol, url.unix_path
            )
        else:
            opened = await create_connection(
                self.loop,
                self.use_aiofastnet,
                protocol,
                url.host,
                url.port,
                **self.tcp_kwargs,
                **kwargs,
            )
        return cast(asyncio.Transport, opened)

    async def _make_socket(self, url: WSParsedURL) -> socket.socket | None:
        """What the user's socket_factory makes, connected."""
        if self.socket_factory is None:
            return None
        sock: Any = self.socket_factory(url)
        if inspect.isawaitable(sock):
            sock = await sock
        if sock is None:
            return None
        if not isinstance(sock, socket.socket) or isinstance(sock, ssl.SSLSocket):
            if isinstance(sock, socket.socket):
                sock.close()
            raise TypeError(
                "socket_factory must return a socket.socket without TLS, or None,"
                f" not {type(sock).__name__}"
            )
        try:
            if sock.type != socket.SOCK_STREAM:
                raise ValueError(f"socket_factory must return a SOCK_STREAM socket, not {sock!r}")
            sock.setblocking(False)
            if not _is_connected(sock):
                await self.loop.sock_connect(sock, await self._address(sock, url))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _address(self, sock: socket.socket, url: WSParsedURL) -> Any:
        if sock.family == getattr(socket, "AF_UNIX", None):
            if url.unix_path is None:
                raise ValueError(
                    "socket_factory returned an unconnected Unix socket, but the URL names none:"
                    f" {url.redacted}"
                )
            return url.unix_path
        if url.unix_path is not None:
            raise ValueError(
                f"socket_factory returned an unconnected {sock.family.name} socket, but the URL"
                f" names a Unix socket: {url.redacted}"
            )
        infos = await self.loop.getaddrinfo(
            url.host, url.port, family=sock.family, type=socket.SOCK_STREAM
        )
        return infos[0][4]

    async def _secure(
        self,
        transport: asyncio.Transport,
        protocol: Any,
        ssl_context: ssl.SSLContext,
        **kwargs: Any,
    ) -> asyncio.Transport:
        try:
            if transport.is_closing():
                # uvloop's start_tls would wait for ever, and leave a timer.
                raise ConnectionResetError("the connection was closed ahead of TLS")
            secured = await start_tls(
                self.loop, self.use_aiofastnet, transport, protocol, ssl_context, **kwargs
            )
        except BaseException as exc:
            transport.abort()
            if isinstance(exc, TypeError) and isinstance(exc.__context__, ssl.SSLError):
                # asyncio of 3.11 and before fails itself while it reports a TLS handshake that
                # failed inside another TLS.
                raise exc.__context__ from None
            raise
        return cast(asyncio.Transport, secured)


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError as exc:
        # macOS says EINVAL once the peer has gone again.
        if exc.errno not in (errno.ENOTCONN, errno.EINVAL):
            raise
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error)) from None
        return False
    return True


@functools.cache
def _default_ssl_context() -> ssl.SSLContext:
    """Loading the trusted certificates takes milliseconds, so they are loaded once."""
    return ssl.create_default_context()
