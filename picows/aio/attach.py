"""The door for connections whose opening handshake somebody else made: `ws_attach`.

Always holds: nothing is read between the protocol that had the connection before and ours, so no
byte is lost; when `ws_attach` raises, the connection below is closed, or nothing was touched.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from picows.aio import backend
from picows.aio.connection import Connection
from picows.aio.logs import AnyLogger
from picows.aio.parameters import OverflowPolicy, check_flag, check_socket, make_settings
from picows.aio.transport import WSAutoPingStrategy, WSListener, WSTransport
from picows.handshake.deflate import DeflateAgreement, PerMessageDeflate

__all__ = ["ws_attach"]


async def ws_attach(
    transport_or_socket: asyncio.Transport | socket.socket,
    listener: WSListener,
    *,
    is_client_side: bool,
    permessage_deflate: PerMessageDeflate | None = None,
    trailing_data: bytes = b"",
    disconnect_on_exception: bool = True,
    logger_name: str | AnyLogger | None = None,
    enable_auto_ping: bool = False,
    auto_ping_idle_timeout: float = 10,
    auto_ping_reply_timeout: float = 10,
    auto_ping_strategy: WSAutoPingStrategy = WSAutoPingStrategy.PING_WHEN_IDLE,
    enable_auto_pong: bool = True,
    max_frame_size: int = 10 * 1024 * 1024,
    read_buffer_init_size: int = 16 * 1024,
    use_aiofastnet: bool | None = None,
    coalesce_writes: bool | None = None,
    assemble_messages: bool = False,
    max_message_size: int = 64 * 1024 * 1024,
    max_fragments: int = 65536,
    max_write_buffer: int | None = None,
    overflow_policy: OverflowPolicy = "close",
) -> WSTransport:
    """
    Take over a connection on which somebody else made the opening handshake.

    :param transport_or_socket: a transport of the running loop, plain or TLS, whose protocol is
        replaced; or a connected stream socket without TLS. It belongs to the connection from then
        on.
    :param listener: a `WSListener`; its ``on_ws_connected`` is called before this returns.
        ``WSTransport.request`` and ``response`` are None.
    :param is_client_side: are we the client, whose frames are masked (RFC 6455 section 5.1)?
    :param permessage_deflate: what was agreed on (RFC 7692): a `PerMessageDeflate` after its
        ``accept`` (server) or ``finalize`` (client), as
        ``picows.sansio.handshake.server_extensions_handshake`` leaves it; None: nothing
    :param trailing_data: bytes that were read behind the handshake
    :param use_aiofastnet: for a socket, as with `ws_connect`; a transport stays what it is
    :param coalesce_writes: None: as `ws_create_server` and `ws_connect` do by default

    The other parameters are those of `ws_connect`.

    :raises OSError: the connection is lost already
    :raises TypeError, ValueError: a parameter is wrong; nothing was touched
    """
    check_flag("is_client_side", is_client_side)
    if not isinstance(listener, WSListener):
        raise TypeError(f"listener must be a WSListener, not {listener!r}")
    if not isinstance(trailing_data, (bytes, bytearray, memoryview)):
        raise TypeError(f"trailing_data must be bytes-like, not {trailing_data!r}")
    if permessage_deflate is not None:
        if not isinstance(permessage_deflate, PerMessageDeflate):
            raise TypeError(
                "permessage_deflate must be a PerMessageDeflate or None,"
                f" not {permessage_deflate!r}"
            )
        if not permessage_deflate.enabled():
            raise ValueError(
                "permessage_deflate must say what was agreed on: call its accept() or finalize()"
                f" first ({permessage_deflate!r})"
            )
    is_transport = callable(getattr(transport_or_socket, "set_protocol", None))
    if is_transport:
        if use_aiofastnet is not None:
            raise ValueError("use_aiofastnet is for a socket, but a transport was given")
        use_aiofastnet = backend.is_aiofastnet(transport_or_socket)
    elif not isinstance(transport_or_socket, socket.socket):
        raise TypeError(
            "transport_or_socket must be an asyncio.Transport or a socket.socket,"
            f" not {transport_or_socket!r}"
        )
    else:
        check_socket("transport_or_socket", transport_or_socket)
    settings = make_settings(
        is_client_side=is_client_side,
        logger_name=logger_name,
        disconnect_on_exception=disconnect_on_exception,
        enable_auto_ping=enable_auto_ping,
        auto_ping_idle_timeout=auto_ping_idle_timeout,
        auto_ping_reply_timeout=auto_ping_reply_timeout,
        auto_ping_strategy=auto_ping_strategy,
        enable_auto_pong=enable_auto_pong,
        coalesce_writes=not is_client_side if coalesce_writes is None else coalesce_writes,
        use_aiofastnet=use_aiofastnet,
        max_frame_size=max_frame_size,
        read_buffer_init_size=read_buffer_init_size,
        assemble_messages=assemble_messages,
        max_message_size=max_message_size,
        max_fragments=max_fragments,
        permessage_deflate=permessage_deflate,
        max_write_buffer=max_write_buffer,
        overflow_policy=overflow_policy,
    )
    agreement = None if permessage_deflate is None else permessage_deflate.agreement
    attachment = _Attachment(listener, bytes(trailing_data), agreement)
    loop = asyncio.get_running_loop()
    connection = Connection(loop, settings, attachment, None)
    if isinstance(transport_or_socket, socket.socket):
        # Says what is wrong with one that is not connected.
        transport_or_socket.getpeername()
        transport_or_socket.setblocking(False)
        try:
            await backend.create_connection(
                loop, use_aiofastnet, connection, sock=transport_or_socket
            )
            attachment.open()
        except BaseException:
            connection.abort()
            # A transport that was not handed out yet may be closed without connection_lost.
            connection.forget()
            raise
        return connection
    transport: Any = transport_or_socket
    if transport.is_closing():
        raise ConnectionAbortedError(f"the connection is closing already: {transport!r}")
    transport.set_protocol(connection)
    connection.connection_made(transport)
    # The protocol before may have paused it. Nothing is read before `open`: there is no `await`.
    transport.resume_reading()
    attachment.open()
    if not transport.is_closing():
        _, high = transport.get_write_buffer_limits()
        if transport.get_write_buffer_size() > high:
            # It told the protocol before us.
            connection.pause_writing()
    return connection


class _Attachment:
    """
    What a connection has for an upgrade, from connection_made until `open` a moment later: with the
    first bytes, or when `ws_attach` has the transport.
    """

    def __init__(
        self, listener: WSListener, trailing_data: bytes, agreement: DeflateAgreement | None
    ) -> None:
        self._listener = listener
        self._trailing_data = trailing_data
        self._agreement = agreement
        self._connection: Connection | None = None
        self._is_open = False
        self._lost_by: Exception | None = None

    def open(self) -> None:
        if self._is_open:
            return
        if self._connection is None:
            raise self._lost_by or ConnectionResetError("the connection was lost already")
        self._is_open = True
        self._connection.open(self._listener, None, None, self._trailing_data, self._agreement)

    def connection_made(self, connection: Connection) -> None:
        self._connection = connection

    def data_received(self, data: bytes) -> None:
        self._trailing_data += data
        self.open()

    def eof_received(self) -> None:
        self.open()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection = None
        self._lost_by = exc
