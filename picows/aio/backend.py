"""The transports below: ours, aiofastnet's, or the loop's own.

Which, is for `use_aiofastnet` to say: None takes ours for connections without TLS and aiofastnet's
for all else, True aiofastnet's, False the loop's own. No other module imports aiofastnet, and only
its Python-level interface is used: its .pxd changes from release to release.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
import sys
from asyncio import AbstractEventLoop, BaseProtocol, BaseTransport, Future, Protocol, Transport
from collections.abc import Callable
from typing import Any, cast

import aiofastnet
import aiohappyeyeballs

from picows.aio.connection import Connection
from picows.aio.listening import Listening
from picows.aio.socket_transport import open_stream

__all__ = [
    "create_connection",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "is_aiofastnet",
    "start_tls",
]

# Windows' loops watch no sockets.
_HAVE_OWN = sys.platform != "win32"


def is_aiofastnet(transport: object) -> bool:
    """Is it one of aiofastnet's transports?"""
    return type(transport).__module__.partition(".")[0] == "aiofastnet"


async def create_connection(
    loop: AbstractEventLoop,
    use_aiofastnet: bool | None,
    protocol: BaseProtocol,
    host: Any = None,
    port: Any = None,
    *,
    sock: socket.socket | None = None,
    **kwargs: Any,
) -> BaseTransport:
    """`loop.create_connection`, on the transports that were asked for."""
    if use_aiofastnet is not False and _HAVE_OWN and sock is None and kwargs.get("ssl") is None:
        # Also for aiofastnet, which asks a thread for an address that is one.
        sock = await _connect(loop, host, port, **kwargs)
        try:
            return await create_connection(loop, use_aiofastnet, protocol, sock=sock)
        except BaseException:
            sock.close()
            raise
    if _is_for_ours(use_aiofastnet, protocol):
        assert sock is not None
        return _open_ours(loop, sock, cast(Connection, protocol))
    connect = aiofastnet.create_connection if use_aiofastnet is not False else _by_the_loop
    transport, _ = await connect(loop, lambda: protocol, host, port, sock=sock, **kwargs)
    return transport


async def create_unix_connection(
    loop: AbstractEventLoop, use_aiofastnet: bool | None, protocol: BaseProtocol, path: str
) -> BaseTransport:
    """`loop.create_unix_connection`, on the transports that were asked for."""
    if _is_for_ours(use_aiofastnet, protocol):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, path)
        except BaseException:
            sock.close()
            raise
        return _open_ours(loop, sock, cast(Connection, protocol))
    if use_aiofastnet is not False:
        transport, _ = await aiofastnet.create_unix_connection(loop, lambda: protocol, path)
    else:
        transport, _ = await loop.create_unix_connection(lambda: protocol, path)
    return cast(BaseTransport, transport)


async def start_tls(
    loop: AbstractEventLoop,
    use_aiofastnet: bool | None,
    transport: BaseTransport,
    protocol: BaseProtocol,
    ssl_context: ssl.SSLContext,
    **kwargs: Any,
) -> BaseTransport:
    """`loop.start_tls`, on the transports that were asked for."""
    insecure = cast(Transport, transport)
    secured: object
    if use_aiofastnet is not False:
        secured = await aiofastnet.start_tls(loop, insecure, protocol, ssl_context, **kwargs)
    else:
        secured = await loop.start_tls(insecure, protocol, ssl_context, **kwargs)
    return cast(BaseTransport, secured)


async def create_server(
    loop: AbstractEventLoop,
    use_aiofastnet: bool | None,
    connection_factory: Callable[[], Connection],
    host: Any,
    port: int | None,
    *,
    sock: socket.socket | None = None,
    backlog: int = 100,
    start_serving: bool = True,
    **kwargs: Any,
) -> Any:
    """`loop.create_server`, on the transports that were asked for."""
    if use_aiofastnet is None and _HAVE_OWN and kwargs.get("ssl") is None:
        sockets = [sock] if sock is not None else await _bind(loop, host, port, **kwargs)
        return await _listen(loop, connection_factory, sockets, backlog, start_serving)
    create = aiofastnet.create_server if use_aiofastnet is not False else _serve_by_the_loop
    return await create(
        loop,
        connection_factory,
        host,
        port,
        sock=sock,
        backlog=backlog,
        start_serving=start_serving,
        **kwargs,
    )


async def create_unix_server(
    loop: AbstractEventLoop,
    use_aiofastnet: bool | None,
    connection_factory: Callable[[], Connection],
    path: str,
    *,
    backlog: int = 100,
    start_serving: bool = True,
    **kwargs: Any,
) -> Any:
    """`loop.create_unix_server`, on the transports that were asked for."""
    if use_aiofastnet is None and _HAVE_OWN and kwargs.get("ssl") is None:
        sockets = [_bind_unix(path)]
        return await _listen(loop, connection_factory, sockets, backlog, start_serving)
    kwargs.update(backlog=backlog, start_serving=start_serving)
    if use_aiofastnet is not False:
        return await aiofastnet.create_unix_server(loop, connection_factory, path, **kwargs)
    return await loop.create_unix_server(connection_factory, path, **kwargs)


