"""The transports below: aiofastnet's, or the loop's own. The one module that imports aiofastnet.

Only aiofastnet's Python-level interface is used: its .pxd changes from release to release.
"""

from __future__ import annotations

import socket
import ssl
import sys
from asyncio import AbstractEventLoop, AbstractServer, BaseProtocol, BaseTransport, Transport
from collections.abc import Callable
from typing import Any, cast

import aiofastnet

__all__ = [
    "busy_poll_socket",
    "create_connection",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "is_aiofastnet",
    "start_tls",
    "tune_socket",
]


def is_aiofastnet(transport: object) -> bool:
    """Is it one of aiofastnet's transports?"""
    return type(transport).__module__.partition(".")[0] == "aiofastnet"


async def create_connection(
    loop: AbstractEventLoop,
    use_aiofastnet: bool,
    protocol_factory: Callable[[], BaseProtocol],
    host: Any = None,
    port: Any = None,
    **kwargs: Any,
) -> tuple[BaseTransport, BaseProtocol]:
    """`loop.create_connection`, on the transports that were asked for."""
    if use_aiofastnet:
        connected: tuple[BaseTransport, BaseProtocol] = await aiofastnet.create_connection(
            loop, protocol_factory, host, port, **kwargs
        )
        return connected
    return await loop.create_connection(protocol_factory, host, port, **kwargs)


async def create_unix_connection(
    loop: AbstractEventLoop,
    use_aiofastnet: bool,
    protocol_factory: Callable[[], BaseProtocol],
    path: str,
    **kwargs: Any,
) -> tuple[BaseTransport, BaseProtocol]:
    """`loop.create_unix_connection`, on the transports that were asked for."""
    if use_aiofastnet:
        connected: tuple[BaseTransport, BaseProtocol] = await aiofastnet.create_unix_connection(
            loop, protocol_factory, path, **kwargs
        )
        return connected
    return await loop.create_unix_connection(protocol_factory, path, **kwargs)


async def start_tls(
    loop: AbstractEventLoop,
    use_aiofastnet: bool,
    transport: BaseTransport,
    protocol: BaseProtocol,
    ssl_context: ssl.SSLContext,
    **kwargs: Any,
) -> BaseTransport:
    """`loop.start_tls`, on the transports that were asked for."""
    insecure = cast(Transport, transport)
    secured: object
    if use_aiofastnet:
        secured = await aiofastnet.start_tls(loop, insecure, protocol, ssl_context, **kwargs)
    else:
        secured = await loop.start_tls(insecure, protocol, ssl_context, **kwargs)
    return cast(BaseTransport, secured)


async def create_server(
    loop: AbstractEventLoop,
    use_aiofastnet: bool,
    protocol_factory: Callable[[], BaseProtocol],
    host: Any,
    port: int | None,
    **kwargs: Any,
) -> AbstractServer:
    """`loop.create_server`, on the transports that were asked for."""
    if use_aiofastnet:
        server: AbstractServer = await aiofastnet.create_server(
            loop, protocol_factory, host, port, **kwargs
        )
        return server
    return await loop.create_server(protocol_factory, host, port, **kwargs)


async def create_unix_server(
    loop: AbstractEventLoop,
    use_aiofastnet: bool,
    protocol_factory: Callable[[], BaseProtocol],
    path: str,
    **kwargs: Any,
) -> AbstractServer:
    """`loop.create_unix_server`, on the transports that were asked for."""
    if use_aiofastnet:
        server: AbstractServer = await aiofastnet.create_unix_server(
            loop, protocol_factory, path, **kwargs
        )
        return server
    return await loop.create_unix_server(protocol_factory, path, **kwargs)


def busy_poll_socket(sock: socket.socket, seconds: float) -> None:
    """Ask the system to poll the network card that long as well, where it can (socket(7))."""
    if sys.platform != "linux":
        return
    so_busy_poll = 46
    try:
        sock.setsockopt(socket.SOL_SOCKET, so_busy_poll, int(seconds * 1e6))
    except OSError:
        # More than the system's default is for CAP_NET_ADMIN; old kernels know none.
        pass


def tune_socket(sock: socket.socket) -> None:
    """Ask TCP for low latency; other kinds of sockets are left alone."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Linux only: acknowledge at once.
        quickack = getattr(socket, "TCP_QUICKACK", None)
        if quickack is not None:
            sock.setsockopt(socket.IPPROTO_TCP, quickack, 1)
    except OSError:
        # The peer is gone already (macOS says EINVAL): the next read or write will tell.
        pass
