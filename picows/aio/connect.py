"""The client's door: `ws_connect`.

Always holds: whatever ends the attempt (an error, the deadline, a cancellation), the socket is
closed and no task or timer is left when `ws_connect` raises.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import ssl
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from picows.aio.backend import create_connection, start_tls
from picows.aio.connection import Connection, Settings
from picows.aio.logs import PICOWS_DEBUG_LL, AnyLogger
from picows.aio.parameters import check_callable, check_timeout, make_settings
from picows.aio.transport import WSListener, WSTransport
from picows.errors import WSHandshakeError
from picows.handshake.client import ClientHandshake
from picows.handshake.http11 import WSUpgradeRequest, WSUpgradeResponse
from picows.urls import WSParsedURL, parse_url

if sys.version_info >= (3, 11):
    from asyncio import timeout as deadline
else:
    from async_timeout import timeout as deadline

__all__ = ["ws_connect"]

ClientListenerFactory = (
    Callable[[], WSListener] | Callable[[WSUpgradeRequest, WSUpgradeResponse], WSListener]
)
ExtraHeaders = Mapping[str, str] | Iterable[tuple[str, str]]

# Seconds; loops do not take infinity.
_NEVER = 365 * 86400.0

_REFUSED_KWARGS = {
    "ssl": "use ssl_context",
    "sock": "the connection is made from the URL",
    "all_errors": "a failed connection raises as loop.create_connection does by default",
    "host": "it is part of the URL",
    "port": "it is part of the URL",
    "protocol_factory": "use ws_listener_factory",
}


async def ws_connect(
    ws_listener_factory: ClientListenerFactory,
    url: str,
    *,
    ssl_context: ssl.SSLContext | None = None,
    disconnect_on_exception: bool = True,
    websocket_handshake_timeout: float | None = 5,
    logger_name: str | AnyLogger | None = None,
    enable_auto_pong: bool = True,
    max_frame_size: int = 10 * 1024 * 1024,
    extra_headers: ExtraHeaders | None = None,
    read_buffer_init_size: int = 16 * 1024,
    use_aiofastnet: bool | None = None,
    coalesce_writes: bool = False,
    **kwargs: Any,
) -> tuple[WSTransport, WSListener]:
    """
    Open a WebSocket to `url` and return its transport and listener.

    :param ws_listener_factory: makes the `WSListener`; called with no argument or, if it requires
        two, with the `WSUpgradeRequest` and the `WSUpgradeResponse`
    :param url: ``ws://`` or ``wss://``; user and password in it are sent as Basic ``Authorization``
    :param ssl_context: for ``wss``; by default ``ssl.create_default_context()``
    :param disconnect_on_exception: does an exception in `WSListener.on_ws_frame` close the
        connection?
    :param websocket_handshake_timeout: seconds for the whole way (name look-up, TCP, TLS, upgrade);
        None: no limit
    :param logger_name: None logs to ``picows.client``, a str to ``picows.<str>``; a Logger is used
        as it is
    :param enable_auto_pong: answer every PING, without showing it to the listener
    :param max_frame_size: bytes of payload; a larger frame closes the connection (1009) before
        anything is allocated
    :param extra_headers: header fields of the request; ``Host`` replaces the generated one
    :param read_buffer_init_size: bytes that a half-received large frame gets at first, a hint
    :param use_aiofastnet: None and True use aiofastnet's transports, False the loop's own
    :param coalesce_writes: gather what callbacks send while further frames of the same read wait,
        and send it at once; by default every frame leaves at once
    :param kwargs: go to ``loop.create_connection`` (``local_addr``, ``happy_eyeballs_delay``, ...)

    :raises WSInvalidURL: `url` is none of ours
    :raises WSHandshakeError: the server did not upgrade; ``.response``, ``.raw_header`` and
        ``.raw_body`` say more
    :raises asyncio.TimeoutError: `websocket_handshake_timeout` has passed
    :raises OSError, ssl.SSLError: the system's own failures, as they are
    :raises TypeError, ValueError: a parameter is wrong; nothing was opened
    """
    call_factory = _factory_caller(ws_listener_factory)
    parsed_url = _parse_url(url)
    if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext or None, not {ssl_context!r}")
    timeout = check_timeout("websocket_handshake_timeout", websocket_handshake_timeout)
    settings = make_settings(
        is_client_side=True,
        logger_name=logger_name,
        disconnect_on_exception=disconnect_on_exception,
        enable_auto_pong=enable_auto_pong,
        coalesce_writes=coalesce_writes,
        use_aiofastnet=use_aiofastnet,
        max_frame_size=max_frame_size,
        read_buffer_init_size=read_buffer_init_size,
    )
    for name, why in _REFUSED_KWARGS.items():
        if name in kwargs:
            raise TypeError(f"ws_connect() takes no {name}=: {why}")
    handshake = ClientHandshake(parsed_url, extra_headers)

    loop = asyncio.get_running_loop()
    upgrade = _ClientUpgrade(handshake, call_factory, settings, loop)
    connection = Connection(loop, settings, upgrade, None)
    connect = _connect_tls if parsed_url.is_secure else _connect_tcp
    connected = False
    try:
        async with deadline(timeout):
            await connect(
                loop, use_aiofastnet is not False, connection, parsed_url, ssl_context, kwargs
            )
            connected = True
            listener = await upgrade.wait()
    except BaseException as exc:
        connection.abort()
        if connected:
            await connection.wait_closed()
        else:
            # uvloop closes a transport that it did not hand out yet without connection_lost.
            connection.forget()
        if isinstance(exc, asyncio.TimeoutError):
            # Silence is a TimeoutError; a refusal whose body is still on its way says more.
            refusal = handshake.give_up()
            if refusal is not None:
                raise refusal from None
        raise
    return connection, listener


async def _connect_tcp(
    loop: asyncio.AbstractEventLoop,
    use_aiofastnet: bool,
    connection: Connection,
    url: WSParsedURL,
    ssl_context: ssl.SSLContext | None,
    kwargs: dict[str, Any],
) -> None:
    await create_connection(loop, use_aiofastnet, lambda: connection, url.host, url.port, **kwargs)


async def _connect_tls(
    loop: asyncio.AbstractEventLoop,
    use_aiofastnet: bool,
    connection: Connection,
    url: WSParsedURL,
    ssl_context: ssl.SSLContext | None,
    kwargs: dict[str, Any],
) -> None:
    """TCP, then TLS on it. In two steps, because of the first aiofastnet leaves a timer when the
    whole is cancelled in the TLS handshake.
    """
    tls_kwargs: dict[str, Any] = {"server_hostname": url.host}
    tcp_kwargs: dict[str, Any] = {}
    for name, value in kwargs.items():
        is_for_tls = name == "server_hostname" or name.startswith("ssl_")
        (tls_kwargs if is_for_tls else tcp_kwargs)[name] = value
    # The deadline is ws_connect's; the loop's own, of 60 seconds, must not be shorter.
    tls_kwargs.setdefault("ssl_handshake_timeout", _NEVER)
    ssl_context = ssl_context or _default_ssl_context()
    if sys.version_info < (3, 11) and not use_aiofastnet:
        # In one step: asyncio's start_tls there, cancelled, leaves a transport that calls itself
        # unclosed.
        kwargs = {**tcp_kwargs, **tls_kwargs, "ssl": ssl_context}
        await _connect_tcp(loop, use_aiofastnet, connection, url, ssl_context, kwargs)
        return
    transport, _ = await create_connection(
        loop, use_aiofastnet, asyncio.Protocol, url.host, url.port, **tcp_kwargs
    )
    try:
        secured = await start_tls(
            loop,
            use_aiofastnet,
            transport,
            connection,
            ssl_context,
            **tls_kwargs,
        )
    except BaseException:
        cast(asyncio.Transport, transport).abort()
        raise
    connection.connection_made(secured)


def _parse_url(url: object) -> WSParsedURL:
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    return parse_url(url)


@functools.cache
def _default_ssl_context() -> ssl.SSLContext:
    """Loading the trusted certificates takes milliseconds, so they are loaded once."""
    return ssl.create_default_context()


def _factory_caller(
    factory: Any,
) -> Callable[[WSUpgradeRequest, WSUpgradeResponse], WSListener]:
    """
    Decide from the signature, never by trying: a TypeError from inside the factory is the caller's
    to see.
    """
    check_callable("ws_listener_factory", factory)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        # A class without a signature, such as a cdef class: made with no argument.
        return lambda request, response: factory()
    required = [
        p
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if not required:
        return lambda request, response: factory()
    if len(required) == 2 and all(p.kind is not p.KEYWORD_ONLY for p in required):
        return lambda request, response: factory(request, response)
    raise TypeError(
        "ws_listener_factory must take no argument or (request, response),"
        f" not {inspect.signature(factory)}"
    )


class _ClientUpgrade:
    """Drives a ClientHandshake over a connection, until there is a listener or an error."""

    def __init__(
        self,
        handshake: ClientHandshake,
        call_factory: Callable[[WSUpgradeRequest, WSUpgradeResponse], WSListener],
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._done: asyncio.Future[None] = loop.create_future()
        self._listener: WSListener
        self._error: BaseException | None = None
        self._handshake = handshake
        self._call_factory = call_factory
        self._logger = settings.logger
        self._connection: Connection

    async def wait(self) -> WSListener:
        await self._done
        error, self._error = self._error, None
        if error is None:
            return self._listener
        try:
            # Not through the future, which refuses StopIteration.
            raise error
        finally:
            # The traceback refers to this frame, which must not refer back.
            del error

    def connection_made(self, connection: Connection) -> None:
        self._connection = connection
        if self._logger.isEnabledFor(PICOWS_DEBUG_LL):
            self._logger.log(
                PICOWS_DEBUG_LL, "upgrade request:\n%s", self._handshake.redacted_request()
            )
        connection.underlying_transport.write(self._handshake.request_bytes())

    def data_received(self, data: bytes) -> None:
        if self._done.done():
            return
        try:
            response = self._handshake.receive_data(data)
            if response is None:
                return
            request = self._handshake.request
            self._listener = self._call_factory(request, response)
            # After this line the connection belongs to the listener.
            self._connection.open(self._listener, request, response, self._handshake.trailing_data)
        except BaseException as exc:
            self._fail(exc)
            return
        if not self._done.done():
            self._done.set_result(None)

    def eof_received(self) -> None:
        try:
            self._handshake.receive_eof()
        except WSHandshakeError as exc:
            self._fail(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.eof_received()
        else:
            self._fail(self._handshake.give_up() or exc)

    def _fail(self, exc: BaseException) -> None:
        if not self._done.done():
            self._error = exc
            self._done.set_result(None)
