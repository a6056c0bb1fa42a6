"""The server's door: `ws_create_server` and the object that it returns.

Always holds: one absolute deadline from the accept to the end of the upgrade; a client that misses
it, or that sends nonsense, disturbs nobody else.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from picows.aio.backend import create_server, create_unix_server
from picows.aio.connection import CLOSE_TIMEOUT, Connection
from picows.aio.logs import PICOWS_DEBUG_LL, AnyLogger
from picows.aio.parameters import (
    MAX_SECONDS,
    SERVER_KWARGS,
    OverflowPolicy,
    check_callable,
    check_kernel_timestamps,
    check_kwargs,
    check_server_address,
    check_timeout,
    make_settings,
)
from picows.aio.settings import Settings
from picows.aio.transport import WSAutoPingStrategy, WSListener
from picows.errors import WSHandshakeError
from picows.handshake.deflate import PerMessageDeflate
from picows.handshake.http11 import WSUpgradeRequest, WSUpgradeResponseWithListener
from picows.handshake.server import ServerHandshake, ServerRefusal
from picows.wire.sender import check_close_code

__all__ = ["WSServer", "ws_create_server"]

ServerListenerFactory = Callable[
    [WSUpgradeRequest], WSListener | WSUpgradeResponseWithListener | None
]

_REFUSED_KWARGS = {"protocol_factory": "use ws_listener_factory"}


async def ws_create_server(
    ws_listener_factory: ServerListenerFactory,
    host: str | Sequence[str] | None = None,
    port: int | None = None,
    *,
    disconnect_on_exception: bool = True,
    websocket_handshake_timeout: float | None = 5,
    logger_name: str | AnyLogger | None = None,
    enable_auto_ping: bool = False,
    auto_ping_idle_timeout: float = 20,
    auto_ping_reply_timeout: float = 20,
    auto_ping_strategy: WSAutoPingStrategy = WSAutoPingStrategy.PING_WHEN_IDLE,
    enable_auto_pong: bool = True,
    max_frame_size: int = 10 * 1024 * 1024,
    read_buffer_init_size: int = 16 * 1024,
    use_aiofastnet: bool | None = None,
    coalesce_writes: bool = True,
    path: str | os.PathLike[str] | None = None,
    assemble_messages: bool = False,
    max_message_size: int = 64 * 1024 * 1024,
    max_fragments: int = 65536,
    permessage_deflate: bool | PerMessageDeflate = False,
    max_write_buffer: int | None = None,
    overflow_policy: OverflowPolicy = "close",
    kernel_timestamps: bool = False,
    **kwargs: Any,
) -> WSServer:
    """
    Listen for WebSocket clients: on `host` and `port`, on `path`, or on your socket (``sock``).

    :param ws_listener_factory: the router, called with each `WSUpgradeRequest`, before its upgrade
        fields are validated. It returns a `WSListener` (101), a `WSUpgradeResponseWithListener`, or
        None (404)
    :param host: as in ``loop.create_server``
    :param port: as in ``loop.create_server``; 0 lets the system choose, see ``server.sockets``
    :param disconnect_on_exception: does an exception in `WSListener.on_ws_frame` close the
        connection?
    :param websocket_handshake_timeout: seconds from the accept to the end of the upgrade; None: no
        limit
    :param logger_name: None logs to ``picows.server``, a str to ``picows.<str>``; a Logger is used
        as it is
    :param enable_auto_ping: send each client a ping by `WSListener.send_user_specific_ping` now and
        then, and disconnect one that shows no life
    :param auto_ping_idle_timeout: seconds without a received byte until a ping, or between pings
    :param auto_ping_reply_timeout: seconds for the answer
    :param auto_ping_strategy: a `WSAutoPingStrategy`
    :param enable_auto_pong: answer every PING, without showing it to the listener
    :param max_frame_size: bytes of payload; a larger frame closes the connection (1009) before
        anything is allocated
    :param read_buffer_init_size: bytes that a half-received large frame gets at first, a hint
    :param use_aiofastnet: True uses aiofastnet's transports, False the loop's own; None
        aiofastnet's for TLS, else our own
    :param coalesce_writes: gather what callbacks send while further frames of the same read wait,
        and send it at once; False sends every frame at once
    :param path: a Unix socket to listen on; its file is removed when the server closes
    :param assemble_messages: `WSListener.on_ws_frame` gets whole messages, whose order of
        fragments, reserved bits and UTF-8 were checked (RFC 6455 section 5.4); without it, frames
        as they come
    :param max_message_size: bytes of a message; a larger one closes the connection (1009)
    :param max_fragments: frames of a message; more of them close the connection (1009)
    :param permessage_deflate: compress messages (RFC 7692), if the other side can: True, or a
        `PerMessageDeflate`
    :param max_write_buffer: bytes that may wait for a peer that reads slowly; a data message that
        would make them more is not sent, unless nothing waits. None: no limit
    :param overflow_policy: what becomes of the connection then: "close" disconnects at once, "drop"
        leaves the message out, "raise" raises `WSWriteBufferFullError` as well
    :param kernel_timestamps: have `WSFrame.kernel_time_ns`: Linux, without TLS, on TCP and with
        ``use_aiofastnet=None`` only
    :param kwargs: go to ``loop.create_server`` (``ssl``, ``reuse_port``, ``sock``, ``backlog``,
        ...)

    :raises OSError: the system's own failures, as they are
    :raises TypeError, ValueError: a parameter is wrong; nothing was opened
    """
    check_callable("ws_listener_factory", ws_listener_factory)
    check_kwargs("ws_create_server", kwargs, SERVER_KWARGS, _REFUSED_KWARGS)
    check_server_address(host, port, path, kwargs)
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    if "ssl" in kwargs and kwargs["ssl"].sni_callback is not None and use_aiofastnet is not False:
        # aiofastnet 1.2.0 crashes the process when it comes to calling it.
        if use_aiofastnet:
            raise ValueError("an SSL context with sni_callback needs use_aiofastnet=None or False")
        use_aiofastnet = False
    timeout = check_timeout("websocket_handshake_timeout", websocket_handshake_timeout)
    settings = make_settings(
        is_client_side=False,
        logger_name=logger_name,
        disconnect_on_exception=disconnect_on_exception,
        enable_auto_ping=enable_auto_ping,
        auto_ping_idle_timeout=auto_ping_idle_timeout,
        auto_ping_reply_timeout=auto_ping_reply_timeout,
        auto_ping_strategy=auto_ping_strategy,
        enable_auto_pong=enable_auto_pong,
        coalesce_writes=coalesce_writes,
        use_aiofastnet=use_aiofastnet,
        max_frame_size=max_frame_size,
        read_buffer_init_size=read_buffer_init_size,
        assemble_messages=assemble_messages,
        max_message_size=max_message_size,
        max_fragments=max_fragments,
        permessage_deflate=permessage_deflate,
        max_write_buffer=max_write_buffer,
        overflow_policy=overflow_policy,
        kernel_timestamps=kernel_timestamps,
    )
    if kernel_timestamps:
        sock = kwargs.get("sock")
        check_kernel_timestamps(
            use_aiofastnet,
            {
                "ssl was given": "ssl" in kwargs,
                "path is a Unix socket": path is not None,
                "sock is no TCP socket": sock is not None
                and sock.family not in (socket.AF_INET, socket.AF_INET6),
            },
        )
    if kwargs.get("ssl") is not None:
        # The TLS handshake is part of the way that the deadline is about.
        kwargs.setdefault("ssl_handshake_timeout", MAX_SECONDS if timeout is None else timeout)
        if sys.version_info >= (3, 11) or use_aiofastnet is not False:
            # As long as disconnect() waits; aiofastnet leaves the timer of it behind.
            kwargs.setdefault("ssl_shutdown_timeout", CLOSE_TIMEOUT)
    loop = asyncio.get_running_loop()
    server = WSServer(loop, ws_listener_factory, settings, timeout)
    if path is None:
        server._listening = await create_server(
            loop, use_aiofastnet, server._make_connection, host, port, **kwargs
        )
    else:
        path = os.fspath(path)
        server._listening = await create_unix_server(
            loop, use_aiofastnet, server._make_connection, path, **kwargs
        )
        server._unix_socket = path, os.stat(path).st_ino
    return server


class WSServer:
    """A listening server: what ``asyncio.Server`` has, the same on every loop and Python."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ws_listener_factory: ServerListenerFactory,
        settings: Settings,
        handshake_timeout: float | None,
    ) -> None:
        self._loop = loop
        self._ws_listener_factory = ws_listener_factory
        self._settings = settings
        self._handshake_timeout = handshake_timeout
        self._listening: Any = None
        # Path and inode of the Unix socket that is ours.
        self._unix_socket: tuple[str, int] | None = None
        self._connections: set[Connection] = set()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._serving_forever = False
        self._shut_down = False

    # The interface of asyncio.Server

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets; none once closed."""
        return () if self._closed.done() else tuple(self._listening.sockets)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it was made on."""
        return self._loop

    def is_serving(self) -> bool:
        """Does it accept connections?"""
        return not self._closed.done() and bool(self._listening.is_serving())

    async def start_serving(self) -> None:
        """Accept connections, where ``start_serving=False`` was asked for at first."""
        self._check_open()
        await self._listening.start_serving()

    async def serve_forever(self) -> None:
        """Accept connections until cancelled; then close, and leave the clients alone."""
        self._check_open()
        if self._serving_forever:
            raise RuntimeError("serve_forever() is already running")
        self._serving_forever = True
        try:
            await self.start_serving()
            await self.wait_closed()
            # Closed by somebody else: asyncio.Server ends the same way.
            raise asyncio.CancelledError
        finally:
            self._serving_forever = False
            self.close()

    def close(self) -> None:
        """Stop accepting connections; those that are open live on."""
        if not self._closed.done():
            self._closed.set_result(None)
            # The two refer to each other.
            listening, self._listening = self._listening, None
            listening.close()
            self._remove_unix_socket()

    async def wait_closed(self) -> None:
        """Wait until the listening sockets are closed. Never waits for clients."""
        await asyncio.shield(self._closed)

    def close_clients(self) -> None:
        """Close every connection, sending first what is queued."""
        for connection in list(self._connections):
            connection.disconnect()

    def abort_clients(self) -> None:
        """Close every connection at once."""
        for connection in list(self._connections):
            connection.disconnect(graceful=False)

    async def __aenter__(self) -> WSServer:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        await self.wait_closed()

    # Beyond it

    async def shutdown(self, code: int = 1001, timeout: float | None = 10) -> None:
        """
        End in good order: stop accepting, send each client a CLOSE, wait, then cut them off.

        :param code: the close code (RFC 6455 section 7.4); 1001 is "going away"
        :param timeout: seconds to wait for the clients; None: no limit
        """
        check_close_code(code)
        timeout = check_timeout("timeout", timeout)
        self.close()
        self._shut_down = True
        connections = list(self._connections)
        for connection in connections:
            connection.shut_down(code)
        if connections:
            waiters = [asyncio.ensure_future(c.wait_closed()) for c in connections]
            try:
                await asyncio.wait(waiters, timeout=timeout)
            finally:
                for connection in connections:
                    connection.abort()
                await asyncio.wait(waiters)
        await self.wait_closed()

    # For the connections

    def _make_connection(self) -> Connection:
        upgrade = _ServerUpgrade(self)
        return Connection(self._loop, self._settings, upgrade, self)

    def _connection_made(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._shut_down:
            # It was in its TLS handshake.
            connection.abort()

    def _connection_lost(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def _remove_unix_socket(self) -> None:
        """asyncio does it from 3.13 on, uvloop does not. Not that of a server that took over."""
        if self._unix_socket is not None:
            path, inode = self._unix_socket
            try:
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
            except OSError as exc:
                self._settings.logger.log(PICOWS_DEBUG_LL, "%s is not removed: %s", path, exc)

    def _check_open(self) -> None:
        if self._closed.done():
            raise RuntimeError("the server is closed")


class _ServerUpgrade:
    """Drives a ServerHandshake over a connection, from the accept on."""

    __slots__ = ("_connection", "_deadline", "_handshake", "_refused", "_server", "_timer")

    def __init__(self, server: WSServer) -> None:
        self._server = server
        self._handshake = ServerHandshake(server._settings.deflate)
        self._refused = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None
        if server._handshake_timeout is not None:
            # Made at the accept: the TLS handshake runs against the same clock.
            self._deadline = server._loop.time() + server._handshake_timeout

    def connection_made(self, connection: Connection) -> None:
        self._connection = connection
        if self._deadline is not None:
            self._timer = self._server._loop.call_at(self._deadline, self._too_late)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        handshake = self._handshake
        try:
            request = handshake.receive_data(data)
        except ServerRefusal as exc:
            self._refuse(exc.raw, exc.reason)
            return
        if request is None:
            return
        logger = self._server._settings.logger
        try:
            result = self._server._ws_listener_factory(request)
        except BaseException as exc:
            logger.exception("exception in ws_listener_factory")
            self._refuse(handshake.respond_with_error()[2], "the listener factory raised")
            if isinstance(exc, (KeyboardInterrupt, SystemExit)):
                raise
            return
        if self._connection.is_disconnected:
            # By the factory itself: close_clients() and the like.
            return
        response, listener, raw = handshake.respond(result)
        if listener is not None and not isinstance(listener, WSListener):
            logger.error(
                "ws_listener_factory must return a WSListener, a WSUpgradeResponseWithListener"
                " or None, not %s",
                type(listener).__name__,
            )
            listener = None
            raw = handshake.respond_with_error()[2]
        if listener is None:
            self._refuse(raw, handshake.refusal)
            return
        self._cancel_timer()
        self._connection.underlying_transport.write(raw)
        # From here on the connection belongs to the listener, and this object is let go.
        self._connection.open(
            listener, request, response, handshake.trailing_data, handshake.deflate_agreement
        )

    def eof_received(self) -> None:
        try:
            self._handshake.receive_eof()
        except WSHandshakeError as exc:
            self._server._settings.logger.log(PICOWS_DEBUG_LL, "no upgrade: %s", exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()

    def _refuse(self, raw: bytes, reason: str | None) -> None:
        """Answer, close, hear nothing more; the deadline still holds for who does not read."""
        self._refused = True
        if reason:
            self._server._settings.logger.info("refused an upgrade: %s", reason)
        self._connection.underlying_transport.write(raw)
        self._connection.underlying_transport.close()

    def _too_late(self) -> None:
        self._timer = None
        self._server._settings.logger.info("a client did not finish its upgrade in time")
        self._connection.abort()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