# Ours


def _is_for_ours(use_aiofastnet: bool | None, protocol: BaseProtocol) -> bool:
    return use_aiofastnet is None and _HAVE_OWN and isinstance(protocol, Connection)


def _open_ours(
    loop: AbstractEventLoop, sock: socket.socket, connection: Connection
) -> BaseTransport:
    return cast(BaseTransport, open_stream(loop, sock, connection))


async def _connect(
    loop: AbstractEventLoop,
    host: str,
    port: int,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    local_addr: tuple[str, int] | None = None,
    happy_eyeballs_delay: float | None = None,
    interleave: int | None = None,
) -> socket.socket:
    """A socket that is connected to the first address of the server that takes it (RFC 8305)."""
    infos = await _addresses(loop, host, port, family, proto, flags)
    local_infos = None
    if local_addr is not None:
        local_infos = await _addresses(loop, *local_addr, family, proto, flags)
    elif len(infos) == 1:
        # There is nothing to choose. (And uvloop's sock_connect asks a thread for the address.)
        return await _connect_to(loop, infos[0])
    try:
        return await aiohappyeyeballs.start_connection(
            infos,
            local_addr_infos=local_infos,
            happy_eyeballs_delay=happy_eyeballs_delay,
            interleave=interleave,
            loop=loop,
        )
    except OSError as exc:
        # Its traceback and a list of that function refer to each other.
        raise exc.with_traceback(None) from None


async def _connect_to(loop: AbstractEventLoop, info: Any) -> socket.socket:
    family, kind, proto, _, address = info
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        error = sock.connect_ex(address)
        if error == errno.EINPROGRESS:
            # A server on the same machine has answered already, and the loop need not turn for it.
            error = sock.connect_ex(address)
        if error in (errno.EALREADY, errno.EINPROGRESS):
            done = loop.create_future()
            loop.add_writer(sock.fileno(), _settle, done)
            try:
                await done
            finally:
                loop.remove_writer(sock.fileno())
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        # EISCONN: so do others than Linux say that it is done.
        if error not in (0, errno.EISCONN):
            raise OSError(error, f"Connect call failed {address}")
    except BaseException:
        sock.close()
        raise
    return sock


def _settle(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _addresses(
    loop: AbstractEventLoop, host: str | None, port: int, family: int, proto: int, flags: int
) -> list[Any]:
    kind = socket.SOCK_STREAM
    if _is_address(host):
        # It needs no look-up, and no thread for it.
        return socket.getaddrinfo(host, port, family, kind, proto, flags)
    infos = await loop.getaddrinfo(host, port, family=family, type=kind, proto=proto, flags=flags)
    if not infos:
        raise OSError(f"no address is known for {host}")
    return infos


def _is_address(host: str | None) -> bool:
    if host is None or ":" in host:
        return True
    try:
        socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return False
    return True


async def _bind(
    loop: AbstractEventLoop, host: Any, port: Any, *, keep_alive: bool = False, **kwargs: Any
) -> list[socket.socket]:
    """What the loop binds, with all that it knows of addresses and options."""
    server = await loop.create_server(Protocol, host, port, start_serving=False, **kwargs)
    try:
        # uvloop's are no socket.socket, and both loops' are closed with the server.
        sockets = [socket.socket(fileno=os.dup(each.fileno())) for each in server.sockets]
    finally:
        server.close()
    for sock in sockets:
        # What is accepted inherits it. Of the loops, only asyncio's of 3.13 knows the parameter.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, keep_alive)
    return sockets


def _bind_unix(path: str) -> socket.socket:
    """As loops do it: in the place of what a server before has left."""
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.remove(path)
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, f"Address {path!r} is already in use") from None
        raise
    return sock


async def _listen(
    loop: AbstractEventLoop,
    connection_factory: Callable[[], Connection],
    sockets: list[socket.socket],
    backlog: int,
    start_serving: bool,
) -> Listening:
    for sock in sockets:
        sock.setblocking(False)
    listening = Listening(loop, connection_factory, sockets, backlog)
    if start_serving:
        try:
            await listening.start_serving()
        except BaseException:
            listening.close()
            raise
    return listening


# The loop's, called as aiofastnet's are


async def _by_the_loop(
    loop: AbstractEventLoop, protocol_factory: Any, host: Any, port: Any, **kwargs: Any
) -> tuple[BaseTransport, BaseProtocol]:
    return await loop.create_connection(protocol_factory, host, port, **kwargs)


async def _serve_by_the_loop(
    loop: AbstractEventLoop, protocol_factory: Any, host: Any, port: Any, **kwargs: Any
) -> Any:
    return await loop.create_server(protocol_factory, host, port, **kwargs)
